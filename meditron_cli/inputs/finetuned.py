"""Check the finetuned models of a run before anything is submitted: where they begin, and that
those with checkpoints go on as they began.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from jobs.contract import specs
from jobs.contract.errors import TaskError
from jobs.contract.files import read_small, sha256
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import (
    BY_TOKENS,
    FINETUNE,
    PREPARE,
    EvaluateSpec,
    FinetuneSpec,
    GenerateSpec,
    PrepareSpec,
    Spec,
)


def finetunings(run: RunDir) -> Iterator[tuple[int, FinetuneSpec]]:
    """Yield index and settings of each finetuning that a run has."""
    for index in specs.indices(run, FINETUNE):
        task = specs.read_task(run, FINETUNE, index)
        if task and isinstance(task.spec, FinetuneSpec):
            yield index, task.spec


def preparations(run: RunDir) -> Iterator[PrepareSpec]:
    """Yield the settings of each preparation of rows that a run has."""
    for index in specs.indices(run, PREPARE):
        task = specs.read_task(run, PREPARE, index)
        if task and isinstance(task.spec, PrepareSpec):
            yield task.spec


def has_checkpoints(run: RunDir, spec: Spec) -> bool:
    """Return whether a finetuning of a run has checkpoints, with which it continues."""
    from jobs.checkpoints import manifest

    return isinstance(spec, FinetuneSpec) and bool(
        manifest.saved_steps(run.path(spec.checkpoint_dir))
    )


def has_begun_with(run: RunDir, spec: Spec, folder: str) -> bool:
    """Return whether a folder has the checkpoint that a finetuning began with, which it needs no
    more.
    """
    return (
        isinstance(spec, FinetuneSpec)
        and folder == spec.start.checkpoint_dir
        and has_checkpoints(run, spec)
    )


def require_start(run: RunDir, spec: FinetuneSpec) -> None:
    """Refuse to begin a finetuning with a checkpoint of another run that it does not have.

    Raises:
        TaskError: naming its folder.
    """
    from jobs.checkpoints import manifest

    start, folder = spec.start, Path(spec.start.checkpoint_dir)
    if not folder.is_absolute() or not folder.parent.is_dir() or has_checkpoints(run, spec):
        return
    steps = {"first": 0, "last": start.target_step}
    step = steps[start.checkpoint] if start.checkpoint in steps else int(start.checkpoint)
    saved = sorted(manifest.saved_steps(folder))
    if step not in saved:
        raise TaskError(
            f"finetune.run: {folder} has no checkpoint of step {step}",
            f"set finetune.start to one of {', '.join(map(str, saved))}"
            if saved
            else "name a run that has checkpoints",
        )


LAYOUT_FIELDS = {
    "parallel", "device", "micro_batch_size", "save_interval", "keep_checkpoints", "async_save",
    "save_memory_gb", "deterministic", "validation_interval", "validation_batches",
}  # fmt: skip
"""Fields of a finetuning that do not decide its result."""


def require_same_finetuning(run: RunDir, spec: FinetuneSpec) -> None:
    """Refuse other settings for a model that has checkpoints: it would resume from them, and be
    neither the one nor the other.

    Raises:
        TaskError: naming the settings.
    """
    before = next((one for _, one in finetunings(run) if one.name == spec.name), None)
    if before is None or not has_checkpoints(run, spec):
        return
    names = {field.name for field in dataclasses.fields(spec)} - LAYOUT_FIELDS
    if spec.loss_average != BY_TOKENS:
        names.add("micro_batch_size")
    before = replace(before, tokenizer=replace(before.tokenizer, path=spec.tokenizer.path))
    if changed := [name for name in sorted(names) if getattr(spec, name) != getattr(before, name)]:
        raise TaskError(
            f"the finetuned model {spec.name} has checkpoints of a training with other settings "
            f"({', '.join(changed)})",
            "give the model another name in finetune.models, or put the settings back",
        )


ROW_FIELDS = {
    "template": "finetune.template",
    "holdout": "finetune.holdout",
    "seed": "seed",
    "sequence_length": "finetune.sequence_length",
    "preparation": "preparation of the model",
    "reasoned": "reasoned of the model",
}
"""Fields that decide a model's rows beside its files, and their keys."""


def require_same_questions(run: RunDir, spec: PrepareSpec | EvaluateSpec | GenerateSpec) -> None:
    """Refuse other rows for a model that has checkpoints, and to ask it in another template or with
    other instructions than those that it was taught. What decides rows beside these settings is
    found when rows are made.

    Raises:
        TaskError: naming the settings.
    """
    from jobs.checkpoints import manifest

    if isinstance(spec, EvaluateSpec):
        name = spec.finetuned
    else:
        name = spec.name if isinstance(spec, PrepareSpec) else spec.model
    before = next((one for one in preparations(run) if one.name == name), None)
    if before is None:
        return
    if not manifest.saved_steps(run.path(before.output_dir).with_name("checkpoints")):
        return
    fields = ROW_FIELDS if isinstance(spec, PrepareSpec) else ("template",)
    changed = [one for one in fields if getattr(spec, one) != getattr(before, one)]
    if changed:
        raise TaskError(
            f"the finetuned model {name} has checkpoints of rows with other settings "
            f"({', '.join(ROW_FIELDS[one] for one in changed)})",
            "give the model another name in finetune.models, or put the settings back",
        )
    if not isinstance(spec, PrepareSpec) and not were_taught(run.path(before.output_dir), spec):
        raise TaskError(
            f"the finetuned model {name} was taught with other instructions than those of "
            f"finetune.instructions ({spec.instructions or 'our own'})",
            "give the model another name in finetune.models, or put the instructions back",
        )


def were_taught(rows: Path, spec: EvaluateSpec | GenerateSpec) -> bool:
    """Return whether the rows of a model were made with the instructions that it is asked with, by
    their content; true where neither can be read.
    """
    record = read_small(rows / "manifest.json")
    digests = {item["path"]: item["sha256"] for item in record.get("inputs", ())}
    try:
        asked = sha256(Path(spec.instructions)) if spec.instructions else ""
    except OSError:  # ``launch`` names it
        return True
    return not record or digests.get(record["instructions"], "") == asked
