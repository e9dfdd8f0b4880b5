"""Build each stage's tasks and resources. Pure; no I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from jobs.contract import specs
from jobs.contract.corpus.folder import CORPUS
from jobs.contract.metrics_log import MetricsSummary, StepTimes
from jobs.contract.specs import RUN
from jobs.contract.stage_specs import (
    COMPUTING_STAGES,
    CORPUS_STAGES,
    CPU_STAGE_GIB_PER_CORE,
    MAIN_CORPUS,
    OWN_RUN,
    SELFTEST,
    STAGE_KINDS,
    TRAINING_STAGES,
    CleanSpec,
    ConvertSpec,
    CorpusSpec,
    CorpusWeight,
    CurateSpec,
    DeduplicateSpec,
    EvaluateSpec,
    ExportSpec,
    IndexSpec,
    ModelSpec,
    OptimizerSpec,
    ParallelSpec,
    PhaseSpec,
    PretrainSpec,
    RopeScaling,
    SelftestSpec,
    Spec,
    TailSpec,
    TokenizerRef,
    TokenizeSpec,
    VerifySpec,
    VocabularySpec,
)
from jobs.contract.units import GIB
from meditron_cli.config.data_files import place
from meditron_cli.plan import corpus, fit, layout, step_times
from meditron_cli.plan.model import Lead, Resources, StagePlan

if TYPE_CHECKING:
    from meditron_cli.config.cluster_schema import Cluster, Partition
    from meditron_cli.config.experiment_schema import Experiment, Mixture

SHORT_LEAD = 30
"""Signal lead time, in seconds, of tasks that restart from scratch."""

DEDUPLICATE_CORES = 4
"""Of the task that finds duplicates, whose memory they decide: 33 bytes per document at least,
several times that while they are sorted."""

OWN_CHECK = 0.0
"""Free space that the preflight check expects of tasks that compute their need themselves: a lack
is their error, which ends the run, and not one of the node, which is retried."""


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
    _stages: dict[str, StagePlan] = field(default_factory=dict, compare=False, repr=False)

    @property
    def tokenizer(self) -> TokenizerRef:
        tokenize = self.experiment.tokenize
        path = str(tokenize.tokenizer or "")
        return TokenizerRef(path, self.tokenizer_sha256, vocabulary_spec(self.experiment))

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

    def stage(self, name: str) -> StagePlan:
        """Return the plan of a stage, built once."""
        if name not in self._stages:
            self._stages[name] = BUILDERS[name](self)
        return self._stages[name]


def signal_lead(inputs: Inputs, stage: str) -> int:
    """Return the signal lead time of a stage in seconds; only training has much to save."""
    return inputs.training_lead.seconds if stage in TRAINING_STAGES else SHORT_LEAD


def startup_limit(inputs: Inputs, stage: str) -> int:
    """Return the start-up limit of a stage in seconds; training reads whole checkpoints, the other
    stages that compute read weights.
    """
    model, precision = model_spec(inputs.experiment), inputs.experiment.pretrain.precision
    whole = model.checkpoint_bytes(precision)
    read = 0
    if stage in COMPUTING_STAGES:
        read = whole if stage in TRAINING_STAGES else model.weights_bytes(precision)
    configured = inputs.experiment.supervision.startup_limit_seconds
    return step_times.startup_limit_of(configured, read, inputs.training_lead.times, whole)


def shared(section: Any, spec: type[Any]) -> dict[str, Any]:
    """Return the settings of a section of the experiment that a spec has under the same names."""
    names = spec.__dataclass_fields__.keys() & type(section).model_fields.keys()
    return {name: getattr(section, name) for name in names}


def model_spec(experiment: Experiment) -> ModelSpec:
    """Return the architecture."""
    model = experiment.model
    scaling = model.rope_scaling
    return ModelSpec(
        **shared(model, ModelSpec)
        | {
            "head_dim": model.head_dim or model.hidden_size // model.attention_heads,
            "rope_scaling": RopeScaling(**shared(scaling, RopeScaling)) if scaling else None,
        },
        padded_vocab_size=layout.padded_vocabulary(model.vocab_size, model.vocab_multiple),
    )


def models_of(experiment: Experiment) -> list[ModelSpec]:
    """Return the architecture with each sequence length of the training, the longest last."""
    model = model_spec(experiment)
    later = {phase.sequence_length for phase in experiment.pretrain.phases if phase.sequence_length}
    return [replace(model, seq_length=length) for length in sorted({model.seq_length, *later})]


def vocabulary_spec(experiment: Experiment) -> VocabularySpec:
    """Return the tokens added to the base vocabulary, and those with a role.

    Of ``model.vocab_size`` rows, the base model's tokens have those that neither added tokens nor
    unused rows take; added tokens take unused rows first.
    """
    vocabulary = experiment.vocabulary
    return VocabularySpec(
        **shared(vocabulary, VocabularySpec)
        | {"eos_token": vocabulary.eos_token or vocabulary.eod_token},
        base_size=experiment.model.vocab_size
        - max(len(vocabulary.added_tokens), vocabulary.unused_rows),
    )


def parallel_spec(experiment: Experiment) -> ParallelSpec:
    """Return the training layout; sequence parallelism follows tensor parallelism by default."""
    parallel = experiment.parallel
    enabled = parallel.sequence_parallel
    return ParallelSpec(
        tensor=parallel.tensor,
        pipeline=parallel.pipeline,
        data=parallel.data,
        sequence_parallel=parallel.tensor > 1 and enabled is not False,
        distributed_optimizer=parallel.distributed_optimizer,
        recompute=parallel.recompute,
        virtual=parallel.virtual,
    )


def batch_of(experiment: Experiment) -> layout.BatchLayout:
    """Return the sequences of a training step."""
    pretrain = experiment.pretrain
    return layout.BatchLayout(
        pretrain.micro_batch_size, pretrain.global_batch_size, experiment.parallel.data
    )


def clean_stage(inputs: Inputs) -> StagePlan:
    """Plan the tasks that read and clean."""
    rules, parts = corpus.rules_of(inputs.experiment, inputs.cluster.data_dir), inputs.corpus_tasks
    tasks = [CleanSpec(rules, part, parts, CORPUS) for part in range(parts)]
    return corpus_stage(inputs, "clean", tasks, inputs.experiment.curate.cpus)


def deduplicate_stage(inputs: Inputs) -> StagePlan:
    """Plan one task, which sees the keys of all documents."""
    rules = corpus.rules_of(inputs.experiment, inputs.cluster.data_dir)
    tasks = [DeduplicateSpec(rules, inputs.corpus_tasks, CORPUS)]
    cores = max(DEDUPLICATE_CORES, inputs.experiment.curate.cpus)
    return corpus_stage(inputs, "deduplicate", tasks, cores)


def curate_stage(inputs: Inputs) -> StagePlan:
    """Plan the tasks that write shards; a task alone does the work of the stages before it too."""
    rules = corpus.rules_of(inputs.experiment, inputs.cluster.data_dir)
    parts = min(inputs.corpus_tasks, rules.shards + 1)
    whole = inputs.experiment.curate.tasks == 1
    tasks = [CurateSpec(rules, part, parts, whole, CORPUS) for part in range(parts)]
    return corpus_stage(inputs, "curate", tasks, inputs.experiment.curate.cpus)


def corpus_stage(inputs: Inputs, stage: str, tasks: Sequence[Spec], cores: int) -> StagePlan:
    """Plan the tasks of a stage that makes the corpus."""
    resources = cpu_resources(inputs, stage, cores)
    return stage_plan(inputs, stage, tasks, resources, inputs.experiment.curate.max_parallel)


def tokenize_stage(inputs: Inputs) -> StagePlan:
    """Plan one task per training shard and a last one for validation, or as many as are named."""
    tokenize = inputs.experiment.tokenize
    resources = cpu_resources(inputs, "tokenize", tokenize.cpus)
    shards = [f"train/{index:05d}" for index in range(inputs.experiment.curate.shards)]
    tasks = [
        TokenizeSpec(
            inputs=tuple(f"corpus/{shard}.jsonl" for shard in taken.shards),
            output_prefixes=tuple(f"tokens/{shard}" for shard in taken.shards),
            part=taken.part,
            parts=taken.parts,
            shard_tokens=tokenize.shard_tokens,
            tokenizer=inputs.tokenizer,
            text_key="text",
            model_vocab_size=inputs.experiment.model.vocab_size,
            special_tokens_in_text=tokenize.special_tokens_in_text,
            engine=tokenize.engine,
        )
        for taken in shares_of_shards([*shards, "validation/00000"], tokenize.tasks)
    ]
    return stage_plan(inputs, "tokenize", tasks, resources, tokenize.max_parallel)


class ShareOfShards(NamedTuple):
    """Some shards of which a task takes every ``parts``-th stretch, from ``part`` on."""

    shards: tuple[str, ...]
    part: int
    parts: int


def shares_of_shards(shards: Sequence[str], tasks: int | None) -> list[ShareOfShards]:
    """Return the share of each task: several shards, or a part of one where there are more tasks
    than shards.
    """
    count = len(shards)
    tasks = tasks or count
    if tasks <= count:
        return [ShareOfShards(tuple(shards[task::tasks]), 0, 1) for task in range(tasks)]
    return [
        ShareOfShards((shards[task % count],), task // count, -((task % count - tasks) // count))
        for task in range(tasks)
    ]


def verify_spec(experiment: Experiment) -> VerifySpec:
    """Return how a stage compares weights with a checkpoint at its end."""
    return VerifySpec(**shared(experiment.verify, VerifySpec))


def convert_spec(inputs: Inputs) -> ConvertSpec:
    """Return the import of the base model that the experiment names."""
    return ConvertSpec(
        weights=str(inputs.experiment.model.weights or ""),
        folder=inputs.weights_folder,
        model=model_spec(inputs.experiment),
        tokenizer=inputs.tokenizer,
        checkpoint_dir="checkpoints",
        verify=verify_spec(inputs.experiment),
    )


def convert_stage(inputs: Inputs) -> StagePlan:
    """Plan one task, with threads on the cores of a CPU node."""
    resources = cpu_resources(inputs, "convert", inputs.experiment.convert.cpus)
    tasks = [convert_spec(inputs)]
    return stage_plan(inputs, "convert", tasks, resources, max_parallel=1, min_free_gb=OWN_CHECK)


def corpora_of(experiment: Experiment) -> tuple[CorpusSpec, ...]:
    """Return the corpora of the training; which datasets they have is known once it starts."""
    pretrain = experiment.pretrain
    own = (OWN_RUN,)
    data = tuple(map(str, pretrain.data))
    validation = tuple(map(str, pretrain.validation_data)) or (() if data else own)
    further = (
        CorpusSpec(item.name, tuple(map(str, item.data)), tuple(map(str, item.validation_data)))
        for item in pretrain.corpora
    )
    return (CorpusSpec(MAIN_CORPUS, data or own, validation), *further)


def phases_of(experiment: Experiment) -> tuple[PhaseSpec, ...]:
    """Return the mixtures of the training, the first from its start."""
    pretrain, length = experiment.pretrain, None
    mixture = pretrain.mixture
    phases = [phase_spec(0, mixture)]
    for phase, last_step in zip(pretrain.phases, pretrain.targets[1:], strict=True):
        mixture, tail = phase.mixture or mixture, phase.tail
        length = phase.sequence_length or length
        ending = TailSpec(tail.learning_rate, tail.shape, last_step) if tail else None
        phases.append(phase_spec(phase.from_tokens, mixture, ending, length))
    return tuple(phases)


def phase_spec(
    from_tokens: int, mixture: Mixture, tail: TailSpec | None = None, length: int | None = None
) -> PhaseSpec:
    """Return one phase of the training."""
    weights = tuple(CorpusWeight(name, weight) for name, weight in mixture.weights.items())
    return PhaseSpec(from_tokens, mixture.by, weights, tail, length)


def index_stage(inputs: Inputs) -> StagePlan:
    """Plan one task, on a CPU node."""
    training = pretrain_spec(inputs)
    tasks = [IndexSpec(training.order, training, training.index_dir)]
    resources = cpu_resources(inputs, "index", inputs.experiment.index.cpus)
    need = 2 * 8 * training.sequences / GIB  # 8 bytes per window; guessed: as much for all else
    return stage_plan(inputs, "index", tasks, resources, max_parallel=1, min_free_gb=need)


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
        **{
            name: value
            for name, value in shared(pretrain, PretrainSpec).items()
            if name not in ("corpora", "phases", "train_steps")
        },
    )


def pretrain_stage(inputs: Inputs) -> StagePlan:
    """Plan one job over all ranks."""
    spec = pretrain_spec(inputs)
    resources = rank_resources(inputs, "pretrain", spec.parallel.world_size)
    need = 2.2 * spec.model.checkpoint_bytes(spec.precision) / GIB
    return stage_plan(inputs, "pretrain", [spec], resources, max_parallel=1, min_free_gb=need)


def checkpoints_of(experiment: Experiment, names: Sequence[str | int]) -> list[str | int]:
    """Return the checkpoints that a setting names, each once, with ``kept`` as steps."""
    keep_steps = experiment.pretrain.keep_steps
    found = (step for name in names for step in (keep_steps if name == "kept" else (name,)))
    return list(dict.fromkeys(found))


def evaluate_stage(inputs: Inputs) -> StagePlan:
    """Plan one task per pair of checkpoint and benchmark."""
    experiment = inputs.experiment
    evaluate = experiment.evaluate
    parallel = ParallelSpec(evaluate.tensor, 1, 1, evaluate.tensor > 1, False, "none")
    tasks = [
        EvaluateSpec(
            benchmark=benchmark.name,
            path=str(place(benchmark.path, inputs.cluster.data_dir) or benchmark.path),
            kind=benchmark.kind,
            checkpoint=str(checkpoint),
            target_step=experiment.pretrain.target_step,
            checkpoint_dir="checkpoints",
            model=model_spec(experiment),
            parallel=parallel,
            device=inputs.cluster.device,
            precision=experiment.pretrain.precision,
            tokenizer=inputs.tokenizer,
            shots=benchmark.shots,
            limit=benchmark.limit,
            batch_size=evaluate.batch_size,
            seed=experiment.seed,
            output_dir=f"evaluations/{benchmark.name}/{checkpoint}",
        )
        for benchmark in evaluate.benchmarks
        for checkpoint in checkpoints_of(experiment, evaluate.checkpoints)
    ]
    resources = rank_resources(inputs, "evaluate", evaluate.tensor)
    plan = stage_plan(inputs, "evaluate", tasks, resources, evaluate.max_parallel)
    return after_its_checkpoints(inputs, plan, evaluate.checkpoints)


def export_stage(inputs: Inputs) -> StagePlan:
    """Plan one task per checkpoint."""
    experiment, export = inputs.experiment, inputs.experiment.export
    tasks = [
        ExportSpec(
            checkpoint=str(checkpoint),
            target_step=experiment.pretrain.target_step,
            checkpoint_dir="checkpoints",
            model=model_spec(experiment),
            tokenizer=inputs.tokenizer,
            special_tokens_in_text=experiment.tokenize.special_tokens_in_text,
            shard_bytes=int(export.max_shard_gb * GIB),
            output_dir="export" if checkpoint == "last" else f"export-{checkpoint}",
            verify=verify_spec(experiment),
            **shared(export, ExportSpec),
        )
        for checkpoint in checkpoints_of(experiment, export.step)
    ]
    resources = cpu_resources(inputs, "export", export.cpus)
    plan = stage_plan(
        inputs, "export", tasks, resources, export.max_parallel, min_free_gb=OWN_CHECK
    )
    return after_its_checkpoints(inputs, plan, export.step)


def after_its_checkpoints(
    inputs: Inputs, plan: StagePlan, checkpoints: Sequence[object]
) -> StagePlan:
    """Return the plan of a stage that reads step 0 alone behind convert, which makes it."""
    converted = "convert" not in idle_stages(inputs.experiment)
    if converted and all(checkpoint in ("first", 0) for checkpoint in checkpoints):
        return replace(plan, after=("convert",))
    return plan


def selftest_stage(inputs: Inputs) -> StagePlan:
    """Plan one job over all ranks of the layout, on the nodes that train."""
    training = replace(pretrain_spec(inputs), corpora=(), weights="random")
    spec = SelftestSpec(training, steps=inputs.experiment.selftest.steps, output_dir=SELFTEST)
    resources = rank_resources(inputs, SELFTEST, training.parallel.world_size)
    need = 2.2 * training.model.checkpoint_bytes(training.precision) / GIB
    return stage_plan(inputs, SELFTEST, [spec], resources, max_parallel=1, min_free_gb=need)


BUILDERS: dict[str, Callable[[Inputs], StagePlan]] = {
    "clean": clean_stage,
    "deduplicate": deduplicate_stage,
    "curate": curate_stage,
    "tokenize": tokenize_stage,
    "index": index_stage,
    "convert": convert_stage,
    "pretrain": pretrain_stage,
    "evaluate": evaluate_stage,
    "export": export_stage,
    SELFTEST: selftest_stage,
}


def idle_stages(experiment: Experiment) -> frozenset[str]:
    """Return the stages without work: none makes what the experiment brings or does without."""
    idle = set()
    if experiment.pretrain.data:
        idle |= {*CORPUS_STAGES, "tokenize"}
    if experiment.curate.tasks == 1:
        idle |= {"clean", "deduplicate"}
    if experiment.model.weights == "random":
        idle.add("convert")
    if not experiment.evaluate.benchmarks:
        idle.add("evaluate")
    if not experiment.export.step:
        idle.add("export")
    return frozenset(idle)


def stages_before(inputs: Inputs, stage: str) -> tuple[str, ...]:
    """Return the stages whose results a stage needs."""
    idle = idle_stages(inputs.experiment)
    return tuple(name for name in STAGE_KINDS[stage].after if name not in idle)


def section_of(experiment: Experiment, stage: str) -> Any:
    """Return the settings of a stage."""
    return getattr(experiment, section_name(stage))


def section_name(stage: str) -> str:
    """Return the section of the experiment with the settings of a stage."""
    return "curate" if stage in CORPUS_STAGES else stage


def cpu_resources(inputs: Inputs, stage: str, cpus: int) -> Resources:
    """Return one process on a CPU node, with its memory per core but no more than the node has."""
    partition = inputs.cpu_partition
    cores = min(cpus, partition.node.cpus)
    return Resources(
        nodes=1,
        ranks_per_node=1,
        gpus_per_node=0,
        gpu_type="",
        cpus_per_rank=cores,
        memory_gb=min(CPU_STAGE_GIB_PER_CORE * cores, partition.node.memory_gb)
        if partition.request_memory
        else 0,
        time_minutes=section_of(inputs.experiment, stage).time_minutes,
        signal_lead_seconds=signal_lead(inputs, stage),
        **site_names(inputs, partition),
    )


def rank_resources(inputs: Inputs, stage: str, ranks: int) -> Resources:
    """Return ranks on whole GPUs, or on cores without GPUs, with their share of a node."""
    partition, cluster = inputs.partition(stage), inputs.cluster
    per_node = fit.ranks_per_node(partition, cluster.device, ranks)
    slots = partition.node.gpus or partition.node.cpus
    share = per_node / slots
    return Resources(
        nodes=-(-ranks // per_node),
        ranks_per_node=per_node,
        gpus_per_node=per_node if partition.node.gpus else 0,
        gpu_type=partition.node.gpu_type,
        cpus_per_rank=max(1, partition.node.cpus // slots),
        memory_gb=max(1, int(partition.node.memory_gb * share)) if partition.request_memory else 0,
        time_minutes=section_of(inputs.experiment, stage).time_minutes,
        signal_lead_seconds=signal_lead(inputs, stage),
        **site_names(inputs, partition),
    )


def site_names(inputs: Inputs, partition: Partition) -> dict[str, str]:
    """Return partition, account and QOS; a partition's own take precedence over the cluster's."""
    return {
        "partition": partition.name,
        "account": partition.account or inputs.cluster.account,
        "qos": partition.qos or inputs.cluster.qos,
    }


def stage_plan(
    inputs: Inputs,
    stage: str,
    task_specs: Sequence[Spec],
    resources: Resources,
    max_parallel: int,
    min_free_gb: float = 1.0,
) -> StagePlan:
    """Wrap the specs of a stage in tasks, with the settings to start them."""
    cluster = inputs.cluster
    health = {
        "gpus": resources.gpus_per_node if cluster.device == "cuda" else 0,
        "gpu_kind": cluster.gpu_partition.node.gpu_kind if cluster.device == "cuda" else "",
        "min_shm_gb_per_gpu": 1,
        "memory_gb": resources.memory_gb,
        "min_free_gb": round(min_free_gb, 3),
        "skip": list(cluster.health_skip),
    }
    tasks = tuple(
        specs.TaskSpec(
            stage=stage,
            index=index,
            spec=spec,
            ranks=resources.nodes * resources.ranks_per_node,
            ranks_per_node=resources.ranks_per_node,
            nodes=resources.nodes,
            gpus_per_node=resources.gpus_per_node,
            cpus_per_rank=resources.cpus_per_rank,
            launcher=inputs.launcher,
            python=command[0],
            srun_args=command[1],
            secrets_file=str(cluster.environment.secrets_file or ""),
            health=health,
            scratch_dir=str(cluster.scratch_dir or ""),
            peak_tflops=float(
                cluster.gpu_partition.node.peak_bf16_tflops if cluster.device == "cuda" else 0
            ),
            leave_seconds=resources.signal_lead_seconds,
            supervision=specs.SupervisionSpec(
                **inputs.experiment.supervision.model_dump()
                | {"startup_limit_seconds": startup_limit(inputs, stage)}
            ),
            site=specs.SiteSpec(
                cluster.name,
                cluster.slurm.requeue,
                cluster.slurm.submit_from_jobs,
                cluster.environment.network_interface,
            ),
        )
        for index, spec in enumerate(task_specs)
        for command in [rank_command(inputs, spec)]
    )
    return StagePlan(
        stage=stage,
        tasks=tasks,
        resources=resources,
        chunks=fit.chunks(len(tasks), cluster.slurm.max_array_size),
        max_parallel=max_parallel,
        after=stages_before(inputs, stage),
    )


def named_paths(spec: Spec) -> tuple[str, ...]:
    """Return files and folders outside of the run directory that a task reads."""
    if isinstance(spec, IndexSpec):
        return named_paths(spec.training)
    if isinstance(spec, CleanSpec) or (isinstance(spec, CurateSpec) and spec.whole):
        paths = corpus.paths_of(spec.corpus)
    elif isinstance(spec, CurateSpec | DeduplicateSpec | SelftestSpec):
        paths = ()
    elif isinstance(spec, TokenizeSpec):
        paths = (spec.tokenizer.path,)
    elif isinstance(spec, EvaluateSpec):
        paths = (spec.tokenizer.path, spec.path)
    elif isinstance(spec, ConvertSpec):
        paths = (spec.tokenizer.path, spec.folder)
    elif isinstance(spec, ExportSpec):
        paths = (spec.tokenizer.path,)
    else:  # a dataset is two files beside each other, and a run has its documents beside tokens
        data = (path for c in spec.corpora for path in (*c.data, *c.validation_data))
        paths = (spec.tokenizer.path, *(path.rpartition("/")[0] for path in data))
    return tuple(dict.fromkeys(path for path in paths if path.startswith("/")))


def rank_command(inputs: Inputs, spec: Spec) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the command of a rank's Python, and srun's extra arguments.

    Containers wrap the ranks alone. They see the profile's mounts, the run directory, the scratch
    folder, and, to read only, what the task's specification names.
    """
    container = inputs.cluster.environment.container
    srun = inputs.cluster.slurm.srun
    if container is None:
        return (inputs.python,), srun
    scratch, paths = inputs.cluster.scratch_dir, named_paths(spec)
    links = inputs.weights_links if inputs.weights_folder in paths else ()
    mounts = (
        *container.mounts,
        f"{RUN}:{RUN}",
        *([f"{scratch}:{scratch}"] if scratch else []),
        *(f"{path}:{path}:ro" for path in (*paths, *links)),
    )
    if container.kind == "pyxis":
        return (container.python,), (
            *srun,
            f"--container-image={container.image}",
            f"--container-mounts={','.join(mounts)}",
            "--no-container-mount-home",
        )
    gpu = ("--nv",) if inputs.cluster.device == "cuda" else ()
    binds = tuple(word for mount in mounts for word in ("--bind", mount))
    return ("apptainer", "exec", *gpu, *binds, container.image, container.python), srun
