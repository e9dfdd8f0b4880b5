"""Find the rank that failed first, and map its exception or log to a root cause. Pure.

Ranks that lose a peer print long errors; a rank that was killed prints none.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable

from jobs.contract.errors import CONFIGURATION, STOPPED
from jobs.contract.outcomes import RootCause
from jobs.contract.stage_specs import TRAINING_STAGES
from jobs.health import xid
from jobs.health.xid import XidAction
from jobs.supervision.diagnosis import log_patterns
from jobs.supervision.diagnosis.evidence import Evidence, LogSign, RankExit

KINDS = {
    "NonFiniteLoss": RootCause.NON_FINITE,
    "LossSpike": RootCause.NON_FINITE,
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
"""Root cause per exception type (ours, Megatron-core's, PyTorch's)."""

NOT_LOADABLE = "cannot be loaded into this model"
"""Part of the engine's message about a checkpoint with intact bytes and unusable content."""

DATA_FRAMES = ("jobs.engine.dataset", "jobs.data.indexed_dataset")
PROGRAM_KINDS = frozenset(
    {"AssertionError", "AttributeError", "KeyError", "NameError", "TypeError"}
)
"""Exceptions that recur with every start of a program."""

OF_ONE_RANK = frozenset({RootCause.CUDA_ERROR, RootCause.GPU_HARDWARE, RootCause.CRASH})
"""Causes whose rank is part of the fingerprint. Other failures may occur in all ranks at the same
moment, and which rank is first is chance."""

STOP_CODES = (-signal.SIGTERM, -signal.SIGKILL, STOPPED)
"""Exit codes of ranks after a stop request, and of those that were killed after their timeout."""


def first_failure(evidence: Evidence) -> RankExit | None:
    """Return the rank that failed first, by itself; None when all exited on request or lost a peer.

    Where the first exit code by srun or the launcher is a signal, it names the rank whatever the
    times are: a rank that was killed records no time.
    """
    failed = [rank for rank in evidence.traces.ranks if is_own_failure(evidence, rank)]
    sudden = evidence.observed.code is not None and evidence.observed.code < 0
    named = [rank for rank in failed if sudden and rank.code == evidence.observed.code]
    return min(named or failed, key=lambda rank: rank.time, default=None)


def has_failed_rank(evidence: Evidence) -> bool:
    """Return whether a rank failed by itself although all were requested to exit: one that exits on
    request, or is killed after its timeout, did not.
    """
    first = first_failure(evidence)
    return first is not None and first.code not in STOP_CODES


def is_own_failure(evidence: Evidence, rank: RankExit) -> bool:
    exited = rank.code in (0, STOPPED) or rank.kind == "Stopped"
    return not exited and not is_symptom(evidence, rank)


def is_symptom(evidence: Evidence, rank: RankExit) -> bool:
    """Return whether a rank only reports the end of another one."""
    match = log_patterns.search(f"{rank.kind}: {rank.message}") if rank.kind else None
    if match is not None:
        return match[0] in log_patterns.SYMPTOMS
    aborted = rank.code == -signal.SIGABRT and not rank.kind
    return aborted and any(sign.name in log_patterns.SYMPTOMS for sign in signs_of(evidence, rank))


def cause_of(evidence: Evidence, rank: RankExit) -> RootCause:
    """Return the root cause by a failed rank's record, else its log, else its exit code."""
    cause = cause_of_exception(rank) if rank.kind else cause_in_log(evidence, rank)
    if cause is RootCause.LAUNCH and in_all_ranks(evidence, rank) and rank.kind in KINDS:
        return RootCause.CONFIGURATION  # what cannot be imported anywhere is not installed
    if cause is RootCause.EXCEPTION and is_program_error(evidence, rank):
        return RootCause.CONFIGURATION
    return cause


def cause_of_exception(rank: RankExit) -> RootCause:
    """Return the root cause by an exception: its message, type, exit code, innermost frame."""
    match = log_patterns.search(rank.message)
    candidates = (
        RootCause.CHECKPOINT if NOT_LOADABLE in rank.message else None,
        log_patterns.CAUSES[match[0]] if match else None,
        KINDS.get(rank.kind),
        RootCause.CONFIGURATION if rank.code == CONFIGURATION else None,
        RootCause.DATA if rank.frame.startswith(DATA_FRAMES) else None,
    )
    return next((cause for cause in candidates if cause is not None), RootCause.EXCEPTION)


def cause_in_log(evidence: Evidence, rank: RankExit) -> RootCause:
    """Return the root cause by the log of a rank without a record."""
    if rank.code == CONFIGURATION:
        return RootCause.CONFIGURATION
    causes = [cause_of_sign(sign) for sign in signs_of(evidence, rank)]
    plain = RootCause.CRASH if rank.code < 0 else RootCause.EXCEPTION
    return next(
        (cause for cause in causes if cause not in (RootCause.UNKNOWN, RootCause.HANG)), plain
    )


def cause_of_sign(sign: LogSign) -> RootCause:
    """Return the root cause that a log line indicates; an XID of the program is a CUDA error."""
    if sign.number is None:
        return log_patterns.CAUSES[sign.name]
    harmless = xid.action(sign.number) in (XidAction.IGNORE, XidAction.REPORT)
    return RootCause.UNKNOWN if harmless else RootCause.CUDA_ERROR


def signs_of(evidence: Evidence, rank: RankExit) -> Iterable[LogSign]:
    """Return the log signs of a rank; a line without a label may belong to any."""
    return (sign for sign in evidence.traces.log_signs if sign.rank in (rank.rank, None))


def first_sign_line(evidence: Evidence, rank: RankExit) -> str:
    return next((sign.line for sign in signs_of(evidence, rank)), "")


def is_program_error(evidence: Evidence, rank: RankExit) -> bool:
    """Return whether an exception before the run's first step recurs with every start."""
    untouched = (
        not evidence.progress.step_before
        and not evidence.progress.step_after
        and not evidence.progress.last_step
    )
    if evidence.attempt.stage not in TRAINING_STAGES or not untouched:
        return False
    return rank.kind in PROGRAM_KINDS or in_all_ranks(evidence, rank)


def in_all_ranks(evidence: Evidence, rank: RankExit) -> bool:
    """Return whether every rank, of several, ended with the same exception."""
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
    """Return a message without addresses, paths and numbers, which differ between attempts."""
    text = re.sub(r"0x[0-9a-fA-F]+|\b[0-9a-f]{8,}\b", "#", message)
    text = re.sub(r"(?:[\w.~+-]*/)+[\w.+-]*", "/", text)
    return " ".join(re.sub(r"\d+(?:[.,:]\d+)*", "#", text).split())
