"""The state of a run and of its stages as data, with its text and JSON. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jobs.contract.units import plural


@dataclass(frozen=True)
class TaskProgress:
    """The progress of a stage's running tasks together."""

    fraction: float
    """Tasks that the running ones amount to: 0.5 for one task halfway."""
    share: float
    """Done of the total, in the tasks' own unit."""
    total: float
    unit: str
    """``bytes``, ``questions`` …."""

    @property
    def text(self) -> str:
        """Return ``43% of 1.2 GB``, ``43% of 400 questions``."""
        size = f"{self.total:,.0f} {self.unit}"
        return f"{self.share:.0%} of {bytes_text(self.total) if self.unit == 'bytes' else size}"


def bytes_text(count: float) -> str:
    """Return bytes in decimal units, as disks and downloads are measured: ``1.2 GB``."""
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= limit:
            return f"{count / limit:,.1f} {unit}"
    return f"{count:.0f} bytes"


@dataclass(frozen=True)
class StageView:
    """State of a stage."""

    stage: str
    state: str
    total: int
    done: int
    attempts: int
    step: int | None
    target_step: int | None
    tokens: int | None
    target_tokens: int | None
    loss: float | None = None
    """Of the last step of a single training, in nats per token."""
    task_states: Mapping[int, str] = field(default_factory=dict)
    progress: TaskProgress | None = None
    """Of running tasks, where the stage has no steps."""
    pending_reason: str = ""
    """Slurm's reason of its pending job; empty without one."""
    expected_start: float | None = None
    """When Slurm expects to start that job, seconds since 1970."""
    stopping: str = ""
    """How its running tasks end by a person's request, as ``saves and stops``; empty without."""

    @property
    def state_text(self) -> str:
        """Return the state; for a pending stage with Slurm's reason, for a running one that is
        about to end by request with how it ends.
        """
        detail = {"pending": self.pending_reason, "running": self.stopping}.get(self.state, "")
        return f"{self.state} ({detail})" if detail else self.state

    @property
    def finished(self) -> bool:
        """Return whether every task is done."""
        return self.done >= self.total

    @property
    def failed_count(self) -> int:
        """Return the number of failed tasks."""
        return sum(word == "failed" for word in self.task_states.values())

    @property
    def names_failures(self) -> bool:
        """Return whether ``amount`` has the number of failed tasks."""
        return self.total > 1 and self.failed_count > 0

    @property
    def measure(self) -> tuple[float, int]:
        """Return the amount done and the total: steps where the stage has them, else tasks."""
        if self.target_step is not None:
            return self.step or 0, self.target_step
        return self.done + (self.progress.fraction if self.progress else 0.0), self.total

    @property
    def amount(self) -> str:
        """Return ``120/600 steps`` of a single training; of other stages ``3/9 tasks``, with the
        progress of running tasks and the number of failed ones.
        """
        if self.target_step is not None:
            return f"{self.step or 0}/{plural(self.target_step, 'step')}"
        if self.names_failures:
            return f"{self.failed_count} of {self.total} tasks failed, {self.done} done"
        tasks = f"{self.done}/{plural(self.total, 'task')}"
        return f"{tasks}, {self.progress.text}" if self.progress else tasks

    def to_json(self) -> dict[str, Any]:
        """Return the stage as ``status --json`` prints it."""
        keys = ("state", "done", "total", "step", "target_step", "tokens", "target_tokens")
        return {
            **{key: getattr(self, key) for key in keys},
            "attempts": self.attempts,
            "pending_reason": self.pending_reason,
            "expected_start": self.expected_start,
        }


@dataclass(frozen=True)
class RunView:
    """State of a run."""

    name: str
    state: str
    cluster: str
    stages: dict[str, StageView]
    loss: float | None
    eta_s: float | None
    """Seconds until a training reaches its target at its speed; None when it does not run."""
    problem: str
    unreadable: str = ""
    """The system's reason for the problem, such as ``Permission denied``; else empty."""

    @property
    def state_text(self) -> str:
        """Return the state; for an unreadable run with the system's reason, for a running one that
        is about to end by request with how it ends.
        """
        detail = self.unreadable or self.stopping
        return f"{self.state} ({detail})" if detail else self.state

    @property
    def stopping(self) -> str:
        """Return how its running stages are about to end by a person's request; empty unless all of
        them are.
        """
        running = [stage for stage in self.stages.values() if stage.state == "running"]
        return running[-1].stopping if running and all(s.stopping for s in running) else ""

    def to_json(self) -> dict[str, Any]:
        """Return the run as ``status --json`` prints it."""
        return {
            "run": self.name,
            "state": self.state,
            "stopping": bool(self.stopping),
            "cluster": self.cluster,
            "stages": {name: stage.to_json() for name, stage in self.stages.items()},
            "loss": self.loss,
            "eta_s": self.eta_s,
            "goodput": None,  # it takes reading all metric lines, so that a list goes without it
        }
