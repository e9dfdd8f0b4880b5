"""The finetuned models of a run: their rows, progress and losses, for ``status`` and ``report``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jobs.contract import done_markers, specs
from jobs.contract.metrics_log import counted_steps
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import FINETUNE, PREPARE, FinetuneSpec, PrepareSpec
from meditron_cli.reporting.run_times import RunTimes
from meditron_cli.runs.views import RunView

COLUMNS = ("model", "state", "steps", "loss", "validation", "rows", "from")


def models(run: RunDir, view: RunView, times: RunTimes) -> list[dict[str, Any]]:
    """Return the finetuned models of a run, in their order; losses in nats per scored token, None
    for what does not exist yet.
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
        found.append(
            {
                "model": spec.name,
                "state": state,
                "step": steps.last,
                "target_step": spec.train_steps,
                "start": spec.start.checkpoint,
                "start_dir": spec.start.checkpoint_dir,
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
            model["state"],
            f"{model['step']}/{model['target_step']}",
            change(model["loss_first"], model["loss_last"]),
            change(model["validation_first"], model["validation_last"]),
            (model["prepared"] or {}).get("train_rows"),
            start_text(model),
        )
        for model in found
    ]


def change(first: float | None, last: float | None) -> str | None:
    """Return ``1.234 to 0.567``; None before there is one."""
    return None if first is None or last is None else f"{first:.4g} to {last:.4g}"


def start_text(model: Mapping[str, Any]) -> str:
    """Return the checkpoint that a model was finetuned from, another run's with its folder."""
    start, folder = model["start"], model["start_dir"]
    step = {"first": "step 0", "last": "the last step"}.get(start, f"step {start}")
    return f"{step} in {folder}" if folder.startswith("/") else step


def notes(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence per preparation with another number of items than expected, or that left
    some out.
    """
    sentences = []
    for model in found:
        counts = model["prepared"] or {}
        if counts.get("difference"):
            sentences.append(str(counts["difference"]))
        for key, text in LOSSES.items():
            if counts.get(key):
                sentences.append(f"{model['model']}: {counts[key]:,} items {text}")
    return sentences


LOSSES = {
    "contained": "are test questions and were left out",
    "too_long": "are longer than a row and were left out",
    "truncated": "lost the beginning of their context",
}
"""What happened to items, by its count in a preparation's summary."""
