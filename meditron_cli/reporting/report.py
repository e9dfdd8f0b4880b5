"""Results of a run, collected from manifests, done markers, metrics and evaluations."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jobs.contract import done_markers, specs
from jobs.contract.files import read_small
from jobs.contract.json_fields import from_fields
from jobs.contract.metrics_log import CountedSteps, ValidationLine
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import PRETRAIN, ModelSpec
from jobs.data import corpora
from meditron_cli.errors import ConfigError
from meditron_cli.reporting import (
    comparisons,
    finetuned,
    funnel,
    judged,
    scores,
    speed,
    token_statistics,
)
from meditron_cli.reporting.health import alarms, usage
from meditron_cli.reporting.published import FAMILIES
from meditron_cli.reporting.reasons.task_errors import TaskFailure
from meditron_cli.reporting.run_times import RunTimes
from meditron_cli.reporting.scores import Score
from meditron_cli.runs import request
from meditron_cli.runs.record import RunRecord
from meditron_cli.runs.views import RunView


@dataclass(frozen=True)
class RunReport:
    """A run with the content of ``report --json``."""

    run: RunDir
    record: RunRecord
    view: RunView
    times: RunTimes
    results: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.run.name


PLACES = (
    "corpus",
    "tokens",
    "checkpoints",
    "tensorboard",
    "finetune",
    "verification",
    "evaluations",
    "stages",
    "code",
)


def gather(
    run: RunDir,
    record: RunRecord,
    view: RunView,
    times: RunTimes,
    errors: Iterable[TaskFailure],
    other: RunDir | None = None,
) -> dict[str, Any]:
    """Return the content of ``report --json``; None for what does not exist yet.

    Args:
        other: a run whose scores are compared with this one's.
    """
    found, billions = scores.of_run(run), size(run, view)
    families = published_families(run, record)
    return {
        "run": run.name,
        "dir": str(run.root),
        "state": view.state,
        "cluster": record.cluster,
        "stages": {name: stage.to_json() for name, stage in view.stages.items()},
        "corpus": corpus(run),
        "pretrain": {
            "weights": weights(run, view),
            "origin": origin(run),
            "corpora": corpora_rows(run, view, times.steps),
            **pretrain(times.steps),
        },
        "finetuned": finetuned.models(run, view, times),
        "spikes": [
            {"step": line.step, "observed": line.problem, "action": line.action}
            for line in times.spikes
        ],
        "verifications": verifications(run),
        "evaluations": evaluations(run, found),
        "published": comparisons.beside(found, billions, families),
        "paired": comparisons.pairs(found, scores.of_run(other) if other else ()),
        "subjects": comparisons.by_subject(found, billions, families),
        "contamination": comparisons.contamination(run, found),
        "judged": judged.of_run(run),
        **times.to_json(),
        "usage": usage.of_run(run, record, times).to_json(),
        "alarms": alarms.to_json(record.history),
        "goodput": times.goodput,
        "errors": [
            {"stage": error.stage, "task": error.index, "message": error.message}
            for error in errors
        ],
        "paths": {name: str(run.path(name)) for name in PLACES if run.path(name).exists()},
    }


def published_families(run: RunDir, record: RunRecord) -> Sequence[str]:
    """Return the published models that scores stand beside: the preset where ``run.json`` is
    damaged.
    """
    with contextlib.suppress(ConfigError):
        settings = request.last_request(run, record.history)["experiment"].get("evaluate", {})
        named: Sequence[str] = settings.get("published", FAMILIES)
        return named
    return FAMILIES


def corpus(run: RunDir) -> dict[str, Any]:
    """Return the number of curated documents and of tokens, from the done markers."""
    curated = summaries(run, "curate")
    tokenized = summaries(run, "tokenize")
    tokenization = token_statistics.tokenization(tokenized)
    return {
        "documents": total(curated, "documents"),
        "tokens": total(tokenized, "tokens"),
        "tokenization": tokenization,
        "curate": summed(curated),
        "sources": funnel.with_tokens(funnel.of_run(run), tokenization),
    }


def summaries(run: RunDir, stage: str) -> list[dict[str, Any]]:
    """Return the summaries in the done markers of a stage, by task index."""
    folder = run.stage(stage) / "done"
    markers = [done_markers.read(path) for path in sorted(folder.glob("[0-9]*.json"))]
    return [marker.summary for marker in markers if marker is not None]


def summed(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the counts of all tasks of a stage together; None where none has finished."""
    if not summaries:
        return None
    return {
        name: total(summaries, name) if isinstance(value, int) else value
        for name, value in summaries[0].items()
    }


def total(summaries: Iterable[Mapping[str, Any]], key: str) -> int | None:
    """Return the sum of a count over tasks; None when no task has it."""
    counts = [item[key] for item in summaries if isinstance(item.get(key), int)]
    return sum(counts) if counts else None


def weights(run: RunDir, view: RunView) -> str | None:
    """Return the weights that training starts from, as the experiment named them: ``random``, a
    folder, or a name on the hub; None for a run that neither trains nor converts.
    """
    stage = next((name for name in (PRETRAIN, "convert") if name in view.stages), None)
    task = specs.read_task(run, stage, 0) if stage else None
    return getattr(task.spec, "weights", None) or None if task else None


def corpora_rows(run: RunDir, view: RunView, counted: CountedSteps) -> list[dict[str, Any]]:
    """Return the corpora of a run's training, their tokens, and how often it has read them so far;
    none while their tokens are not known.
    """
    task = specs.read_task(run, PRETRAIN, 0) if PRETRAIN in view.stages else None
    spec = task.pretraining if task else None
    found = corpora.sizes(run, spec) if spec else None
    if spec is None or not found or not counted.trained:
        return []
    return corpora.rows(spec, found, counted.last)


def origin(run: RunDir) -> dict[str, Any] | None:
    """Return where the base model was converted from: folder, commit of the hub where known, and
    the SHA-256 of its weights; None for a run that has converted none.
    """
    converted = summaries(run, "convert")
    return converted[0].get("origin") if converted else None


def pretrain(counted: CountedSteps) -> dict[str, Any]:
    """Return steps, first and last losses and speed, from the metric lines that count; ``speed``
    is None before the first period.

    Redone steps count once, lost steps without a repetition not at all. Losses are in nats per
    token.
    """
    trained, validated = counted.trained, counted.validated
    measured = speed.overall(counted)
    seconds = sum(line.seconds for line in trained)
    tokens = sum(line.tokens_per_s * line.seconds for line in trained)
    return {
        "steps": counted.last or None,
        "skipped": [{"step": line.step, "reason": line.reason} for line in counted.skipped],
        "tokens": trained_tokens(counted) if trained else None,
        "loss_first": trained[0].loss if trained else None,
        "loss_last": trained[-1].loss if trained else None,
        "validation_first": validated[0].loss if validated else None,
        "validation_last": validated[-1].loss if validated else None,
        "validation_corpora": validation_corpora(validated),
        "tokens_per_s": tokens / seconds if seconds else None,
        "step_seconds": seconds or None,
        "speed": measured.to_json() if measured else None,
    }


def trained_tokens(counted: CountedSteps) -> int:
    """Return the tokens of the steps that trained, of which there is one."""
    newest = counted.trained[-1]
    skipped = sum(line.step < newest.step for line in counted.skipped)
    return newest.tokens - newest.tokens // newest.step * skipped


def validation_corpora(validated: Sequence[ValidationLine]) -> list[dict[str, Any]]:
    """Return loss (nats per token) and perplexity of each corpus in the first and in the last
    validation: a loss that rises on documents of an earlier training shows what is forgotten.
    """
    if not validated:
        return []
    first, last = validated[0].corpora, validated[-1].corpora
    return [
        {"name": name, "first": first.get(name), "last": last.get(name)}
        for name in dict.fromkeys((*first, *last))
    ]


def evaluations(run: RunDir, found: Iterable[Score]) -> list[dict[str, Any]]:
    """Return results by benchmark, model, checkpoint and mode."""
    return [
        {
            **score.results,
            "checkpoint_name": score.checkpoint,
            "protocol": score.protocol,
            "compared": finetuned.is_compared(run, score),
        }
        for score in found
    ]


def size(run: RunDir, view: RunView) -> float | None:
    """Return the parameters of a run's model in units of 10^9; None without one."""
    for stage in view.stages:
        task = specs.read_task(run, stage, 0)
        model = getattr(task.spec, "model", None) if task else None
        if isinstance(model, ModelSpec):
            return model.parameters / 1e9
    return None


@dataclass(frozen=True)
class Verification:
    """The fields of a comparison of weights with a checkpoint that reports show."""

    step: int
    tolerance: float
    logits: dict[str, Any]
    generation: dict[str, Any] | None
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Logits:
    """The differences between the logits of both sides."""

    max: float
    mean: float
    agreement: float


@dataclass(frozen=True)
class Generation:
    """The continuations of prompts by both sides."""

    rates: dict[str, Any] | None


@dataclass(frozen=True)
class Rates:
    """The rates of one side's continuations."""

    repetition: float
    prompt_echo: float
    early_eos: float


def verifications(run: RunDir) -> list[dict[str, Any]]:
    """Return the results of comparing weights with checkpoints, by step and stage, without damaged
    ones.
    """
    found = []
    for path in run.path("verification").glob("*-*.json"):
        result = read_small(path)
        try:
            whole = from_fields(Verification, result)
            logits = from_fields(Logits, whole.logits)
            generation = from_fields(Generation, whole.generation or {"rates": None})
            for rates in (generation.rates or {}).values():
                from_fields(Rates, rates if isinstance(rates, dict) else {})
        except ValueError:
            continue
        found.append(
            {
                "stage": path.stem.rpartition("-")[0],
                "step": whole.step,
                **asdict(logits),
                "tolerance": whole.tolerance,
                "rates": generation.rates,
                "problems": list(whole.problems),
                "path": str(path),
            }
        )
    return sorted(found, key=lambda item: (item["step"], item["stage"]))
