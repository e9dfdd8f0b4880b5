"""The inputs of a plan, and the settings of training, from which its lead follows. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from jobs.contract.metrics_log import MetricsSummary, StepTimes
from jobs.contract.stage_specs import (
    COMPUTING_STAGES,
    JUDGE,
    SELFTEST,
    TRAINING_STAGES,
    ModelSpec,
    OptimizerSpec,
    PretrainSpec,
    TokenizerRef,
)
from meditron_cli.plan import corpus, step_times
from meditron_cli.plan.model import Lead, StagePlan
from meditron_cli.plan.spec_parts import (
    batch_of,
    corpora_of,
    finetune_batch,
    finetune_parallel,
    finetuned_model_spec,
    model_spec,
    models_of,
    parallel_spec,
    phases_of,
    shared,
    vocabulary_spec,
)

if TYPE_CHECKING:
    from meditron_cli.config.cluster_schema import Cluster, Container, Partition
    from meditron_cli.config.experiment_schema import Experiment


@dataclass(frozen=True)
class Inputs:
    """The inputs of a plan."""

    experiment: Experiment
    cluster: Cluster
    size: str
    tokenizer_sha256: str
    """Of the tokenizer's bytes; it decides what a token file contains."""
    interpreter: str
    """Python of the submitting process, used where the profile names none."""
    measured: MetricsSummary | None = None
    """Measured in the run that is continued; None for a new one."""
    host_cores: int = 0
    """Cores of this machine, where it runs the ranks itself; 0 with Slurm."""
    locations: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Where a key was written, for messages; defaults have none."""
    weights_folder: str = ""
    """Absolute folder of the base model that ``model.weights`` names; empty for random weights, and
    where this machine does not have it."""
    weights_links: tuple[str, ...] = ()
    """Other folders to which its files are symbolic links, as in the hub's cache."""
    source_bytes: int | None = None
    """Of the documents to curate; None where this machine does not have all of them."""
    grown: tuple[str, ...] = ()
    """Tokens of ``finetune.added_tokens`` that the tokenizer lacks."""
    start_target: int = 0
    """Target step of the training of ``finetune.run``; 0 without one."""
    built: dict[str, StagePlan] = field(default_factory=dict, compare=False, repr=False)
    """Stages that were planned, each once."""

    @property
    def tokenizer(self) -> TokenizerRef:
        tokenize = self.experiment.tokenize
        path = str(tokenize.tokenizer or "")
        return TokenizerRef(path, self.tokenizer_sha256, vocabulary_spec(self.experiment))

    @property
    def finetuned_tokenizer(self) -> TokenizerRef:
        """Return the tokenizer of finetuned models."""
        return replace(self.tokenizer, grown=self.grown)

    @property
    def finetuned_model(self) -> ModelSpec:
        """Return the architecture of finetuned models."""
        return finetuned_model_spec(self.experiment, self.grown)

    @property
    def corpus_tasks(self) -> int:
        """Return the tasks that read and clean."""
        return corpus.tasks(self.experiment.curate, self.source_bytes)

    @property
    def launcher(self) -> str:
        return "srun" if self.cluster.scheduler == "slurm" else "local"

    @property
    def cpu_partition(self) -> Partition:
        return self.cluster.cpu_partition or self.cluster.gpu_partition

    def partition(self, stage: str) -> Partition:
        """Return the partition of a stage; without CUDA only training and its selftest take the
        GPU partition.
        """
        computes = stage in COMPUTING_STAGES and self.cluster.device == "cuda"
        on_gpus = stage in TRAINING_STAGES or stage == SELFTEST or computes
        return self.cluster.gpu_partition if on_gpus else self.cpu_partition

    @property
    def python(self) -> str:
        return self.cluster.environment.python or self.interpreter

    def environment(self, stage: str) -> tuple[str, Container | None]:
        """Return interpreter and container of a stage's ranks."""
        environment = self.cluster.environment
        own = getattr(environment.stages, stage, None)
        if own is None and stage == JUDGE:
            own = environment.stages.generate
        if own is None:
            return self.python, environment.container
        return own.python, own.container

    @cached_property
    def training_lead(self) -> Lead:
        """Return the signal lead time of training: set, measured or estimated, for the longest of
        its sequences.
        """
        experiment = self.experiment
        model, pretrain = models_of(experiment)[-1], experiment.pretrain
        size = model.checkpoint_bytes(pretrain.precision)
        parallel, node = parallel_spec(experiment), self.cluster.gpu_partition.node
        step = step_times.step_seconds(
            model, parallel, batch_of(experiment), pretrain.precision, node
        )
        estimated = StepTimes(step_times.save_seconds(size), step)
        measured = self.measured.step_times(pretrain_spec(self)) if self.measured else None
        return step_times.lead_of(pretrain.signal_lead_seconds, measured, estimated, size)

    @cached_property
    def finetune_lead(self) -> Lead:
        """Return the signal lead time of finetuning, estimated until its saves are measured."""
        experiment, model = self.experiment, self.finetuned_model
        precision, node = experiment.pretrain.precision, self.cluster.gpu_partition.node
        size = model.checkpoint_bytes(precision)
        parallel, batch = finetune_parallel(experiment), finetune_batch(experiment)
        step = step_times.step_seconds(model, parallel, batch, precision, node)
        estimated = StepTimes(step_times.save_seconds(size), step)
        return step_times.lead_of(None, None, estimated, size)


def pretrain_spec(inputs: Inputs) -> PretrainSpec:
    """Return the settings of training."""
    experiment = inputs.experiment
    pretrain, parallel = experiment.pretrain, parallel_spec(experiment)
    decay_steps = pretrain.decay_steps or pretrain.train_steps
    optimizer = shared(pretrain, OptimizerSpec) | {"decay_steps": decay_steps}
    return PretrainSpec(
        model=model_spec(experiment),
        parallel=parallel,
        device=inputs.cluster.device,
        weights=str(experiment.model.weights or ""),
        corpora=corpora_of(experiment),
        phases=phases_of(experiment),
        train_steps=pretrain.target_step,
        tokenizer=inputs.tokenizer,
        optimizer=OptimizerSpec(**optimizer),
        seed=experiment.seed,
        checkpoint_dir="checkpoints",
        tensorboard_dir="tensorboard",
        index_dir="tokens/index",
        keep_steps=pretrain.steps_to_keep,
        **{
            name: value
            for name, value in shared(pretrain, PretrainSpec).items()
            if name not in ("corpora", "phases", "train_steps", "keep_steps")
        },
    )
