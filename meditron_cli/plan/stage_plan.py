"""Wrap the specs of a stage in tasks, with their resources and the command of a rank. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

from jobs.contract import specs
from jobs.contract.specs import RUN
from jobs.contract.stage_specs import (
    COMPUTING_STAGES,
    CORPUS_STAGES,
    CPU_STAGE_GIB_PER_CORE,
    FINETUNE,
    JUDGE,
    PREPARE,
    PRETRAIN,
    STAGE_KINDS,
    TRAINING_STAGES,
    CleanSpec,
    ConvertSpec,
    CurateSpec,
    DeduplicateSpec,
    EvaluateSpec,
    ExportSpec,
    FinetuneSpec,
    GenerateSpec,
    IndexSpec,
    JudgeSpec,
    PrepareSpec,
    PretrainSpec,
    SelftestSpec,
    Spec,
    TokenizeSpec,
    TrainingSpec,
)
from meditron_cli.plan import corpus, fit, step_times
from meditron_cli.plan.inputs import Inputs
from meditron_cli.plan.model import Resources, StagePlan
from meditron_cli.plan.spec_parts import model_spec

if TYPE_CHECKING:
    from meditron_cli.config.cluster_schema import Partition
    from meditron_cli.config.experiment_schema import Experiment

JUDGE_BYTES = 140 * 10**9
"""Weights that the start-up limit of a judge allows for: 70B parameters in bf16."""
SHORT_LEAD = 30
"""Signal lead time, in seconds, of all tasks but training."""


def signal_lead(inputs: Inputs, stage: str) -> int:
    """Return the signal lead time of a stage in seconds; only trainings have much to save."""
    if stage == FINETUNE:
        return inputs.finetune_lead.seconds
    return inputs.training_lead.seconds if stage == PRETRAIN else SHORT_LEAD


def startup_limit(inputs: Inputs, stage: str) -> int:
    """Return the start-up limit of a stage in seconds; training reads whole checkpoints, the other
    stages that compute read weights.
    """
    model, precision = model_spec(inputs.experiment), inputs.experiment.pretrain.precision
    whole = model.checkpoint_bytes(precision)
    read = 0
    if stage in COMPUTING_STAGES:
        read = whole if stage in TRAINING_STAGES else model.weights_bytes(precision)
    if stage == JUDGE:
        read = JUDGE_BYTES
    configured = inputs.experiment.supervision.startup_limit_seconds
    return step_times.startup_limit_of(configured, read, inputs.training_lead.times, whole)


def idle_stages(experiment: Experiment) -> frozenset[str]:
    """Return the stages without work: none makes what the experiment brings or does without."""
    idle = set()
    if experiment.pretrain.data:
        idle |= {*CORPUS_STAGES, "tokenize"}
    if experiment.only_finetunes:
        idle |= {*CORPUS_STAGES, "tokenize", "index", PRETRAIN}
        idle |= set() if experiment.finetunes_base else {"convert"}
    if experiment.curate.tasks == 1:
        idle |= {"clean", "deduplicate"}
    if experiment.model.weights == "random":
        idle.add("convert")
    benchmarks = experiment.evaluate.benchmarks
    works = {
        "evaluate": any(
            benchmark.scored
            and (benchmark.model or experiment.checkpoints(experiment.evaluate.checkpoints))
            for benchmark in benchmarks
        ),
        "generate": any(benchmark.generated for benchmark in benchmarks),
        JUDGE: experiment.evaluate.judged,
    }
    idle |= {stage for stage, is_planned in works.items() if not is_planned}
    models = experiment.finetune.models
    if not models:
        idle |= {PREPARE, FINETUNE}
    exported = experiment.checkpoints(experiment.export.step)
    if not exported and not (models and experiment.export.finetuned):
        idle.add("export")
    return frozenset(idle)


def stages_before(inputs: Inputs, stage: str) -> tuple[str, ...]:
    """Return the stages whose results a stage needs."""
    idle = idle_stages(inputs.experiment)
    if stage == FINETUNE:
        return tuple(name for name in start_stages(inputs.experiment) if name not in idle)
    return tuple(name for name in STAGE_KINDS[stage].after if name not in idle)


def start_stages(experiment: Experiment) -> tuple[str, ...]:
    """Return the stages that make the rows of a finetuning, and the checkpoint it begins with."""
    section = experiment.finetune
    if section.run is not None:
        return (PREPARE,)
    return ("convert" if experiment.finetunes_base else PRETRAIN, PREPARE)


def section_of(experiment: Experiment, stage: str) -> Any:
    """Return the settings of a stage."""
    return reduce(getattr, section_name(stage).split("."), experiment)


def section_name(stage: str) -> str:
    """Return the dotted key of the section of the experiment with the settings of a stage."""
    if stage in ("generate", JUDGE):
        return f"evaluate.{stage}"
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
                str(cluster.textfile_dir or ""),
            ),
        )
        for index, spec in enumerate(task_specs)
        for command in [rank_command(inputs, stage, spec)]
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
    paths: tuple[str, ...]
    if isinstance(spec, CleanSpec) or (isinstance(spec, CurateSpec) and spec.whole):
        paths = corpus.paths_of(spec.corpus)
    elif isinstance(spec, JudgeSpec):
        paths = (spec.path, spec.folder, spec.grades)
    elif isinstance(spec, CurateSpec | DeduplicateSpec | SelftestSpec):
        paths = ()
    else:
        training = spec.training if isinstance(spec, IndexSpec) else spec
        paths = (training.tokenizer.path, *paths_beside_tokenizer(training))
    return tuple(dict.fromkeys(path for path in paths if path.startswith("/")))


def paths_beside_tokenizer(
    spec: TokenizeSpec
    | ExportSpec
    | EvaluateSpec
    | GenerateSpec
    | ConvertSpec
    | PrepareSpec
    | TrainingSpec,
) -> Iterable[str]:
    """Return what else a task reads that reads the tokenizer; relative paths are in the run."""
    if isinstance(spec, EvaluateSpec | GenerateSpec):
        return (spec.path, spec.options.train, spec.instructions)
    if isinstance(spec, ConvertSpec):
        return (spec.folder,)
    if isinstance(spec, PrepareSpec):
        compared = spec.decontamination.benchmarks if spec.decontamination else ()
        return (spec.instructions, *(file.path for file in (*spec.data, *compared)))
    if isinstance(spec, FinetuneSpec):
        return (spec.start.checkpoint_dir,)
    if isinstance(spec, PretrainSpec):
        # a dataset is two files beside each other, and a run has its documents beside tokens
        data = (path for c in spec.corpora for path in (*c.data, *c.validation_data))
        return (path.rpartition("/")[0] for path in data)
    return ()


def rank_command(inputs: Inputs, stage: str, spec: Spec) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the command of a rank's Python, and srun's extra arguments.

    Containers wrap the ranks alone. They see the profile's mounts, the run directory, the scratch
    folder, and, to read only, what the task's specification names.
    """
    python, container = inputs.environment(stage)
    srun = inputs.cluster.slurm.srun
    if container is None:
        return (python,), srun
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
