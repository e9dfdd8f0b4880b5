"""Build each stage's tasks and resources. Pure; no I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from jobs.contract.corpus.folder import CORPUS
from jobs.contract.stage_specs import (
    FINETUNE,
    JUDGE,
    PREPARE,
    PRETRAIN,
    SELFTEST,
    CleanSpec,
    ConvertSpec,
    CurateSpec,
    DeduplicateSpec,
    EvaluateSpec,
    ExportSpec,
    GenerateSpec,
    IndexSpec,
    ParallelSpec,
    SelftestSpec,
    Spec,
    TokenizeSpec,
)
from jobs.contract.units import GIB
from meditron_cli.config.data_files import place
from meditron_cli.plan import corpus
from meditron_cli.plan.early import is_finetuned, others_of
from meditron_cli.plan.evaluation import judging
from meditron_cli.plan.finetuning import stages as finetuning
from meditron_cli.plan.inputs import Inputs, pretrain_spec
from meditron_cli.plan.model import StagePlan
from meditron_cli.plan.spec_parts import (
    benchmark_options,
    model_spec,
    shared,
    verify_spec,
)
from meditron_cli.plan.stage_plan import cpu_resources, idle_stages, rank_resources, stage_plan

if TYPE_CHECKING:
    from meditron_cli.config.evaluation.schema import Benchmark
    from meditron_cli.config.experiment_schema import Experiment

DEDUPLICATE_CORES = 4
"""Of the task that finds duplicates, whose memory they decide: 14 bytes per document, 13 more per
dropped one, and a bucket of rows that is sorted."""

OWN_CHECK = 0.0
"""Free space that the preflight check expects of tasks that compute their need themselves: a lack
is their error, which ends the run, and not one of the node, which is retried."""


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


def index_stage(inputs: Inputs) -> StagePlan:
    """Plan one task, on a CPU node."""
    training = pretrain_spec(inputs)
    tasks = [IndexSpec(training.order, training, training.index_dir)]
    resources = cpu_resources(inputs, "index", inputs.experiment.index.cpus)
    need = 2 * 8 * training.sequences / GIB  # 8 bytes per window; guessed: as much for all else
    return stage_plan(inputs, "index", tasks, resources, max_parallel=1, min_free_gb=need)


def pretrain_stage(inputs: Inputs) -> StagePlan:
    """Plan one job over all ranks."""
    spec = pretrain_spec(inputs)
    resources = rank_resources(inputs, "pretrain", spec.parallel.world_size)
    need = 2.2 * spec.model.checkpoint_bytes(spec.precision) / GIB
    return stage_plan(inputs, "pretrain", [spec], resources, max_parallel=1, min_free_gb=need)


def evaluate_stage(inputs: Inputs) -> StagePlan:
    """Plan the tasks of each benchmark, mode and checkpoint."""
    experiment, evaluate = inputs.experiment, inputs.experiment.evaluate
    tasks = [
        replace(spec, part=part, parts=evaluate.tasks)
        for benchmark in evaluate.benchmarks
        for mode in benchmark.scored
        for checkpoint in scored_checkpoints(experiment, benchmark)
        for spec in [evaluate_spec(inputs, benchmark, mode, checkpoint)]
        for part in range(evaluate.tasks)
    ]
    resources = rank_resources(inputs, "evaluate", evaluate.tensor)
    plan = stage_plan(inputs, "evaluate", tasks, resources, evaluate.max_parallel)
    return after_its_checkpoints(inputs, plan)


def scored_checkpoints(experiment: Experiment, benchmark: Benchmark) -> list[str | int]:
    """Return the checkpoints that are scored on a benchmark: the last of a finetuned model."""
    if benchmark.model:
        return ["last"]
    return experiment.checkpoints(experiment.evaluate.checkpoints)


def evaluate_spec(
    inputs: Inputs, benchmark: Benchmark, mode: str, checkpoint: str | int
) -> EvaluateSpec:
    """Return what the tasks of one score by likelihood share."""
    experiment, evaluate = inputs.experiment, inputs.experiment.evaluate
    folder = f"evaluations/{benchmark.name}/{checkpoint}"
    spec = EvaluateSpec(
        benchmark=benchmark.name,
        path=str(place(benchmark.path, inputs.cluster.data_dir) or benchmark.path),
        kind=benchmark.kind,
        checkpoint=str(checkpoint),
        target_step=experiment.pretrain.target_step,
        checkpoint_dir="checkpoints",
        model=model_spec(experiment),
        parallel=ParallelSpec(evaluate.tensor, 1, 1, evaluate.tensor > 1, False, "none"),
        device=inputs.cluster.device,
        precision=experiment.pretrain.precision,
        tokenizer=inputs.tokenizer,
        shots=benchmark.shots,
        limit=benchmark.limit,
        batch_size=evaluate.batch_size,
        seed=experiment.seed,
        output_dir=folder if mode == "top-token" else f"{folder}/{mode}",
        mode=mode,
        seeds=evaluate.seeds if benchmark.shots else (),
        demonstrations=benchmark.demonstrations,
        permute=benchmark.permute,
        seq_length=evaluate.seq_length or 0,
        options=benchmark_options(experiment, benchmark, inputs.cluster.data_dir),
    )
    return finetuning.evaluation_of_model(inputs, spec, benchmark.model)


def export_folder(checkpoint: str | int) -> str:
    """Return the folder of the export of a checkpoint of pretraining."""
    return "export" if checkpoint == "last" else f"export-{checkpoint}"


def export_stage(inputs: Inputs) -> StagePlan:
    """Plan one task per checkpoint."""
    experiment, export = inputs.experiment, inputs.experiment.export
    tasks = [export_spec(inputs, checkpoint) for checkpoint in experiment.checkpoints(export.step)]
    tasks += finetuning.exports_of_models(inputs, export_spec(inputs, "last"))
    resources = cpu_resources(inputs, "export", export.cpus)
    plan = stage_plan(
        inputs, "export", tasks, resources, export.max_parallel, min_free_gb=OWN_CHECK
    )
    return after_its_checkpoints(inputs, plan)


def export_spec(inputs: Inputs, checkpoint: str | int) -> ExportSpec:
    """Return the export of a checkpoint of pretraining."""
    experiment, export = inputs.experiment, inputs.experiment.export
    return ExportSpec(
        checkpoint=str(checkpoint),
        target_step=experiment.pretrain.target_step,
        checkpoint_dir="checkpoints",
        model=model_spec(experiment),
        tokenizer=inputs.tokenizer,
        special_tokens_in_text=experiment.tokenize.special_tokens_in_text,
        shard_bytes=int(export.max_shard_gb * GIB),
        output_dir=export_folder(checkpoint),
        verify=verify_spec(experiment),
        **shared(export, ExportSpec) | {"finetuned": ""},
    )


RELEASED_SAMPLES = 10
RELEASED_PENALTY = 1.0
"""Of the released evaluation (epfLLM/meditron:evaluation/inference.py), as are its tokens of an
answer: 1, and 8 more behind worked examples."""
BATCH_SIZES = {"transformers": 16, "vllm": 256}


def generate_stage(inputs: Inputs) -> StagePlan:
    """Plan the tasks of each benchmark, mode and exported model."""
    experiment, settings = inputs.experiment, inputs.experiment.evaluate.generate
    tasks = [
        replace(spec, part=part)
        for benchmark in experiment.evaluate.benchmarks
        for mode in benchmark.generated
        for checkpoint in generating_checkpoints(experiment, benchmark)
        for spec in [generate_spec(inputs, benchmark, mode, checkpoint)]
        for part in range(spec.parts)
    ]
    # vLLM starts the processes of its GPUs itself.
    resources = rank_resources(inputs, "generate", settings.tensor)
    cores = resources.cpus_per_rank * resources.ranks_per_node
    resources = replace(resources, ranks_per_node=1, cpus_per_rank=cores)
    return stage_plan(inputs, "generate", tasks, resources, settings.max_parallel)


def generating_checkpoints(experiment: Experiment, benchmark: Benchmark) -> list[str | int]:
    """Return the checkpoints whose exports answer a benchmark."""
    if benchmark.model:
        return ["last"]
    return experiment.generating_checkpoints


def generate_spec(
    inputs: Inputs, benchmark: Benchmark, mode: str, checkpoint: str | int
) -> GenerateSpec:
    """Return the first of the tasks that share a score of generated answers."""
    experiment, settings = inputs.experiment, inputs.experiment.evaluate.generate
    legacy, model, voted = benchmark.legacy, benchmark.model, mode == "sc-cot"
    samples = (RELEASED_SAMPLES if legacy else settings.samples) if voted else 1
    shots = 0 if model else benchmark.shots
    released_tokens = 9 if shots else 1
    name = f"{model}-{checkpoint}" if model else str(checkpoint)
    folder = f"legacy-{mode}" if legacy else mode
    options = benchmark_options(experiment, benchmark, inputs.cluster.data_dir)
    if legacy and benchmark.kind == "mmlu":
        options = replace(options, skip_first_rows=True)  # 1,862 questions
    return GenerateSpec(
        benchmark=benchmark.name,
        path=str(place(benchmark.path, inputs.cluster.data_dir) or benchmark.path),
        kind=benchmark.kind,
        folder=f"export-{model}" if model else export_folder(checkpoint),
        checkpoint=name,
        model=model,
        tokenizer=inputs.finetuned_tokenizer if model else inputs.tokenizer,
        mode=mode,
        legacy=legacy,
        template=experiment.finetune.template if model else "",
        instructions=str(experiment.finetune.instructions or ""),
        shots=shots,
        seeds=experiment.evaluate.seeds if shots else (),
        demonstrations=benchmark.demonstrations,
        limit=benchmark.limit,
        seed=experiment.seed,
        backend=settings.backend,
        device=inputs.cluster.device,
        tensor=settings.tensor,
        batch_size=settings.batch_size or BATCH_SIZES[settings.backend],
        max_tokens=released_tokens if mode == "top-token" else settings.max_tokens,
        samples=samples,
        temperature=settings.temperature if voted else 0.0,
        frequency_penalty=RELEASED_PENALTY if legacy else 0.0,
        output_dir=f"evaluations/{benchmark.name}/{name}/{folder}",
        parts=settings.tasks,
        options=options,
    )


def after_its_checkpoints(inputs: Inputs, plan: StagePlan) -> StagePlan:
    """Return the plan of a stage that reads checkpoints behind those that make them: of step 0
    alone convert does.
    """
    specs = [task.spec for task in plan.tasks if isinstance(task.spec, EvaluateSpec | ExportSpec)]
    unneeded = set.intersection(*(set(others_of(spec)) for spec in specs)) if specs else set()
    after = [name for name in plan.after if name not in unneeded]
    steps = {spec.checkpoint for spec in specs if not is_finetuned(spec)}
    if "convert" not in idle_stages(inputs.experiment) and steps and steps <= {"first", "0"}:
        after = ["convert", *(name for name in after if name != PRETRAIN)]
    return replace(plan, after=tuple(after))


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
    PREPARE: finetuning.prepare_stage,
    FINETUNE: finetuning.finetune_stage,
    "evaluate": evaluate_stage,
    "export": export_stage,
    "generate": generate_stage,
    JUDGE: lambda inputs: judging.judge_stage(inputs, stage_of(inputs, "generate")),
    SELFTEST: selftest_stage,
}


def stage_of(inputs: Inputs, name: str) -> StagePlan:
    """Return the plan of a stage, built once."""
    if name not in inputs.built:
        inputs.built[name] = BUILDERS[name](inputs)
    return inputs.built[name]
