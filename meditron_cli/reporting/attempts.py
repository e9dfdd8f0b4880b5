"""Attempts of a run, for people: each start of a task's ranks with its end, from the run's
history.
"""

from __future__ import annotations

from dataclasses import dataclass

from jobs.contract.attempt_history import RunHistory, TaskHistory
from jobs.contract.events import StartEvent
from jobs.contract.exit_record import ExitRecord
from jobs.contract.outcomes import RootCause


@dataclass(frozen=True)
class Attempt:
    """One start of a task's ranks with its end, for people."""

    start: StartEvent
    end: ExitRecord | None = None
    """None while it is open; the supervisor's observation where no process has closed it."""
    ended: float | None = None
    """Seconds since 1970; None while it is open."""

    @classmethod
    def of_exit(cls, record: ExitRecord) -> Attempt:
        """Return the attempt of an exit record whose start is not known: it was refused."""
        began = record.started
        start = StartEvent(began, record.stage, record.index, record.attempt, record.job_id, began)
        return cls(start, record, record.ended)

    @property
    def stage(self) -> str:
        return self.start.stage

    @property
    def index(self) -> int:
        return self.start.index

    @property
    def number(self) -> int:
        return self.start.attempt

    @property
    def job_id(self) -> str:
        return self.start.job_id

    @property
    def began(self) -> float:
        return self.start.began

    @property
    def restarts(self) -> int:
        """Return how often Slurm had requeued the job."""
        return self.start.restarts

    @property
    def nodes(self) -> tuple[str, ...]:
        return self.start.nodes

    @property
    def step(self) -> int | None:
        """Return the step of the checkpoint it resumed from; None where that is not known."""
        return self.start.step

    @property
    def cause(self) -> str:
        """Return the root cause's name; empty while it is open."""
        return self.end.cause.value if self.end else ""

    @property
    def action(self) -> str:
        """Return the decision's name; empty while it is open."""
        return self.end.action.value if self.end else ""

    @property
    def node(self) -> str:
        """Return the suspect node, or where it failed."""
        return self.end.node if self.end else ""

    @property
    def sentence(self) -> str:
        """Return the decision with its reason, else the diagnosis, for people."""
        return (self.end.reason or self.end.message) if self.end else ""

    @property
    def interrupted(self) -> bool:
        """Return whether it ended before its task was done."""
        return self.end is not None and self.end.cause is not RootCause.COMPLETED

    @property
    def allocation(self) -> tuple[str, int, str, int]:
        """Return a key that is equal for the starts that shared an allocation."""
        return self.stage, self.index, self.job_id, self.restarts

    @property
    def outcome(self) -> str:
        """Return ``preempted, requeue``; ``running`` while it is open."""
        if self.end is None:
            return "running"
        words = self.cause.replace("_", " ")
        return f"{words}, {self.action}" if self.interrupted else words


def attempts_of(history: RunHistory) -> tuple[Attempt, ...]:
    """Return the attempts of all tasks in the order in which they began.

    An exit without a start is an attempt that was refused.
    """
    return tuple(_attempt(task, number) for (_, _, number), task in history.begun.items())


def _attempt(task: TaskHistory, number: int) -> Attempt:
    if number not in task.started:
        return Attempt.of_exit(task.ended[number])
    end = task.ended.get(number) or task.observed.get(number)
    return Attempt(task.started[number], end, end.ended if end else None)
