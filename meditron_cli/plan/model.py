"""The plan: what will run, with what, after what. Frozen dataclasses, standard library only."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.contract.metrics_log import StepTimes
from jobs.contract.specs import TaskSpec

RUN = "{run}"
"""Stands for the run directory in a rank's command; the supervisor puts the real one in."""


@dataclass(frozen=True)
class Resources:
    """What one task of a stage asks the scheduler for."""

    nodes: int
    ranks_per_node: int
    gpus_per_node: int
    """0 asks for none."""
    gpu_type: str
    """Typed gres name (``a100``), empty for untyped."""
    cpus_per_rank: int
    memory_gb: int
    """Per node; 0 leaves it to the site's default."""
    time_minutes: int
    signal_lead_seconds: int
    """How long before the time limit Slurm asks the task to save and leave."""
    partition: str
    account: str
    qos: str
    """Empty strings are left out of the batch script."""


@dataclass(frozen=True)
class Lead:
    """How long before its time limit a training job is asked to save, and where that is known
    from.
    """

    seconds: int
    source: str
    """``given`` (by the experiment), ``measured`` (in this run) or ``estimated``."""
    pace: StepTimes
    """How long saves and steps take."""
    pace_source: str
    """``measured`` or ``estimated``."""

    @property
    def is_computed(self) -> bool:
        """Whether it may change when more is known."""
        return self.source != "given"


@dataclass(frozen=True)
class StagePlan:
    """One stage: its tasks, resources, and the stages that must have finished before."""

    stage: str
    tasks: tuple[TaskSpec, ...]
    resources: Resources
    chunks: tuple[tuple[int, ...], ...]
    """Task indices split into arrays no longer than the site's MaxArraySize allows."""
    max_parallel: int
    """Array elements running at once."""
    after: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    """Nodes that must not be used; known only when something is submitted."""


@dataclass(frozen=True)
class SiteSettings:
    """How jobs of this cluster are made: everything of the profile the scheduler needs."""

    cluster: str
    scheduler: str
    """``slurm`` or ``local``."""
    device: str
    setup: tuple[str, ...]
    """Shell lines before Python starts: ``module load …``, ``export NAME=value`` (already
    quoted).
    """
    environment: tuple[str, ...]
    """Names of variables passed from the submitting shell (allow-list)."""
    python: str
    """Interpreter of the batch step; empty means the one that submits."""
    sbatch: tuple[tuple[str, str], ...]
    """Extra sbatch options, sorted (``constraint``, ``reservation`` …)."""
    requeue: bool = True
    """Whether Slurm may queue a job again by itself."""
    recovery_job: Resources | None = None
    """Of the small job that looks after each stage; None for no such job."""


@dataclass(frozen=True)
class Plan:
    """Everything a submission does, before it does it."""

    name: str
    """The experiment's name."""
    size: str
    stages: tuple[StagePlan, ...]
    site: SiteSettings
    warnings: tuple[str, ...]
    """Sentences for people: what does not fit well."""
    lead: Lead | None = None
    """Of training; None where the plan has none."""

    def stage(self, name: str) -> StagePlan:
        """The plan of one stage; KeyError when the plan has none of that name."""
        for stage in self.stages:
            if stage.stage == name:
                return stage
        raise KeyError(name)

    @property
    def training_lead(self) -> Lead:
        """The lead of training; KeyError when the plan has no training."""
        if self.lead is None:
            raise KeyError("pretrain")
        return self.lead
