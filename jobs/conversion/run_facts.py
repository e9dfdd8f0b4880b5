"""Facts of a run for the card of an exported model, from the run's own records alone.

A record that is missing or damaged gives None, which the card shows as not recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from jobs.contract import done_markers, specs
from jobs.contract.attempt_history import RunHistory, TaskHistory
from jobs.contract.events import EventLog
from jobs.contract.files import read_small
from jobs.contract.metrics_log import MetricsLog, counted_steps
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import (
    FINETUNE,
    OWN_RUN,
    PREPARE,
    PRETRAIN,
    CurateSpec,
    FinetuneSpec,
    PrepareSpec,
    PretrainSpec,
    TrainingSpec,
)
from jobs.contract.units import JOULES_PER_KWH, Footprint
from jobs.data import corpora

AVERAGED_STEPS = 100
"""Newest training steps whose mean loss the card gives; single steps vary."""


@dataclass(frozen=True)
class Corpus:
    """The training data of a run."""

    sources: tuple[str, ...]
    """Names of files or indexed datasets, without their folders."""
    documents: int | None = None
    """Of the training split."""
    validation_documents: int | None = None
    tokens: int | None = None
    """Of the training split."""


@dataclass(frozen=True)
class Losses:
    """Losses of a training up to a step, in nats per token."""

    training: float | None
    """Mean of the last ``AVERAGED_STEPS`` steps."""
    validation: float | None
    """At the newest validation."""
    validation_step: int | None
    first_validation: float | None
    first_validation_step: int | None


@dataclass(frozen=True)
class Score:
    """The result of one evaluation."""

    benchmark: str
    step: int
    shots: int
    questions: int
    accuracy: float
    interval: tuple[float, float]
    """95 %."""
    baseline: float
    """Accuracy of guessing, or of always giving the commonest answer, whichever is larger."""


@dataclass(frozen=True)
class Cost:
    """The GPUs' time and energy of a training so far, interrupted attempts included."""

    footprint: Footprint
    source: str
    """Of the energy: ``counter``, or ``power`` where it is power times time; empty without."""
    pue: float | None
    currency: str = ""
    unmeasured: int = 0
    """Attempts of which the energy is not known."""


@dataclass(frozen=True)
class RunFacts:
    """The records of a run that describe a model of it."""

    name: str
    size: str | None
    commit: str | None
    """Of meditron's code."""
    has_changes: bool | None
    """Whether that code had uncommitted changes."""
    versions: Mapping[str, str]
    training: TrainingSpec | None
    corpus: Corpus | None
    losses: Losses
    scores: tuple[Score, ...]
    cost: Cost | None = None
    """None without GPUs."""


def gather(run: RunDir, step: int, model: str = "") -> RunFacts:
    """Return the facts of a run about its model of a step, of a finetuned model by its name."""
    record = read_small(run.record)
    code = record.get("code") or {}
    stage, index, training = training_of(run, model)
    return RunFacts(
        name=run.name,
        size=record.get("size"),
        commit=code.get("commit"),
        has_changes=code.get("dirty"),
        versions=record.get("versions") or {},
        training=training,
        corpus=prepared(run, model)
        if model
        else corpus(run, training if isinstance(training, PretrainSpec) else None),
        losses=losses(run, stage, index, step),
        scores=tuple(score for score in scores(run, model) if score.step in (0, step)),
        cost=cost(run, stage, index, record.get("cluster") or {}),
    )


def cost(run: RunDir, stage: str, index: int, cluster: Mapping[str, Any]) -> Cost | None:
    """Return the cost of a training, of the attempts that have ended; None without GPUs."""
    task = specs.read_task(run, stage, index)
    if task is None or not task.gpus_per_node:
        return None
    history = RunHistory.of(EventLog(run).read_new()).task(stage, index)
    exits = history.exits
    seconds = allocated_seconds(history)
    energies = [ending.energy_j for ending in exits if ending.energy_j is not None]
    kwh = sum(energies) / JOULES_PER_KWH if energies else None
    sources = {ending.energy_source for ending in exits if ending.energy_j is not None}
    accounting = cluster.get("accounting") or {}
    return Cost(
        Footprint.of(seconds / 3600 * task.nodes * task.gpus_per_node, kwh, accounting),
        "" if kwh is None else "counter" if sources == {"counter"} else "power",
        accounting.get("pue"),
        accounting.get("currency") or "",
        len(exits) - len(energies),
    )


def allocated_seconds(history: TaskHistory) -> float:
    """Return the seconds of the task's allocations, each from its first start to its last end: the
    GPUs are held between two attempts in one, too.
    """
    times: dict[tuple[str, int], list[float]] = {}
    for ending in history.exits:
        start = history.started.get(ending.attempt)
        allocation = ending.job_id, start.restarts if start else 0
        times.setdefault(allocation, []).extend((ending.started, ending.ended))
    return sum(max(moments) - min(moments) for moments in times.values())


def training_of(run: RunDir, model: str) -> tuple[str, int, TrainingSpec | None]:
    """Return stage, index and settings of the training that made a model."""
    if not model:
        task = specs.read_task(run, PRETRAIN, 0)
        return PRETRAIN, 0, task.training if task else None
    for index in specs.indices(run, FINETUNE):
        task = specs.read_task(run, FINETUNE, index)
        if task and isinstance(task.spec, FinetuneSpec) and task.spec.name == model:
            return FINETUNE, index, task.spec
    return FINETUNE, 0, None


def prepared(run: RunDir, model: str) -> Corpus | None:
    """Return the rows that a model was finetuned on."""
    for index in specs.indices(run, PREPARE):
        task = specs.read_task(run, PREPARE, index)
        if task and isinstance(task.spec, PrepareSpec) and task.spec.name == model:
            counts = summary_of(run, PREPARE, index)
            return Corpus(
                sources=tuple(PurePath(file.path).name for file in task.spec.data),
                documents=counts.get("train_rows"),
                validation_documents=counts.get("validation_rows"),
                tokens=counts.get("tokens"),
            )
    return None


def corpus(run: RunDir, training: PretrainSpec | None) -> Corpus | None:
    """Return the training data: the run's own documents, and the runs and indexed datasets that its
    training names.
    """
    named = [path for item in training.corpora for path in item.data] if training else [OWN_RUN]
    elsewhere = tuple(PurePath(path).name for path in named if path != OWN_RUN)
    sizes = corpora.sizes(run, training) if training else None
    tokens = sum(size.tokens for size in sizes.values()) if sizes else None
    if OWN_RUN not in named:
        return Corpus(elsewhere, tokens=tokens)
    task = specs.read_task(run, "curate", 0)
    if task is None or not isinstance(task.spec, CurateSpec):
        return None
    parts = [summary_of(run, "curate", index) for index in range(task.spec.parts)]
    train, validation = (
        sum(part[split] for part in parts) if all(split in part for part in parts) else None
        for split in ("train", "validation")
    )
    sources = task.spec.corpus.sources
    return Corpus(
        sources=(*(PurePath(source.path).name for source in sources), *elsewhere),
        documents=None if elsewhere else train,
        validation_documents=None if elsewhere else validation,
        tokens=tokens,
    )


def summary_of(run: RunDir, stage: str, index: int) -> Mapping[str, Any]:
    """Return the counts that a finished task recorded; empty where it has not finished."""
    marker = done_markers.read(run.done(stage, index))
    return marker.summary if marker else {}


def losses(run: RunDir, stage: str, index: int, step: int) -> Losses:
    """Return the losses of a training up to a step."""
    counted = counted_steps(MetricsLog(run, stage, index).read_new())
    trained = [line.loss for line in counted.trained if line.step <= step][-AVERAGED_STEPS:]
    validated = [line for line in counted.validated if line.step <= step]
    return Losses(
        training=sum(trained) / len(trained) if trained else None,
        validation=validated[-1].loss if validated else None,
        validation_step=validated[-1].step if validated else None,
        first_validation=validated[0].loss if validated else None,
        first_validation_step=validated[0].step if validated else None,
    )


def scores(run: RunDir, model: str = "") -> Iterator[Score]:
    """Yield the results of the run's evaluations of pretraining, or of a finetuned model, by
    benchmark and step.
    """
    results = map(read_small, done_markers.current_results(run))
    found = [score(one) for one in results if str(one.get("model") or "") == model]
    unique = {(item.benchmark, item.step, item.shots): item for item in found if item}
    yield from (unique[key] for key in sorted(unique))


def score(results: Mapping[str, Any]) -> Score | None:
    """Return the score by likelihood, with our prompts; None of another score, and where the record
    is incomplete.
    """
    if results.get("mode", "top-token") != "top-token":
        return None
    try:
        low, high = results["ci95"]
        return Score(
            benchmark=str(results["benchmark"]),
            step=int(results["checkpoint_step"]),
            shots=int(results["shots"]),
            questions=int(results["n"]),
            accuracy=float(results["accuracy"]),
            interval=(float(low), float(high)),
            baseline=max(float(results["chance"]), float(results.get("majority", 0))),
        )
    except (LookupError, TypeError, ValueError):
        return None
