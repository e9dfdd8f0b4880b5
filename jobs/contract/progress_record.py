"""The progress file of a running task, which its rank 0 overwrites. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.contract.files import FormatError, read_json
from jobs.contract.json_fields import from_fields
from jobs.contract.rundir import RunDir
from jobs.contract.units import Moment


@dataclass(frozen=True)
class ProgressRecord:
    """The progress of a running task."""

    time: Moment
    """When it was written, in seconds since 1970."""
    attempt: int
    done: float
    total: float
    unit: str
    """``bytes``, ``questions``, ``steps`` …."""
    phase: str | None = None
    """The name of a ``jobs.runtime.heartbeat.Phase``, from stages that report theirs."""
    step: int | None = None
    loss: float | None = None
    """Of training's last step, in nats per token."""
    tokens: float | None = None
    """By the training so far."""
    target_tokens: float | None = None
    tokens_per_s: float | None = None


def read(run: RunDir, stage: str, index: int) -> ProgressRecord | None:
    """Return a task's progress; None where the file is missing, unreadable or damaged."""
    try:
        return from_fields(ProgressRecord, read_json(run.progress(stage, index)))
    except (OSError, FormatError, ValueError):
        return None
