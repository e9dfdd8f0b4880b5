"""The checkpoint that a reader names: ``first``, ``last`` or a step. Standard library only."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

from jobs.checkpoints import leases, manifest, retention
from jobs.checkpoints.manifest import CheckpointRecord, StoredCheckpoint
from jobs.contract.errors import RESUME, TaskError
from jobs.contract.files import FormatError
from jobs.contract.stage_specs import FINETUNE, PRETRAIN, ModelSpec, TokenizerRef
from jobs.runtime.context import Context


class Choice(NamedTuple):
    """A checkpoint as a task's settings name it."""

    folder: Path
    """That holds the run's checkpoints."""
    name: str
    """``first`` (step 0), ``last`` (the target step) or a step number."""
    target_step: int
    """Of the training."""
    is_of_other_run: bool = False

    @property
    def step(self) -> int:
        """Return the step of the checkpoint."""
        named = {"first": 0, "last": self.target_step}
        return named[self.name] if self.name in named else int(self.name)


def lease(context: Context, choice: Choice) -> AbstractContextManager[None]:
    """Lease a checkpoint, so that a running training does not delete it; rank 0 alone does it. The
    folder of another run may be read-only.

    Raises:
        OSError: the lease cannot be written.
    """
    if context.rank != 0 or not choice.folder.is_dir():
        return nullcontext()
    holder = leases.holder_of(context, os.environ)
    is_own = choice.folder.is_relative_to(context.run.root)
    take = leases.leased if is_own else leases.leased_if_writable
    return take(choice.folder, manifest.name(choice.step), holder)


def find(
    choice: Choice,
    model: ModelSpec,
    tokenizer: TokenizerRef,
    use: str,
    *,
    may_grow: bool = False,
) -> StoredCheckpoint:
    """Return the folder and the record of a checkpoint.

    Args:
        choice: the checkpoint.
        model: that its weights are read into.
        tokenizer: whose tokens its rows belong to.
        use: the participle of what is done with it, for messages: ``evaluated``.
        may_grow: as in ``manifest.difference``.

    Raises:
        TaskError: it is missing, damaged or of another model, or ``last`` is requested while the
            newest is below the target: an unfinished model is never taken for the last.
    """
    folder, step = choice.folder, choice.step
    saved = manifest.at_step(folder, step)
    if saved is None and retention.reappeared(folder / manifest.name(step)):
        saved = manifest.at_step(folder, step)
    if saved is None:
        newest = manifest.find_latest(folder)
        raise missing(choice, newest[1].iteration if newest else None, use)
    path, record = saved
    difference = manifest.difference(record, model, tokenizer, may_grow=may_grow)
    if difference:
        raise TaskError(
            f"{path}: {difference}", "use the run with the settings that it was trained with"
        )
    return path, record


def require_same(path: Path, record: CheckpointRecord) -> None:
    """Refuse a checkpoint that is no longer the one that was found.

    Raises:
        TaskError: it was set aside since, as where training returned to a step before it.
    """
    try:
        unchanged = manifest.read(path) == record
    except (OSError, FormatError):
        unchanged = False
    if not unchanged:
        raise TaskError(
            f"{path} was set aside while it was read: training returned to a step before it",
            f"once that step is trained again, {RESUME}",
        )


def missing(choice: Choice, newest: int | None, use: str) -> TaskError:
    """Return the error for a checkpoint that is damaged or missing, with the newest that exists."""
    folder, step = choice.folder, choice.step
    path = folder / manifest.name(step)
    if manifest.was_finished(path) and (wrong := manifest.problem(path)):
        return TaskError(
            f"{path} is damaged: {wrong}",
            f"restore the folder from a copy, then {RESUME}; {{meditron checkpoints}} lists others",
        )
    if newest is None:
        return TaskError(f"{folder}: no valid checkpoint", maker(choice))
    if choice.name == "last" and newest < step:
        return TaskError(
            f"{folder}: training is at step {newest} of {step}; no unfinished model is {use}",
            "finish pretraining first, or name `first` or a step number",
        )
    return TaskError(
        f"{folder}: no valid checkpoint of step {step}; the newest is of step {newest}",
        "name `first`, `last` or a step that was kept (`keep_checkpoints`, `keep_steps`)",
    )


def maker(choice: Choice) -> str:
    """Return the hint for a folder without any checkpoint."""
    if choice.is_of_other_run:
        return "put that run's checkpoints back, or name another one in finetune.run"
    stage = FINETUNE if choice.folder.parent.parent.name == FINETUNE else PRETRAIN
    return f"{{meditron submit {stage} --run}} first"
