"""Root causes, diagnoses and retry decisions: types that supervisor, policy and recovery job
share. Standard library only.

An *attempt* is one start of a task's ranks: in a new job, in a job that Slurm requeued, or once
more in the same allocation. Each has a ``start`` and an ``exit`` event, which
``jobs.contract.attempt_history`` reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class RootCause(str, Enum):
    """The class of an attempt's end (docs/resilience.md)."""

    COMPLETED = "completed"
    PREEMPTED = "preempted"
    TIME_LIMIT = "time_limit"
    NODE_FAIL = "node_fail"
    UNHEALTHY = "unhealthy"
    """The pre-flight refused a node."""
    GPU_HARDWARE = "gpu_hardware"
    CUDA_ERROR = "cuda_error"
    CUDA_OOM = "cuda_oom"
    HOST_OOM = "host_oom"
    HANG = "hang"
    CRASH = "crash"
    """A rank was ended by a signal."""
    EXCEPTION = "exception"
    """A rank left with an exception of the program."""
    NON_FINITE = "non_finite"
    DATA = "data"
    CHECKPOINT = "checkpoint"
    STORAGE = "storage"
    LAUNCH = "launch"
    """The ranks did not find each other, or could not be started."""
    CONFIGURATION = "configuration"
    STOPPED = "stopped"
    """Somebody asked for it: the file STOP, ``cancel --save``."""
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


class RetryAction(str, Enum):
    """What happens next."""

    FINISH = "finish"
    RESTART = "restart"
    """Start the ranks again in this allocation."""
    REQUEUE = "requeue"
    """Have Slurm queue this job again."""
    SUBMIT = "submit"
    """A fresh job goes on."""
    WAIT = "wait"
    """Not decided here: Slurm is ending this job, or no job may be submitted from this node. The
    attempt stays open (event ``observed``) until the job's next start, the recovery job,
    ``meditron recover`` or a person's ``resume`` closes it. No exit record has this action.
    """
    STOP = "stop"


@dataclass(frozen=True)
class Hang:
    """Ranks that made no step for longer than they may
    (``jobs.supervision.ranks.hang_detector``).
    """

    phase: str
    seconds: float
    """How long nothing moved."""
    limit: float
    rank: int | None = None
    """The rank that stopped first, where that is known."""
    node: str = ""
    detail: str = ""
    """What that rank was doing: ``stopped by a signal (state T)``, or its innermost frame."""


@dataclass(frozen=True)
class NodeFinding:
    """A health finding that speaks against a node."""

    node: str
    code: str
    verdict: str
    """``DRAIN`` or ``FATAL``."""
    message: str


@dataclass(frozen=True)
class Diagnosis:
    """What the evidence says: pure ``jobs.supervision.diagnosis.root_cause.classify``
    answers it.
    """

    cause: RootCause
    sentence: str
    """For people: where and what."""
    node: str = ""
    """The suspect, empty when there is none."""
    fingerprint: str = ""
    """Equal for the same failure on whatever node; empty when there is nothing to compare."""
    hint: str = ""


@dataclass(frozen=True)
class NodeEntry:
    """One line of a cluster's node ledger (``nodes-<cluster>.jsonl`` in the runs directory)."""

    time: float
    node: str
    code: str
    """Of the finding, or the cause in capitals."""
    verdict: str
    """``FATAL``, ``DRAIN`` or ``SUSPECT``; ``CLEARED`` takes back what stands before it."""
    run: str
    attempt: int
    evidence: str
    expires: float
    gpu_uuid: str = ""
    stage: str = ""


@dataclass(frozen=True)
class Decision:
    """What happens next, and why in one sentence."""

    action: RetryAction
    reason: str
    delay: float = 0.0
    """Seconds before the next start."""
    exclude: tuple[str, ...] = ()
    """Nodes the next job must not use."""
    suspects: tuple[NodeEntry, ...] = ()
    """What goes into the node ledger."""
    code: int = 1
    """The exit code of the supervisor (``jobs.runtime.context``)."""
    verdict: Diagnosis | None = None
    """Why the attempt ended, as the exit record keeps it; ``policy.decide`` always gives it."""


CONTINUES = frozenset({RetryAction.RESTART, RetryAction.REQUEUE, RetryAction.SUBMIT})
"""Decisions after which somebody is to work on a task."""
