"""Which rank broke first, and what it said: ranks that lose a peer complain at length, the one that
died says nothing. Pure.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable

from jobs.contract.errors import CONFIGURATION, STOPPED
from jobs.contract.outcomes import RootCause
from jobs.contract.stage_specs import TRAINING_STAGES
from jobs.health import xid
from jobs.health.xid import Xid
from jobs.supervision.diagnosis import log_patterns
from jobs.supervision.diagnosis.evidence import Evidence, LogSign, RankExit

KINDS = {
    "NonFiniteLoss": RootCause.NON_FINITE,
    "CheckpointsDamaged": RootCause.CHECKPOINT,
    "CheckpointingException": RootCause.CHECKPOINT,
    "StorageError": RootCause.STORAGE,
    "PermissionError": RootCause.STORAGE,
    "WriterHeld": RootCause.UNKNOWN,
    "OutOfMemoryError": RootCause.CUDA_OOM,
    "MemoryError": RootCause.HOST_OOM,
    "AcceleratorError": RootCause.CUDA_ERROR,
    "ModuleNotFoundError": RootCause.LAUNCH,
    "ImportError": RootCause.LAUNCH,
}
"""Exception types that say by themselves what broke (ours, Megatron-core's, PyTorch's)."""

NOT_LOADABLE = "cannot be loaded into this model"
"""What the engine says of a checkpoint whose bytes are whole and whose content is not."""

DATA_FRAMES = ("jobs.engine.dataset", "jobs.data.indexed_dataset")
PROGRAM_KINDS = frozenset(
    {"AssertionError", "AttributeError", "KeyError", "NameError", "TypeError"}
)
"""Exceptions that come back however often a program is started."""

OF_ONE_RANK = frozenset({RootCause.CUDA_ERROR, RootCause.GPU_HARDWARE, RootCause.CRASH})
"""Failures of which it matters whose they are. Others may befall all ranks at the same moment, and
it is chance who is first to say so."""

LEAVING = (-signal.SIGTERM, -signal.SIGKILL, STOPPED)
"""Codes of ranks that were told to leave, and of those that took too long."""


def first_failure(evidence: Evidence) -> RankExit | None:
    """The rank that broke first, by itself; None when all left on request or lost a peer.

    A code that srun or the launcher saw first and that is a signal names its rank whatever the
    times say: who was killed left no time of its own.
    """
    failed = [rank for rank in evidence.traces.ranks if failed_itself(evidence, rank)]
    sudden = evidence.observed.code is not None and evidence.observed.code < 0
    named = [rank for rank in failed if sudden and rank.code == evidence.observed.code]
    return min(named or failed, key=lambda rank: rank.time, default=None)


def broken(evidence: Evidence) -> bool:
    """Whether a rank broke although all were asked to leave: those that leave, or are made to
    because they take too long, did not.
    """
    first = first_failure(evidence)
    return first is not None and first.code not in LEAVING


def failed_itself(evidence: Evidence, rank: RankExit) -> bool:
    left = rank.code in (0, STOPPED) or rank.kind == "Stopped"
    return not left and not is_symptom(evidence, rank)


def is_symptom(evidence: Evidence, rank: RankExit) -> bool:
    """Whether a rank only tells of another one's end."""
    match = log_patterns.search(f"{rank.kind}: {rank.message}") if rank.kind else None
    if match is not None:
        return match[0] in log_patterns.SYMPTOMS
    aborted = rank.code == -signal.SIGABRT and not rank.kind
    return aborted and any(sign.name in log_patterns.SYMPTOMS for sign in signs_of(evidence, rank))


def told_by(evidence: Evidence, rank: RankExit) -> RootCause:
    """What a failed rank's words say, else its log, else that it ended."""
    cause = said(evidence, rank) if rank.kind else logged(evidence, rank)
    if cause is RootCause.LAUNCH and in_all_ranks(evidence, rank) and rank.kind in KINDS:
        return RootCause.CONFIGURATION  # what cannot be imported anywhere is not installed
    if cause is RootCause.EXCEPTION and is_program_error(evidence, rank):
        return RootCause.CONFIGURATION
    return cause


def said(evidence: Evidence, rank: RankExit) -> RootCause:
    """By an exception: what it says, its type, its exit code, where it was raised."""
    match = log_patterns.search(rank.message)
    found = (
        RootCause.CHECKPOINT if NOT_LOADABLE in rank.message else None,
        log_patterns.CAUSES[match[0]] if match else None,
        KINDS.get(rank.kind),
        RootCause.CONFIGURATION if rank.code == CONFIGURATION else None,
        RootCause.DATA if rank.frame.startswith(DATA_FRAMES) else None,
    )
    return next((cause for cause in found if cause is not None), RootCause.EXCEPTION)


def logged(evidence: Evidence, rank: RankExit) -> RootCause:
    """By the log of a rank that left no words."""
    if rank.code == CONFIGURATION:
        return RootCause.CONFIGURATION
    causes = [points_to(sign) for sign in signs_of(evidence, rank)]
    plain = RootCause.CRASH if rank.code < 0 else RootCause.EXCEPTION
    return next(
        (cause for cause in causes if cause not in (RootCause.UNKNOWN, RootCause.HANG)), plain
    )


def points_to(sign: LogSign) -> RootCause:
    """What a line of the log points to; an XID of the program is a CUDA error."""
    if sign.number is None:
        return log_patterns.CAUSES[sign.name]
    harmless = xid.action(sign.number) is Xid.IGNORE
    return RootCause.UNKNOWN if harmless else RootCause.CUDA_ERROR


def signs_of(evidence: Evidence, rank: RankExit) -> Iterable[LogSign]:
    """What the log says of a rank; a line without a label may be about any."""
    return (sign for sign in evidence.traces.log_signs if sign.rank in (rank.rank, None))


def last_sign(evidence: Evidence, rank: RankExit) -> str:
    return next((sign.line for sign in signs_of(evidence, rank)), "")


def is_program_error(evidence: Evidence, rank: RankExit) -> bool:
    """Whether an exception before the run's first step comes back however often it is started."""
    untouched = (
        not evidence.progress.step_before
        and not evidence.progress.step_after
        and not evidence.progress.last_step
    )
    if evidence.attempt.stage not in TRAINING_STAGES or not untouched:
        return False
    return rank.kind in PROGRAM_KINDS or in_all_ranks(evidence, rank)


def in_all_ranks(evidence: Evidence, rank: RankExit) -> bool:
    """Whether every rank, of several, left with the same exception."""
    alike = [
        other
        for other in evidence.traces.ranks
        if (other.kind, other.frame) == (rank.kind, rank.frame)
        and normalised(other.message) == normalised(rank.message)
    ]
    return (
        rank.kind != ""
        and evidence.attempt.world_size > 1
        and len(alike) == evidence.attempt.world_size
    )


def normalised(message: str) -> str:
    """A message without what differs from one time to the next: addresses, paths, numbers."""
    text = re.sub(r"0x[0-9a-fA-F]+|\b[0-9a-f]{8,}\b", "#", message)
    text = re.sub(r"(?:[\w.~+-]*/)+[\w.+-]*", "/", text)
    return " ".join(re.sub(r"\d+(?:[.,:]\d+)*", "#", text).split())
