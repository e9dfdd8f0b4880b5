"""What a scheduler can do for us, and the words for a job's state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from meditron_cli.plan.model import Plan, StagePlan


class JobState(Enum):
    """Our words for a job's state (ours are fewer than Slurm's)."""

    QUEUED = "queued"
    ACTIVE = "active"
    ENDED = "ended"
    UNKNOWN = "unknown"
    """The scheduler did not answer, or used a word we do not know."""
    MISSING = "missing"
    """The scheduler answered, and knows nothing of the job."""

    @classmethod
    def from_slurm(cls, word: str) -> JobState:
        """Translate a state as squeue or sacct prints it; never raises.

        Only the first word counts (``CANCELLED by 1234``), a trailing ``+`` is dropped. Nothing is
        MISSING, a new word is UNKNOWN. Words: the squeue manual, JOB STATE CODES.
        """
        words = word.split()
        if not words:
            return cls.MISSING
        return _SLURM.get(words[0].rstrip("+").upper(), cls.UNKNOWN)


_QUEUED = "PENDING REQUEUED REQUEUE_FED REQUEUE_HOLD SPECIAL_EXIT RESV_DEL_HOLD"
_ACTIVE = "RUNNING CONFIGURING SUSPENDED STOPPED SIGNALING STAGE_OUT RESIZING COMPLETING"
_ENDED = (
    "COMPLETED FAILED TIMEOUT CANCELLED NODE_FAIL BOOT_FAIL OUT_OF_MEMORY DEADLINE REVOKED "
    "PREEMPTED LAUNCH_FAILED RECONFIG_FAIL"
)
_SLURM = {
    word: state
    for state, words in (
        (JobState.QUEUED, _QUEUED),
        (JobState.ACTIVE, _ACTIVE),
        (JobState.ENDED, _ENDED),
    )
    for word in words.split()
}


LEFT_THE_QUEUE = "left the queue"
"""Reason of an UNKNOWN job that is surely not alive: how it ended, nobody said."""


@dataclass(frozen=True)
class JobInfo:
    """What the scheduler says of one job id."""

    job_id: str
    state: JobState
    word: str
    """The scheduler's own word."""
    reason: str = ""


class Scheduler(Protocol):
    """Slurm or this machine."""

    def render(self, plan: Plan, run: Path) -> str:
        """The exact text that ``submit`` would hand over, all stages; touches nothing."""
        ...

    def submit(
        self,
        plan: Plan,
        stage: StagePlan,
        indices: Sequence[int],
        run: Path,
        attempt: int,
        after: Sequence[str],
    ) -> list[str]:
        """Start some tasks of a stage after the jobs ``after`` ended well; answers job ids, one a
        task, or one for all where the scheduler knows them as one (an array's ids are ``123_0``,
        ``123_1`` …).

        Raises:
            SchedulerError: refused, or no answer; nothing of this call is left in the queue.
        """
        ...

    def states(self, job_ids: Sequence[str]) -> dict[str, JobInfo]:
        """State of each id, in as few calls as can be (one squeue, then one sacct for what it does
        not show).
        """
        ...

    def cancel(self, job_ids: Sequence[str]) -> None:
        """End the jobs, queued or running; unknown and ended ids are no error."""
        ...

    def withdraw(self, run: Path, stage: str, attempt: int) -> None:
        """End what there may be of a submission whose ids were never told, since it was killed or
        got no answer in time; nothing found is no error.

        Raises:
            SchedulerError: no answer.
        """
        ...
