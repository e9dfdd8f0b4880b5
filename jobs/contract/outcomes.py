"""Root causes, diagnoses and retry decisions, shared by the supervisor, the retry policy and the
recovery job. Standard library only.

An *attempt* is one start of a task's ranks: in a new job, in a job that Slurm requeued, or once
more in the same allocation. Each has a ``start`` and an ``exit`` event, which
``jobs.contract.attempt_history`` reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from jobs.contract.units import Moment


class RootCause(str, Enum):
    """The class of an attempt's end (docs/resilience.md)."""

    COMPLETED = "completed"
    PREEMPTED = "preempted"
    TIME_LIMIT = "time_limit"
    NODE_FAIL = "node_fail"
    UNHEALTHY = "unhealthy"
    """The preflight check refused a node, or the ranks left one that is to be drained."""
    GPU_HARDWARE = "gpu_hardware"
    CUDA_ERROR = "cuda_error"
    CUDA_OOM = "cuda_oom"
    HOST_OOM = "host_oom"
    HANG = "hang"
    CRASH = "crash"
    """A rank was killed by a signal."""
    EXCEPTION = "exception"
    """A rank raised an exception of the program."""
    NON_FINITE = "non_finite"
    DATA = "data"
    CHECKPOINT = "checkpoint"
    STORAGE = "storage"
    LAUNCH = "launch"
    """Rendezvous failed, or the ranks could not be started."""
    CONFIGURATION = "configuration"
    STOPPED = "stopped"
    """A stop was requested: the file STOP, ``cancel --save``."""
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


class RetryAction(str, Enum):
    """The kind of a retry decision."""

    FINISH = "finish"
    RESTART = "restart"
    """Start the ranks again in this allocation."""
    REQUEUE = "requeue"
    """Requeue this job."""
    SUBMIT = "submit"
    """Submit a new job that resumes the task."""
    WAIT = "wait"
    """Not decided here: Slurm is ending this job, or no job may be submitted from this node. The
    attempt stays open (event ``observed``) until the job's next start, the recovery job,
    ``meditron recover`` or a person's ``resume`` closes it. No exit record has this action.
    """
    STOP = "stop"


@dataclass(frozen=True)
class Hang:
    """Ranks without progress for longer than the heartbeat timeout
    (``jobs.supervision.ranks.hang_detector``).
    """

    phase: str
    seconds: float
    """Time without progress."""
    limit: float
    rank: int | None = None
    """The rank that stopped first, where that is known."""
    node: str = ""
    detail: str = ""
    """State of that rank: ``stopped by a signal (state T)``, or its innermost frame."""
    collectives: str = ""
    """Which ranks have not entered a collective, in one sentence, or why that is not known."""


HEALTH_CODES = (
    "clock_low",
    "disk",
    "driver",
    "ecc_corrected",
    "ecc_mode",
    "ecc_sram",
    "ecc_uncorrected",
    "fabric",
    "foreign_process",
    "gpu_count",
    "gpu_handle",
    "gpu_kind",
    "gpu_lost",
    "gpu_reset_required",
    "inforom_corrupted",
    "load",
    "memory",
    "memory_temperature",
    "memory_unrepairable",
    "mig_mode",
    "network_errors",
    "network_flap",
    "network_port",
    "nvlink",
    "nvlink_errors",
    "nvlink_recovery",
    "oom_kill",
    "pcie_errors",
    "pcie_generation",
    "pcie_replays",
    "pcie_width",
    "persistence",
    "power_cap",
    "power_low",
    "probe_stuck",
    "recovery_action",
    "retired_pages",
    "row_remap",
    "scratch",
    "shm",
    "storage",
    "straggler",
    "swap",
    "temperature",
    "temperature_peers",
    "throttle",
    "xid",
)
"""Codes of findings about a node, which a profile may skip (``jobs.health.node_checks`` and, while
ranks run, ``jobs.health.monitor.rules`` and ``jobs.supervision.alarms``)."""


@dataclass(frozen=True)
class NodeFinding:
    """A health finding against a node."""

    node: str
    code: str
    verdict: str
    """``DRAIN`` or ``FATAL``."""
    message: str
    gpu_uuid: str = ""
    """Of the GPU at fault, where it is one."""

    @property
    def sentence(self) -> str:
        """Return the finding in one sentence."""
        return f"{self.node}: {self.message} ({self.code})"


@dataclass(frozen=True)
class Alarm:
    """A warning about a run, a node or a GPU while ranks run: the ``alarm`` event."""

    code: str
    """Of a finding, or ``driver_version``, ``straggler``, ``slow_steps``, ``slow_storage``,
    ``goodput``, ``rising_loss``, ``stalled_learning``, ``loss_spike``, ``restart_storm``,
    ``monitor_silent``."""
    message: str
    verdict: str = "WARN"
    """``WARN``, ``DRAIN`` or ``FATAL``."""
    node: str = ""
    """Empty where it concerns no single node."""
    key: str = ""
    """Distinguishes alarms of one code: a GPU, a port, a step."""

    @property
    def sentence(self) -> str:
        """Return the alarm in one sentence."""
        where = f"{self.node}: " if self.node else ""
        return f"{where}{self.message} ({self.code})"


@dataclass(frozen=True)
class HealthRequest:
    """A request of the node monitors that the ranks end."""

    finding: NodeFinding
    at_once: bool
    """Kill the ranks, which must not save. Otherwise they save and exit."""


@dataclass(frozen=True)
class Diagnosis:
    """The root cause of an attempt's end (``jobs.supervision.diagnosis.root_cause.classify``)."""

    cause: RootCause
    sentence: str
    """The location and the failure, for people."""
    node: str = ""
    """The suspect node; empty without one."""
    fingerprint: str = ""
    """Equal for the same failure on any node; empty where none can be compared."""
    hint: str = ""


@dataclass(frozen=True)
class NodeEntry:
    """One line of a cluster's node ledger (``nodes-<cluster>.jsonl`` in the runs directory)."""

    time: Moment
    node: str
    code: str
    """Of the finding, or the cause in capitals."""
    verdict: str
    """``FATAL``, ``DRAIN`` or ``SUSPECT``; ``CLEARED`` cancels the entries before it."""
    run: str
    attempt: int
    evidence: str
    expires: Moment
    gpu_uuid: str = ""
    stage: str = ""


@dataclass(frozen=True)
class Decision:
    """A retry decision with its reason in one sentence."""

    action: RetryAction
    reason: str
    delay: float = 0.0
    """Seconds before the next start."""
    exclude: tuple[str, ...] = ()
    """Nodes the next job must not use."""
    suspects: tuple[NodeEntry, ...] = ()
    """Entries for the node ledger."""
    code: int = 1
    """The exit code of the supervisor (``jobs.contract.errors``)."""
    diagnosis: Diagnosis | None = None
    """The diagnosis in the exit record; ``retry_policy.decide`` always sets it."""


CONTINUES = frozenset({RetryAction.RESTART, RetryAction.REQUEUE, RetryAction.SUBMIT})
"""Decisions after which a job resumes the task."""
