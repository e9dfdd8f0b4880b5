"""Evidence about an attempt that has ended, in memory only. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.contract.outcomes import Diagnosis, Hang, NodeFinding


@dataclass(frozen=True)
class RankExit:
    """The last words of one rank (``rank-exit-<task>-<rank>.json``), or what srun said of it."""

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
class RecoveryOptions:
    """What the place where the decision is made can do."""

    scheduler: str = "slurm"
    in_allocation: bool = True
    """False for the recovery job and the login node: the job is over."""
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
    """A person cancelled the run (event ``cancel``), or Slurm reports CANCELLED by one."""
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
    findings: tuple[NodeFinding, ...] = ()
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
    message: str = ""
    """What is already known in one sentence (a refused spec, a failed pre-flight)."""
    code_hint: str = ""
    configuration: bool = False
    """The supervisor itself refused: spec, secrets, wrong code."""
    site: RecoveryOptions = RecoveryOptions()
    run: str = ""
    """Name of the run, for the node ledger."""
    world_size: int = 0
    """Ranks that were to run; 0 where it is not known."""
    by_person: bool = False
    """A person started this attempt: what came before it no longer counts for budgets."""
    known: Diagnosis | None = None
    """What the attempt's own supervisor made of it, for who decides again after it."""
