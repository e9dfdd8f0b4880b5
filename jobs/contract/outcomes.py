"""What is known of how an attempt ended, and what is made of it: the words that the supervisor, the
policy and the janitor share. Standard library only.

An *attempt* is one start of a task's ranks: in a new job, in a job that Slurm queued again, or once
more in the same allocation. Each leaves a ``start`` and an ``exit`` event, which
``jobs.contract.attempt_history`` reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

TRAINING = ("pretrain",)
"""Stages with steps and checkpoints; the tasks of the others begin anew each time."""


class Cause(str, Enum):
    """Why an attempt ended (the classes of design RESILIENCE, section 5)."""

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
    NOT_A_NUMBER = "not_a_number"
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


class Action(str, Enum):
    """What happens next."""

    FINISH = "finish"
    RESTART = "restart"
    """Start the ranks again in this allocation."""
    REQUEUE = "requeue"
    """Have Slurm queue this job again."""
    SUBMIT = "submit"
    """A fresh job goes on."""
    WAIT = "wait"
    """Not decided here: Slurm is ending this job, or no job may be submitted from this place. Its
    next start, the janitor or ``meditron watch`` decides.
    """
    STOP = "stop"


@dataclass(frozen=True)
class RankExit:
    """The last words of one rank (``words-<task>-<rank>.json``), or what srun said of it."""

    rank: int
    node: str
    code: int
    """Exit code; negative is the signal that ended it."""
    time: float
    kind: str = ""
    """Exception type; empty for a rank that left no words."""
    message: str = ""
    frame: str = ""
    """``module:function`` of our innermost frame of the traceback."""
    hint: str = ""


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
class Finding:
    """A health finding that speaks against a node."""

    node: str
    code: str
    verdict: str
    """``DRAIN`` or ``FATAL``."""
    message: str


@dataclass(frozen=True)
class LogSign:
    """A line of the ranks' log that ``jobs.supervision.diagnosis.log_patterns`` knows. Evidence,
    not a verdict.
    """

    name: str
    rank: int | None = None
    """Of srun's label; None where the line has none."""
    number: int | None = None
    """Of an XID."""
    line: str = ""


@dataclass(frozen=True)
class Site:
    """What the place where the decision is made can do."""

    scheduler: str = "slurm"
    in_allocation: bool = True
    """False for the janitor and the login node: the job is over."""
    started_again: bool = False
    """The same job has been started once more, and this start asks about the one before it."""
    usable: bool = True
    """Ranks may be started once more here: those before them are gone for certain."""
    can_requeue: bool = True
    can_submit: bool = True
    requeues_left: int | None = None
    """Of Slurm's MaxBatchRequeue; None where it is not known."""
    seconds_left: float | None = None
    """Until the allocation ends; None where it is not known."""
    nodes: tuple[str, ...] = ()
    """Of this allocation."""


@dataclass(frozen=True)
class Evidence:
    """All that is known of an attempt that has just ended."""

    stage: str
    attempt: int
    job_id: str
    began: float
    ended: float
    done: bool = False
    """The done marker stands: the target was reached."""
    cancelled: bool = False
    """A person cancelled the run (event ``cancel``), or Slurm says CANCELLED."""
    cancelled_by: str = ""
    """``owner``, ``admin`` or empty for not known."""
    stop_asked: bool = False
    """The file STOP is there, or ``cancel --save`` was typed."""
    signals: tuple[int, ...] = ()
    """What the supervisor received, in order."""
    preempted: bool = False
    """``PreemptTime`` is set, or the accounting says PREEMPTED."""
    slurm_state: str = ""
    """Slurm's first word for the job (RUNNING, TIMEOUT, NODE_FAIL …); empty when it says none."""
    supervisor_signal: int = 0
    """That ended the supervisor itself, as the accounting has it; 0 for none."""
    ranks: tuple[RankExit, ...] = ()
    """Those that left words or failed, first to fail first."""
    code: int | None = None
    """Of the ranks' step; None when they were never started, or nobody saw it."""
    ranks_started: bool = True
    failed_node: str = ""
    """From ``srun: error: Node failure on X``."""
    oom_kills: int = 0
    findings: tuple[Finding, ...] = ()
    hang: Hang | None = None
    log_signatures: tuple[LogSign, ...] = ()
    """What ``jobs.supervision.diagnosis.log_patterns.find`` found in the ranks' log,
    first one first.
    """
    step_before: int | None = None
    """Of the newest valid checkpoint when the attempt began; None: not known, which is not 0."""
    step_after: int | None = None
    last_step: int | None = None
    """Last step on record, saved or not."""
    target_step: int | None = None
    message: str = ""
    """What is already known in one sentence (a refused spec, a failed pre-flight)."""
    code_hint: str = ""
    configuration: bool = False
    """The supervisor itself refused: spec, secrets, wrong code."""
    site: Site = Site()
    run: str = ""
    """Name of the run, for the node ledger."""
    world_size: int = 0
    """Ranks that were to run; 0 where it is not known."""
    by_person: bool = False
    """A person started this attempt: what came before it no longer counts for budgets."""
    known: Verdict | None = None
    """What the attempt's own supervisor made of it, for who decides again after it."""


@dataclass(frozen=True)
class Verdict:
    """What the evidence says: pure ``jobs.supervision.diagnosis.root_cause.classify``
    answers it.
    """

    cause: Cause
    sentence: str
    """For people: where and what."""
    node: str = ""
    """The suspect, empty when there is none."""
    fingerprint: str = ""
    """Equal for the same failure on whatever node; empty when there is nothing to compare."""
    hint: str = ""


@dataclass(frozen=True)
class Ending:
    """An attempt as the ledger keeps it."""

    stage: str
    index: int
    attempt: int
    job_id: str
    cause: Cause
    fingerprint: str
    node: str
    began: float
    ended: float
    step_before: int | None
    step_after: int | None
    action: Action
    by_person: bool = False
    """A person started it (submit, resume): what came before it no longer counts."""
    last_step: int | None = None
    """Last step on record when it ended, saved or not."""


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

    action: Action
    reason: str
    delay: float = 0.0
    """Seconds before the next start."""
    exclude: tuple[str, ...] = ()
    """Nodes the next job must not use."""
    suspects: tuple[NodeEntry, ...] = ()
    """What goes into the node ledger."""
    code: int = 1
    """The exit code of the supervisor (``jobs.runtime.context``)."""
    verdict: Verdict | None = None
    """Why the attempt ended, as the exit record keeps it; ``policy.decide`` always gives it."""
