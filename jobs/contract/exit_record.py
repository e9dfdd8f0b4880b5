"""The exit record: how an attempt ended and what was decided. Stored once, as the ``exit`` event of
``events.jsonl``. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jobs.contract.json_fields import from_fields, to_fields
from jobs.contract.outcomes import Diagnosis, RetryAction, RootCause
from jobs.contract.units import Moment

CLASSES = {
    RootCause.COMPLETED: "finished",
    RootCause.STOPPED: "stopped",
    RootCause.CANCELLED: "stopped",
    RootCause.PREEMPTED: "stopped",
    RootCause.TIME_LIMIT: "stopped",
    RootCause.CONFIGURATION: "configuration",
    RootCause.UNHEALTHY: "unhealthy",
}
"""The class of a root cause, for people; ``failed`` for any other."""


@dataclass(frozen=True)
class ExitRecord:
    """The end of an attempt: the root cause, the decision, the progress. Times are seconds since
    1970, steps are optimizer steps.
    """

    stage: str
    index: int
    attempt: int
    job_id: str
    cause: RootCause
    action: RetryAction
    started: Moment
    ended: Moment
    code: int = 1
    """Exit code of the supervisor (``jobs.contract.errors``)."""
    message: str = ""
    """The diagnosis in one sentence."""
    hint: str = ""
    node: str = ""
    """The suspect node, or where it failed; empty where there is none."""
    fingerprint: str = ""
    """Equal for the same failure on any node; empty where nothing can be compared."""
    step_before: int | None = None
    """Step of the newest valid checkpoint when the attempt began; None where it is not known."""
    step_after: int | None = None
    """The same when it had ended."""
    last_step: int | None = None
    """The last step on record, saved or not."""
    reason: str = ""
    """The decision and its reason in one sentence."""
    delay: float = 0.0
    """Seconds before the next start."""
    exclude: tuple[str, ...] = ()
    """Nodes that the next job must not use."""
    detect_s: float | None = None
    """Seconds from the last sign of life to the detection of a hang; None for other causes."""
    energy_j: float | None = None
    """Used by the GPUs of the attempt, in joules; None where it is not known."""
    energy_source: str = ""
    """``counter``, or ``power`` where it is power times time for some GPUs."""
    by: str = "supervisor"
    """The process that diagnosed it: ``supervisor``, ``recovery_job`` or ``recover``."""
    follows: int | None = None
    """The earlier attempt whose end prevented this one before any rank: the failure counts once."""
    by_person: bool = field(default=False, metadata={"key": None})
    """A person started the attempt (submit, resume), so that earlier ones do not count. Not stored:
    it follows from the submissions (``attempt_history.TaskHistory.exits``).
    """

    @property
    def category(self) -> str:
        """Return the class of the root cause, for people: ``class`` in JSON."""
        return CLASSES.get(self.cause, "failed")

    @property
    def diagnosis(self) -> Diagnosis:
        """Return the diagnosis without the decision."""
        return Diagnosis(self.cause, self.message, self.node, self.fingerprint, self.hint)

    def to_json(self) -> dict[str, Any]:
        """Return the record as events, files and ``--json`` have it."""
        return {"class": self.category, **to_fields(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ExitRecord:
        """Parse what ``to_json`` returned.

        Raises:
            ValueError: a field is missing, or has another type.
        """
        return from_fields(cls, value)
