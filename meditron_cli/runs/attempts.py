"""The attempts of a run, out of its events: when each start of a task's ranks began, how it ended,
and what was done then. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from jobs.contract.outcomes import RetryAction

KINDS = ("start", "exit")
"""Events that attempts are made of."""

COMPLETED = "completed"
WAIT = "wait"


@dataclass(frozen=True)
class Attempt:
    """One start of a task's ranks. Times are seconds since 1970, steps are optimizer steps."""

    stage: str
    index: int
    number: int
    job_id: str
    began: float
    restarts: int = 0
    """How often Slurm had queued the job again."""
    nodes: tuple[str, ...] = ()
    step: int | None = None
    """Of the checkpoint it went on from; None where that is not known."""
    ended: float | None = None
    """None while it works, or when nobody has said how it ended."""
    cause: str = ""
    """``jobs.contract.outcomes.RootCause``; empty while it works."""
    action: str = ""
    """``jobs.contract.outcomes.RetryAction``: what was done then."""
    message: str = ""
    reason: str = ""
    """Why that was done, in one sentence."""
    hint: str = ""
    node: str = ""
    """The suspect, or where it failed."""
    delay: float = 0.0
    """Seconds that were to pass before the next start."""
    last_step: int | None = None
    """The last step on record, saved or not."""
    detect_s: float | None = None
    """From the last sign of life to the moment that the end was noticed."""

    @property
    def interrupted(self) -> bool:
        """Whether it ended before its task was done."""
        return self.ended is not None and self.cause != COMPLETED

    @property
    def allocation(self) -> tuple[str, int, str, int]:
        """Equal for the starts that shared an allocation."""
        return self.stage, self.index, self.job_id, self.restarts

    @property
    def outcome(self) -> str:
        """``preempted, requeue``; ``running`` before that."""
        if self.ended is None:
            return "running"
        words = self.cause.replace("_", " ")
        return f"{words}, {self.action}" if self.interrupted and self.action else words

    @property
    def sentence(self) -> str:
        """What is known of its end, for people."""
        return self.reason or self.message


def fold(events: Iterable[Mapping[str, Any]]) -> tuple[Attempt, ...]:
    """All attempts of all tasks, in the order in which they were started.

    An exit without a start is one of a task that was refused, or of a run made by an older version;
    none if it only says that the task is at work elsewhere. A second exit of the same start, told
    twice, changes nothing, unless the first only waited for Slurm to say how the job ended.
    """
    found: dict[tuple[str, int, int], Attempt] = {}
    for event in events:
        if event["event"] not in KINDS:
            continue
        key = (event["stage"], event["index"], event["attempt"])
        if event["event"] == "start":
            found[key] = started(event)
        elif key in found and (found[key].ended is None or found[key].action == WAIT):
            found[key] = ended(found[key], event)
        elif key not in found and not is_elsewhere(event):
            found[key] = ended(refused(event), event)
    return tuple(found.values())


def is_elsewhere(event: Mapping[str, Any]) -> bool:
    """Whether an ``exit`` without a start says that another job works on the task."""
    return bool(event.get("action") == RetryAction.WAIT)


def started(event: Mapping[str, Any]) -> Attempt:
    """The attempt that a ``start`` event tells of."""
    return Attempt(
        stage=event["stage"],
        index=event["index"],
        number=event["attempt"],
        job_id=event["job_id"],
        began=float(event["began"]),
        restarts=event.get("restarts") or 0,
        nodes=tuple(event.get("nodes") or ()),
        step=event.get("step"),
    )


def refused(event: Mapping[str, Any]) -> Attempt:
    """The attempt of an ``exit`` event that no start came before."""
    began = event.get("started") or event["ended"]
    job_id = str(event.get("job_id", ""))
    return Attempt(event["stage"], event["index"], event["attempt"], job_id, float(began))


def ended(attempt: Attempt, event: Mapping[str, Any]) -> Attempt:
    """An attempt with what its ``exit`` event tells; older versions named no cause."""
    cause = event.get("cause") or (COMPLETED if event.get("code") == 0 else event.get("class"))
    return replace(
        attempt,
        ended=float(event["ended"]),
        cause=cause or "unknown",
        action=event.get("action", ""),
        message=event.get("message", ""),
        reason=event.get("reason", ""),
        hint=event.get("hint", ""),
        node=event.get("node", ""),
        delay=event.get("delay") or 0.0,
        last_step=event.get("last_step"),
        detect_s=event.get("detect_s"),
    )
