"""The finetuned models of a run: their rows, progress and losses, for ``status`` and ``report``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jobs.contract import done_markers, progress_record, specs
from jobs.contract.files import read_small
from jobs.contract.metrics_log import counted_steps
from jobs.contract.preparations import left_out
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import FINETUNE, PREPARE, FinetuneSpec, PrepareSpec
from meditron_cli.reporting import speed
from meditron_cli.reporting.run_times import RunTimes
from meditron_cli.reporting.scores import Score
from meditron_cli.reporting.tables import clock
from meditron_cli.runs.state import eta
from meditron_cli.runs.views import RunView

COLUMNS = ("model", "state", "steps", "rows", "epochs", "loss", "validation", "goodput", "from")


def models(run: RunDir, view: RunView, times: RunTimes) -> list[dict[str, Any]]:
    """Return the finetuned models of a run, in their order; ``epochs`` are those of all steps,
    losses in nats per scored token, None is what does not exist yet.
    """
    stage = view.stages.get(FINETUNE)
    if stage is None:
        return []
    counts = dict(prepared(run))
    found = []
    for index, state in sorted(stage.task_states.items()):
        task = specs.read_task(run, FINETUNE, index)
        if task is None or not isinstance(task.spec, FinetuneSpec):
            continue
        spec = task.spec
        steps = times.trainings.get((FINETUNE, index)) or counted_steps(())
        trained, validated = steps.trained, steps.validated
        rows = (counts.get(spec.name) or {}).get("train_rows")
        measured = speed.newest(steps)
        progress = progress_record.read(run, FINETUNE, index) if state == "running" else None
        found.append(
            {
                "model": spec.name,
                "state": state,
                "step": steps.last,
                "target_step": spec.train_steps,
                "epochs": spec.train_steps * spec.global_batch_size / rows if rows else None,
                "eta_s": eta(progress, progress.time, measured.tokens_per_s if measured else None)
                if progress
                else None,
                "goodput": times.goodput_of(FINETUNE, index),
                "from": spec.start.text,
                "loss_first": trained[0].loss if trained else None,
                "loss_last": trained[-1].loss if trained else None,
                "validation_first": validated[0].loss if validated else None,
                "validation_last": validated[-1].loss if validated else None,
                "prepared": counts.get(spec.name),
            }
        )
    return found


def prepared(run: RunDir) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the name of each model whose rows are there, with their counts."""
    for index in specs.indices(run, PREPARE):
        task = specs.read_task(run, PREPARE, index)
        marker = done_markers.read(run.done(PREPARE, index))
        if marker and task and isinstance(task.spec, PrepareSpec):
            yield task.spec.name, marker.summary


def rows(found: Sequence[Mapping[str, Any]]) -> list[tuple[object, ...]]:
    """Return a row of the table per model."""
    return [
        (
            model["model"],
            state_text(model),
            f"{model['step']}/{model['target_step']}",
            (model["prepared"] or {}).get("train_rows"),
            None if model["epochs"] is None else f"{model['epochs']:.3g}",
            change(model["loss_first"], model["loss_last"]),
            change(model["validation_first"], model["validation_last"]),
            None if model["goodput"] is None else f"{model['goodput']:.0%}",
            model["from"],
        )
        for model in found
    ]


def state_text(model: Mapping[str, Any]) -> str:
    """Return the state of a model's training, with the time that is left."""
    left = clock(model["eta_s"])
    return f"{model['state']}, {left} left" if left else str(model["state"])


def change(first: float | None, last: float | None) -> str | None:
    """Return ``1.234 to 0.567``; None before there is one."""
    return None if first is None or last is None else f"{first:#.4g} to {last:#.4g}"


def notes(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence per preparation with another number of items than expected, or that left
    some out.
    """
    sentences = []
    for model in found:
        if counts := model["prepared"]:
            sentences += [counts["difference"]] if counts.get("difference") else []
            sentences += [f"{model['model']}: {phrase}" for phrase in left_out(counts)]
    return sentences


def is_compared(run: RunDir, score: Score) -> bool:
    """Return whether the rows that a score's model was finetuned on were compared with its
    questions: false for a benchmark that was named, or edited, after they were made. True for a
    model without rows in this run, as for weights of pretraining.
    """
    record = read_small(run.path(f"finetune/{score.model}/rows/manifest.json"))
    if not score.model or not record:
        return True
    try:
        read = {item["path"]: item.get("sha256") for item in record.get("inputs", ())}
        found = (record.get("decontamination") or {}).get("benchmarks", {}).get(score.benchmark)
        compared = found is not None and found["path"] not in read  # a folder, by its name
    except (LookupError, TypeError, AttributeError):  # damaged
        return False
    return compared or score.digest in read.values()


def uncompared(run: RunDir, scores: Sequence[Score]) -> list[str]:
    """Return a warning for each score of questions that the model may have been finetuned on."""
    return [
        f"{score.place}: what {score.model} was finetuned on was not compared with these questions"
        for score in scores
        if not is_compared(run, score)
    ]
