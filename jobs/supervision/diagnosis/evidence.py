"""Evidence about an attempt that has ended, in memory only. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.contract.outcomes import Diagnosis, Hang, NodeFinding
from jobs.slurm.srun_output import FailedTask


@dataclass(frozen=True)
class RankExit:
    """The exit of one rank, from its record (``rank-exit-<task>-<rank>.json``) or from srun."""

    rank: int
    node: str
    code: int
    """Exit code; negative is the signal that ended it."""
    time: float
    kind: str = ""
    """Exception type; empty for a rank without a record."""
    message: str = ""
    frame: str = ""
    """``module:function`` of our innermost frame of the traceback."""
    hint: str = ""


@dataclass(frozen=True)
class LogSign:
    """A line of the ranks' log that matches ``jobs.supervision.diagnosis.log_patterns``. Evidence,
    not a diagnosis.
    """

    name: str
    rank: int | None = None
    """Of srun's label; None where the line has none."""
    number: int | None = None
    """Of an XID."""
    line: str = ""


@dataclass(frozen=True)
class RecoveryOptions:
    """The recovery options of the process that decides."""

    scheduler: str = "slurm"
    in_allocation: bool = True
    """False for the recovery job and the login node, which decide about jobs that have ended."""
    started_again: bool = False
    """The same job has started once more, and that start decides about the one before it."""
    usable: bool = True
    """Ranks may be started once more here, since nothing of the previous ones is left."""
    can_requeue: bool = True
    can_submit: bool = True
    requeues_left: int | None = None
    """Of Slurm's MaxBatchRequeue; None where it is not known."""
    seconds_left: float | None = None
    """Until the allocation ends; None where it is not known."""
    nodes: tuple[str, ...] = ()
    """Of this allocation."""


@dataclass(frozen=True)
class AttemptFacts:
    """An attempt that has just ended, by the run directory."""

    stage: str
    number: int
    job_id: str
    began: float
    ended: float
    run: str = ""
    """Name of the run, for the node ledger."""
    world_size: int = 0
    """Ranks that were to run; 0 where it is not known."""
    by_person: bool = False
    """A person started this attempt: earlier ones do not count against budgets."""
    done: bool = False
    """The task has its done marker: the target was reached."""
    cancelled: bool = False
    """A person cancelled the run (event ``cancel``)."""
    stop_requested: bool = False
    """The file STOP exists, or ``cancel --save`` was typed."""
    energy_j: float | None = None
    """Used by its GPUs, in joules; None where it is not known."""
    energy_source: str = ""
    """``counter`` or ``power`` (``jobs.health.monitor.records.energy``)."""


@dataclass(frozen=True)
class Observed:
    """The supervisor's own observations of an attempt; empty where it died before it had any."""

    code: int | None = None
    """Exit code of the ranks' step; None when they were never started, or it is not known."""
    ranks_started: bool = False
    ranks_gone: bool = True
    """Nothing of the ranks is left in the allocation, so that it may run ranks once more."""
    failures: tuple[FailedTask, ...] = ()
    signals: tuple[int, ...] = ()
    """Received by the supervisor, in order; SIGUSR2 last where the allocation ends unannounced."""
    preempted: bool = False
    """Slurm announced a preemption while the ranks ran."""
    findings: tuple[NodeFinding, ...] = ()
    hang: Hang | None = None
    left_for: NodeFinding | None = None
    """The finding for which the ranks were killed, or requested to save and exit."""
    oom_kills: int = 0
    message: str = ""
    """The supervisor's own sentence (a refused spec, a failed preflight check)."""
    hint: str = ""
    is_configuration_error: bool = False
    """The supervisor itself refused: spec, secrets, wrong code."""
    storage_refuses: bool = False
    """The attempt's folder took no file when the attempt had ended."""
    diagnosis: Diagnosis | None = None
    """By the attempt's own supervisor, where another process closes the attempt."""


@dataclass(frozen=True)
class Traces:
    """Records and logs of ranks and srun in the attempt's folder, and failed nodes in Slurm."""

    ranks: tuple[RankExit, ...] = ()
    """Those with a rank exit or a failure, first to fail first."""
    failed_node: str = ""
    """From ``srun: error: Node failure on X``, else the one that Slurm reports as down or rebooted.
    """
    oom_kills: int = 0
    log_signs: tuple[LogSign, ...] = ()
    """Found by ``jobs.supervision.diagnosis.log_patterns`` in the ranks' log, first one first."""


@dataclass(frozen=True)
class SlurmReport:
    """Slurm's report about the job, and the recovery options."""

    state: str = ""
    """First word of the job's state (RUNNING, TIMEOUT, NODE_FAIL …); empty where not known."""
    preempted: bool = False
    """``PreemptTime`` is set, or the accounting has PREEMPTED."""
    storage_requeue: bool = False
    """The supervisor requeued the job because the storage took no files."""
    cancelled: bool = False
    """Cancelled by a person."""
    cancelled_by: str = ""
    """``owner``, ``admin`` or empty where it is not known."""
    out_of_memory: bool = False
    supervisor_signal: int = 0
    """The signal that killed the supervisor, by the accounting; 0 for none."""
    failed_node: str = ""
    """The only node of the job that is down now, or one that has rebooted since the job started."""
    ended: float | None = None
    """When the job ended; None while it runs, or where it is not known."""
    options: RecoveryOptions = RecoveryOptions()


@dataclass(frozen=True)
class Progress:
    """The progress of training, in optimizer steps."""

    step_before: int | None = None
    """Step of the newest valid checkpoint when the attempt began; None where it is not known."""
    step_after: int | None = None
    """The same when it had ended."""
    last_step: int | None = None
    """Last step on record, saved or not."""


@dataclass(frozen=True)
class Evidence:
    """All evidence about an attempt that has just ended, by source."""

    attempt: AttemptFacts
    observed: Observed = Observed()
    traces: Traces = Traces()
    slurm: SlurmReport = SlurmReport()
    progress: Progress = Progress()

    @property
    def options(self) -> RecoveryOptions:
        """Return the recovery options of the process that decides."""
        return self.slurm.options
