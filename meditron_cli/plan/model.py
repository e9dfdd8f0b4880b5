"""The plan: stages, tasks, resources and dependencies. Frozen dataclasses, standard library."""

from __future__ import annotations

from dataclasses import dataclass, field

from jobs.contract.metrics_log import StepTimes
from jobs.contract.notification import NotifySettings
from jobs.contract.specs import TaskSpec
from jobs.contract.stage_specs import CORPUS_STAGES, PRETRAIN, CurateSpec

NO_TRAINING = "the plan has no pretraining"


@dataclass(frozen=True)
class Resources:
    """The resources that one task of a stage requests."""

    nodes: int
    ranks_per_node: int
    gpus_per_node: int
    """0 requests none."""
    gpu_type: str
    """Typed gres name (``a100``), empty for untyped."""
    cpus_per_rank: int
    memory_gb: int
    """Per node; 0 leaves it to the site's default."""
    time_minutes: int
    signal_lead_seconds: int
    """Signal lead time: how long before the time limit Slurm signals the task to save and exit."""
    partition: str
    account: str
    qos: str
    """Empty strings are left out of the batch script."""


@dataclass(frozen=True)
class Lead:
    """The signal lead time of training, and the origin of that figure."""

    seconds: int
    source: str
    """``given`` (by the experiment), ``measured`` (in this run) or ``estimated``."""
    times: StepTimes
    """Durations of saves and steps."""
    times_source: str
    """``measured`` or ``estimated``."""

    @property
    def is_computed(self) -> bool:
        """Return whether the lead may change when saves are measured."""
        return self.source != "given"


@dataclass(frozen=True)
class StagePlan:
    """One stage: its tasks, resources, and the stages that must finish before it."""

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
    """The settings of a cluster that the scheduler needs to make jobs."""

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
    """Resources of the recovery job behind each stage; None for no such job."""


@dataclass(frozen=True)
class Plan:
    """Everything that a submission does, computed before it does it."""

    name: str
    """The experiment's name."""
    size: str
    stages: tuple[StagePlan, ...]
    site: SiteSettings
    warnings: tuple[str, ...]
    """Sentences for people: what does not fit well."""
    lead: Lead | None = None
    """Of training; None where the plan has none."""
    notify: NotifySettings = field(default_factory=NotifySettings)
    weights_folder: str = ""
    """Of the base model that training starts from; empty for random weights, and where this machine
    does not have it."""

    def stage(self, name: str) -> StagePlan:
        """Return the plan of one stage; KeyError if the plan has none of that name."""
        for stage in self.stages:
            if stage.stage == name:
                return stage
        raise KeyError(name)

    @property
    def replaced_stages(self) -> tuple[str, ...]:
        """Return the stages whose work one task of the plan does too."""
        specs = (task.spec for stage in self.stages for task in stage.tasks)
        is_whole = any(isinstance(spec, CurateSpec) and spec.whole for spec in specs)
        return CORPUS_STAGES[:-1] if is_whole else ()

    @property
    def training(self) -> StagePlan:
        """Return the plan of pretraining; KeyError if the plan has none."""
        return self.stage(PRETRAIN)

    @property
    def training_lead(self) -> Lead:
        """Return the signal lead time of training; KeyError if the plan has no training."""
        if self.lead is None:
            raise KeyError(NO_TRAINING)
        return self.lead
