"""Retry policy per root cause. The numbers are guesses."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from jobs.contract.errors import CONFIGURATION, FAILED, FINISHED, STOPPED, UNHEALTHY
from jobs.contract.outcomes import RootCause


class Backoff(Enum):
    """How long to wait before the next start."""

    AT_ONCE = "at once"
    RETRY = "retry"
    STORAGE = "storage"


class Blame(Enum):
    """When the next job leaves out the node where it happened."""

    NEVER = "never"
    SECOND = "second"
    """When the same failure came twice on it and nowhere else."""
    FIRST = "first"


@dataclass(frozen=True)
class RetryRow:
    """What one cause leads to."""

    ends: bool = False
    """Never goes on by itself."""
    repeats: int | None = None
    """How often the same failure may come back at one checkpoint; None: as any failure may."""
    repeats_before_first_checkpoint: int | None = None
    """The same until the first checkpoint; None: as ``repeats``."""
    by_cause: bool = False
    """Any failure of this cause is the same; otherwise the fingerprint says so."""
    program: bool = False
    """The same failure on two nodes is the program's."""
    counts: bool = True
    """Whether it is one of the attempts that a run may make without progress."""
    pace: Backoff = Backoff.RETRY
    here: bool = True
    """Whether the same allocation may be used once more."""
    blame: Blame = Blame.NEVER
    entry: str = ""
    """Verdict on the node for the ledger; empty: none."""
    code: int = FAILED
    """Exit code when it stops."""
    advice: str = ""
    """What is at fault, or what to do, when it stops."""


ROWS: dict[RootCause, RetryRow] = {
    RootCause.COMPLETED: RetryRow(ends=True, code=FINISHED),
    RootCause.STOPPED: RetryRow(ends=True, code=STOPPED),
    RootCause.CANCELLED: RetryRow(ends=True, code=STOPPED),
    RootCause.CONFIGURATION: RetryRow(
        ends=True, code=CONFIGURATION, advice="another start would end the same way"
    ),
    RootCause.PREEMPTED: RetryRow(
        counts=False,
        pace=Backoff.AT_ONCE,
        here=False,
        advice="save more often, or use another partition",
    ),
    RootCause.TIME_LIMIT: RetryRow(pace=Backoff.AT_ONCE, here=False, code=CONFIGURATION),
    RootCause.NODE_FAIL: RetryRow(here=False, blame=Blame.FIRST, entry="DRAIN"),
    RootCause.UNHEALTHY: RetryRow(
        here=False,
        blame=Blame.FIRST,
        entry="FATAL",
        code=UNHEALTHY,
        advice="`meditron nodes` lists what is known of the nodes",
    ),
    RootCause.GPU_HARDWARE: RetryRow(
        here=False,
        blame=Blame.FIRST,
        entry="FATAL",
        code=UNHEALTHY,
        advice="`meditron nodes` lists what is known of the nodes",
    ),
    RootCause.CUDA_ERROR: RetryRow(repeats=2, program=True, blame=Blame.SECOND, entry="SUSPECT"),
    RootCause.CUDA_OOM: RetryRow(
        repeats=1,
        repeats_before_first_checkpoint=0,
        by_cause=True,
        code=CONFIGURATION,
        advice="lower the micro-batch size, recompute activations, or split the model further",
    ),
    RootCause.HOST_OOM: RetryRow(
        repeats=1, by_cause=True, advice="ask for more memory, or use fewer data workers"
    ),
    RootCause.HANG: RetryRow(repeats=2, blame=Blame.SECOND, entry="SUSPECT"),
    RootCause.CRASH: RetryRow(repeats=2, program=True, blame=Blame.SECOND, entry="SUSPECT"),
    RootCause.EXCEPTION: RetryRow(
        repeats=2, program=True, advice="the program or its input is at fault"
    ),
    RootCause.NON_FINITE: RetryRow(
        repeats=1,
        by_cause=True,
        advice="the model or the data is at fault: lower the learning rate, or look at the samples",
    ),
    RootCause.DATA: RetryRow(repeats=1, advice="look at the file it names"),
    RootCause.CHECKPOINT: RetryRow(
        repeats=1, by_cause=True, advice="`meditron checkpoints` says what is wrong with each"
    ),
    RootCause.STORAGE: RetryRow(
        counts=False,
        pace=Backoff.STORAGE,
        here=False,
        advice="free some space, or ask what the storage says",
    ),
    RootCause.LAUNCH: RetryRow(repeats=2, blame=Blame.SECOND, entry="SUSPECT"),
    RootCause.UNKNOWN: RetryRow(),
}
