"""Retry policy per root cause. The numbers are guesses."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from jobs.contract.errors import CONFIGURATION, FAILED, FINISHED, STOPPED, UNHEALTHY
from jobs.contract.outcomes import RootCause


class Backoff(Enum):
    """The kind of delay before the next attempt."""

    AT_ONCE = "at once"
    RETRY = "retry"
    STORAGE = "storage"


class Blame(Enum):
    """The occurrence of a failure from which the next job excludes its node."""

    NEVER = "never"
    SECOND = "second"
    """After the same failure twice on one node and on no other."""
    FIRST = "first"


class Alike(Enum):
    """The earlier attempts that count as the same failure."""

    FINGERPRINT = "fingerprint"
    """Those at this checkpoint with this fingerprint."""
    CAUSE = "cause"
    """Those at this checkpoint with this root cause."""
    CAUSE_WITHOUT_PROGRESS = "cause without progress"
    """Those of this root cause since the last newer checkpoint, which made none."""


@dataclass(frozen=True)
class RetryRow:
    """The retry parameters of one root cause."""

    ends: bool = False
    """Never retried."""
    repeats: int | None = None
    """Repeats of the same failure allowed at one checkpoint; None: as the retry budget allows."""
    repeats_before_first_checkpoint: int | None = None
    """The same until the first checkpoint; None: as ``repeats``."""
    alike: Alike = Alike.FINGERPRINT
    """The failures that count as the same."""
    repeated: RootCause | None = None
    """The root cause on record when it repeats too often; None: this one."""
    program_at_fault: bool = False
    """The same failure on two nodes is the fault of the program."""
    counts: bool = True
    """Whether it uses retry budget."""
    backoff: Backoff = Backoff.RETRY
    in_place: bool = True
    """Whether the same allocation may be used once more."""
    blame: Blame = Blame.NEVER
    entry: str = ""
    """Verdict on the node for the ledger; empty: none."""
    code: int = FAILED
    """Exit code when it stops."""
    advice: str = ""
    """Advice when it stops: the fault, or what to do."""


ROWS: dict[RootCause, RetryRow] = {
    RootCause.COMPLETED: RetryRow(ends=True, code=FINISHED),
    RootCause.STOPPED: RetryRow(ends=True, code=STOPPED),
    RootCause.CANCELLED: RetryRow(ends=True, code=STOPPED),
    RootCause.CONFIGURATION: RetryRow(
        ends=True, code=CONFIGURATION, advice="a retry would fail the same way"
    ),
    RootCause.PREEMPTED: RetryRow(
        counts=False,
        backoff=Backoff.AT_ONCE,
        in_place=False,
        advice="save more often, or use another partition",
    ),
    RootCause.TIME_LIMIT: RetryRow(
        repeats=1,
        alike=Alike.CAUSE_WITHOUT_PROGRESS,
        repeated=RootCause.CONFIGURATION,
        backoff=Backoff.AT_ONCE,
        in_place=False,
        code=CONFIGURATION,
        advice="the time limit is too short: raise it, or save more often",
    ),
    RootCause.NODE_FAIL: RetryRow(in_place=False, blame=Blame.FIRST, entry="DRAIN"),
    RootCause.UNHEALTHY: RetryRow(
        in_place=False,
        blame=Blame.FIRST,
        entry="FATAL",
        code=UNHEALTHY,
        advice="{meditron status} names the node",
    ),
    RootCause.GPU_HARDWARE: RetryRow(
        in_place=False,
        blame=Blame.FIRST,
        entry="FATAL",
        code=UNHEALTHY,
        advice="{meditron status} names the node",
    ),
    RootCause.CUDA_ERROR: RetryRow(
        repeats=2, program_at_fault=True, blame=Blame.SECOND, entry="SUSPECT"
    ),
    RootCause.CUDA_OOM: RetryRow(
        repeats=1,
        repeats_before_first_checkpoint=0,
        alike=Alike.CAUSE,
        code=CONFIGURATION,
        advice="lower the micro-batch size, recompute activations, or split the model further",
    ),
    RootCause.HOST_OOM: RetryRow(
        repeats=1, alike=Alike.CAUSE, advice="request more memory, or use fewer data workers"
    ),
    RootCause.HANG: RetryRow(repeats=2, blame=Blame.SECOND, entry="SUSPECT"),
    RootCause.CRASH: RetryRow(
        repeats=2, program_at_fault=True, blame=Blame.SECOND, entry="SUSPECT"
    ),
    RootCause.EXCEPTION: RetryRow(
        repeats=2, program_at_fault=True, advice="the program or its input is at fault"
    ),
    RootCause.NON_FINITE: RetryRow(
        repeats=1,
        alike=Alike.CAUSE,
        advice="the model or the data is at fault: lower the learning rate, or check the samples",
    ),
    RootCause.DATA: RetryRow(repeats=1, advice="check the file it names"),
    RootCause.CHECKPOINT: RetryRow(
        repeats=1, alike=Alike.CAUSE, advice="{meditron checkpoints} shows what is wrong with each"
    ),
    RootCause.STORAGE: RetryRow(
        counts=False,
        backoff=Backoff.STORAGE,
        in_place=False,
        advice="free some space, or check the storage",
    ),
    RootCause.LAUNCH: RetryRow(repeats=2, blame=Blame.SECOND, entry="SUSPECT"),
    RootCause.UNKNOWN: RetryRow(),
}
