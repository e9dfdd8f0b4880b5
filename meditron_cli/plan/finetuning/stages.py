"""Plan the finetuning of models: specs, layout, and what they need. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from jobs.contract.corpus.benchmark_files import BenchmarkOptions
from jobs.contract.corpus.rules import BenchmarkFile, DecontaminationSpec
from jobs.contract.stage_specs import (
    FINETUNE,
    PREPARE,
    EvaluateSpec,
    ExportSpec,
    FinetuneSpec,
    OptimizerSpec,
    PrepareSpec,
    StartRef,
)
from jobs.contract.units import GIB, plural
from meditron_cli.config.data_files import place
from meditron_cli.plan import fit, layout, memory
from meditron_cli.plan.figures import size
from meditron_cli.plan.inputs import Inputs
from meditron_cli.plan.model import Plan, StagePlan
from meditron_cli.plan.spec_parts import (
    benchmark_options,
    checkpoint_dir_of,
    finetune_batch,
    finetune_parallel,
    rows_dir_of,
    shared,
)
from meditron_cli.plan.stage_plan import cpu_resources, rank_resources, stage_plan

if TYPE_CHECKING:
    from meditron_cli.config.evaluation.schema import Benchmark
    from meditron_cli.config.training.finetune import FinetunedModel, TrainFile

FINETUNE_KEYS = {
    "pretrain.global_batch_size": "finetune.global_batch_size",
    "pretrain.micro_batch_size": "finetune.micro_batch_size",
    "parallel.": "finetune.parallel.",
    "model.seq_length": "finetune.sequence_length",
}
"""Keys of pretraining in sentences about a layout, and those of finetuning."""


def start_of(inputs: Inputs) -> StartRef:
    """Return the checkpoint that finetuning begins with."""
    section, target = inputs.experiment.finetune, inputs.experiment.pretrain.target_step
    if section.run is not None:
        return StartRef(str(section.start), inputs.start_target, f"{section.run}/checkpoints")
    return StartRef(str(section.start), target, "checkpoints")


def prepare_spec(inputs: Inputs, model: FinetunedModel) -> PrepareSpec:
    """Return the preparation of a model's rows."""
    section = inputs.experiment.finetune
    return PrepareSpec(
        name=model.name,
        preparation=model.prepared_as,
        items=model.counted_items or 0,
        data=tuple(file_of(inputs, file, model.kind_of(file)) for file in model.data),
        template=section.template,
        instructions=str(section.instructions or ""),
        tokenizer=inputs.finetuned_tokenizer,
        sequence_length=inputs.finetuned_model.seq_length,
        holdout=section.holdout,
        seed=inputs.experiment.seed,
        decontamination=decontamination_of(inputs),
        output_dir=rows_dir_of(model.name),
        strict=model.strict,
        reasoned=model.reasoned,
    )


def file_of(inputs: Inputs, file: TrainFile, kind: str) -> BenchmarkFile:
    """Return a file of questions where it is on this machine."""
    path = place(file.path, inputs.cluster.data_dir) or file.path
    options = BenchmarkOptions(first_answer=file.first_answer)
    return BenchmarkFile(Path(file.path).name, str(path), kind, options)


def test_file_of(inputs: Inputs, benchmark: Benchmark) -> BenchmarkFile:
    """Return the test questions of a benchmark where they are on this machine."""
    data_dir = inputs.cluster.data_dir
    path = place(benchmark.path, data_dir) or benchmark.path
    options = benchmark_options(inputs.experiment, benchmark, data_dir, train=False)
    return BenchmarkFile(benchmark.name, str(path), benchmark.kind, options)


def decontamination_of(inputs: Inputs) -> DecontaminationSpec | None:
    """Return the test questions that training questions are compared with; None without any."""
    settings = inputs.experiment.finetune.decontaminate
    files = (
        *(test_file_of(inputs, benchmark) for benchmark in inputs.experiment.evaluate.benchmarks),
        *(file_of(inputs, file, file.kind or "mcq") for file in settings.against),
    )
    if not settings.enabled or not files:
        return None
    return DecontaminationSpec(files, settings.ngram, settings.share)


def prepare_stage(inputs: Inputs) -> StagePlan:
    """Plan one task per model, on CPU nodes."""
    settings = inputs.experiment.prepare
    tasks = [prepare_spec(inputs, model) for model in inputs.experiment.finetune.models]
    resources = cpu_resources(inputs, PREPARE, settings.cpus)
    return stage_plan(inputs, PREPARE, tasks, resources, settings.max_parallel)


def finetune_spec(inputs: Inputs, model: FinetunedModel) -> FinetuneSpec:
    """Return the finetuning of a model."""
    experiment, section = inputs.experiment, inputs.experiment.finetune
    steps = section.steps_of(model)
    schedule = {"warmup_steps": round(section.warmup_share * steps), "decay_steps": steps}
    own = {"model", "parallel"}
    settings = {k: v for k, v in shared(section, FinetuneSpec).items() if k not in own | {"start"}}
    return FinetuneSpec(
        name=model.name,
        start=start_of(inputs),
        rows_dir=rows_dir_of(model.name),
        model=inputs.finetuned_model,
        parallel=finetune_parallel(experiment),
        device=inputs.cluster.device,
        precision=experiment.pretrain.precision,
        tokenizer=inputs.finetuned_tokenizer,
        train_steps=steps,
        optimizer=OptimizerSpec(**shared(section, OptimizerSpec), **schedule),
        seed=experiment.seed,
        checkpoint_dir=checkpoint_dir_of(model.name),
        tensorboard_dir=f"finetune/{model.name}/tensorboard",
        async_save=experiment.pretrain.async_save,
        save_memory_gb=experiment.pretrain.save_memory_gb,
        deterministic=experiment.pretrain.deterministic,
        **settings,
    )


def finetune_stage(inputs: Inputs) -> StagePlan:
    """Plan one job per model, each over all ranks of the layout."""
    section = inputs.experiment.finetune
    tasks = [finetune_spec(inputs, model) for model in section.models]
    resources = rank_resources(inputs, FINETUNE, finetune_parallel(inputs.experiment).world_size)
    model, precision = inputs.finetuned_model, inputs.experiment.pretrain.precision
    need = 2.2 * model.checkpoint_bytes(precision) / GIB
    return stage_plan(inputs, FINETUNE, tasks, resources, section.max_parallel, min_free_gb=need)


Reader = TypeVar("Reader", EvaluateSpec, ExportSpec)


def of_model(inputs: Inputs, spec: Reader, name: str) -> Reader:
    """Return a reader of the last checkpoint of pretraining as one of a finetuned model's."""
    section = inputs.experiment.finetune
    model = next(model for model in section.models if model.name == name)
    return replace(
        spec,
        target_step=section.steps_of(model),
        checkpoint_dir=checkpoint_dir_of(name),
        model=inputs.finetuned_model,
        tokenizer=inputs.finetuned_tokenizer,
    )


def evaluation_of_model(inputs: Inputs, spec: EvaluateSpec, name: str) -> EvaluateSpec:
    """Return the evaluation of a benchmark, of a finetuned model where one is named."""
    if not name:
        return spec
    folder, benchmark, rest = spec.output_dir.split("/", 2)
    settings, harness = inputs.experiment.finetune, spec.mode == "harness"
    return replace(
        of_model(inputs, spec, name),
        output_dir=f"{folder}/{benchmark}/{name}-{rest}",
        finetuned=name,
        template="" if harness else settings.template,
        instructions="" if harness else str(settings.instructions or ""),
    )


def exports_of_models(inputs: Inputs, spec: ExportSpec) -> list[ExportSpec]:
    """Return the exports of all finetuned models.

    Args:
        spec: the export of the last checkpoint of pretraining.
    """
    if not inputs.experiment.export.finetuned:
        return []
    return [
        replace(
            of_model(inputs, spec, model.name),
            finetuned=model.name,
            output_dir=f"export-{model.name}",
        )
        for model in inputs.experiment.finetune.models
    ]


def findings(inputs: Inputs) -> fit.Findings:
    """Check that the layout of finetuning divides, fills whole nodes and fits into memory."""
    experiment, cluster = inputs.experiment, inputs.cluster
    model, parallel = inputs.finetuned_model, finetune_parallel(experiment)
    batch, precision = finetune_batch(experiment), experiment.pretrain.precision
    errors = layout.layout_errors(model, parallel, batch.micro, batch.global_)
    found = fit.Findings(tuple(errors)) + fit.shape_findings(cluster, parallel)
    copies = min(1, memory.copies_without_limit(experiment.pretrain))  # it keeps no weights beside
    found += fit.memory_findings(cluster, model, parallel, batch, precision, copies=copies)
    found += fit.sharing_findings(parallel.world_size, inputs.host_cores)
    return fit.Findings(*(tuple(map(of_finetuning, one)) for one in (found.errors, found.warnings)))


def of_finetuning(sentence: str) -> str:
    """Return a sentence about a layout with the keys of finetuning."""
    for ours, theirs in FINETUNE_KEYS.items():
        sentence = sentence.replace(ours, theirs)
    return f"finetuning: {sentence}"


def lines(plan: Plan) -> Iterator[str]:
    """Yield a line per model that a plan finetunes: steps, rows per step, layout, memory."""
    for task in (task for stage in plan.stages for task in stage.tasks):
        spec = task.spec
        if isinstance(spec, FinetuneSpec):
            parallel = spec.parallel
            batch = layout.BatchLayout(spec.micro_batch_size, spec.global_batch_size, parallel.data)
            need = memory.fullest(spec.model, parallel, batch, spec.precision, spec.device)
            yield (
                f"finetune     {spec.name}: {plural(spec.train_steps, 'step')} of "
                f"{spec.global_batch_size} rows of at most {spec.model.seq_length} tokens from "
                f"{spec.start.text}; tensor {parallel.tensor} x pipeline "
                f"{parallel.pipeline} x data {parallel.data}; {size(need.total)} per rank and "
                f"{size(spec.model.checkpoint_bytes(spec.precision))} per checkpoint, computed"
            )
