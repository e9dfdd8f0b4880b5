"""Job states: fewer than Slurm's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum


class JobState(Enum):
    """The state of a job, reduced to what callers distinguish."""

    QUEUED = "queued"
    ACTIVE = "active"
    ENDED = "ended"
    UNKNOWN = "unknown"
    """The scheduler did not answer, or its state has a name that is not in the table."""
    MISSING = "missing"
    """The scheduler answered, and does not list the job."""

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

LAUNCH_FAILED = "launch failed requeued held"
"""Reason of a job that Slurm holds after its launch failed (slurm.conf(5),
nohold_on_prolog_fail).
"""
HELD_BY_ADMIN = "JobHeldAdmin"
HELD_BY_USER = "JobHeldUser"
WAITS_FOR_JOBS = ("Dependency", "DependencyNeverSatisfied")
"""Reasons of a pending job that waits for others (squeue(1), JOB REASON CODES)."""
LEFT_THE_QUEUE = "left the queue"
"""Reason of an UNKNOWN job that has surely ended; its final state is not known."""
NO_ACCOUNTING = "no accounting"
"""Reason of a MISSING job at a site that keeps no accounts."""


def is_held_after_launch(reason: str) -> bool:
    """Return whether Slurm holds a job because it could not be launched, as when a Prolog failed.

    An administrator's own hold (JobHeldAdmin) looks like one whose description a restarted
    controller has lost; Slurm lets the owner release only the latter.
    """
    return reason.replace("_", " ").startswith(LAUNCH_FAILED) or reason == HELD_BY_ADMIN


def was_cancelled(word: str) -> bool:
    """Return whether a person cancelled the job: ``CANCELLED by UID``.

    The accounting has ``CANCELLED`` alone for jobs that a restarted controller no longer lists
    (``slurmctld -c``), which no person cancelled.
    """
    return re.match(r"CANCELLED\+? by ", word) is not None


@dataclass(frozen=True)
class JobInfo:
    """The scheduler's answer about one job id."""

    job_id: str
    state: JobState
    word: str
    """The scheduler's name of the state."""
    reason: str = ""
    start: float | None = None
    """Of a pending job: when the scheduler expects to start it, seconds since 1970."""

    @property
    def is_held_after_launch(self) -> bool:
        """Return whether Slurm holds the job because it could not be launched."""
        return self.state is JobState.QUEUED and is_held_after_launch(self.reason)

    @property
    def is_in_queue(self) -> bool:
        """Return whether the job is queued or running."""
        return self.state in (JobState.QUEUED, JobState.ACTIVE)

    @property
    def was_cancelled(self) -> bool:
        """Return whether a person cancelled the job."""
        return was_cancelled(self.word)

    @property
    def is_over(self) -> bool:
        """Return whether the scheduler reports that the job has ended."""
        return self.state in (JobState.ENDED, JobState.MISSING)

    @property
    def is_unknown(self) -> bool:
        """Return whether the scheduler has reported nothing of the job, so that it may run."""
        return self.state is JobState.UNKNOWN and self.reason != LEFT_THE_QUEUE
