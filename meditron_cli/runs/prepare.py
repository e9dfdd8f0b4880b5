"""Turn a valid configuration into a plan: read what it needs from this machine, and check inputs
before anything is created.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from jobs.contract import done_markers, specs
from jobs.contract.errors import TaskError
from jobs.contract.files import sha256
from jobs.contract.job import usable_cores
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import (
    CORPUS_STAGES,
    FINETUNE,
    JUDGE,
    PIPELINE_STAGES,
    PREPARE,
    PRETRAIN,
    READING_SOURCES,
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
    Spec,
    TokenizerRef,
    TokenizeSpec,
    TrainingSpec,
)
from jobs.data import tokenizer_file
from meditron_cli.errors import ConfigError
from meditron_cli.inputs import answers, finetuned, problems
from meditron_cli.runs import request, store

if TYPE_CHECKING:
    from jobs.contract.done_markers import DoneMarker
    from jobs.contract.metrics_log import MetricsSummary
    from meditron_cli.config.cluster_schema import Cluster
    from meditron_cli.config.corpus.schema import Curate
    from meditron_cli.config.experiment_schema import Experiment
    from meditron_cli.config.load import Loaded
    from meditron_cli.plan.model import Plan, StagePlan
    from meditron_cli.runs.record import RecordReader

PIPELINE = "pipeline"
"""The word for all stages with work, in order."""

COMPARED_RUNS = 20
"""Newest runs of an experiment in which the time of a task that cleans is looked for."""

MEASURED_SECONDS = 10
"""Shorter tasks say nothing of the speed of cleaning."""

MAKING_TOKENS = (CleanSpec, DeduplicateSpec, CurateSpec, TokenizeSpec)

HINT_CORRECT = (
    "correct the settings or files that are named, then repeat the command; nothing was submitted"
)


def plan_of(
    loaded: Loaded,
    stages: Collection[str],
    measured: MetricsSummary | None = None,
    digest: str | None = None,
    run: RunDir | None = None,
    grown: tuple[str, ...] | None = None,
) -> Plan:
    """Plan some stages of a loaded configuration with this machine's interpreter.

    Args:
        loaded: the configuration.
        stages: names of stages.
        measured: times of the run that the plan continues.
        digest: SHA-256 of the tokenizer; by default it is read.
        run: its specs name what is not found any more: the folder of the base model, and the run
            that finetuning began with.
        grown: tokens that finetuning adds to the tokenizer; by default it is read.

    Raises:
        ConfigError: the layout does not divide or does not fit the cluster.
    """
    from meditron_cli.config import weights
    from meditron_cli.plan.build import build
    from meditron_cli.plan.inputs import Inputs

    experiment, cluster, cores = loaded.experiment, loaded.cluster, 0
    found = weights.find(experiment.model.weights, cluster.models_dir).folder
    folder = found or (recorded_folder(run) if run else None)
    if digest is None:
        digest = tokenizer_digest(experiment.tokenize.tokenizer)
    if cluster.scheduler == "local":
        cluster, cores = on_this_machine(cluster), usable_cores()
    inputs = Inputs(
        experiment,
        cluster,
        loaded.size,
        digest,
        sys.executable,
        measured,
        cores,
        loaded.locations,
        weights_folder=str(folder or ""),
        weights_links=tuple(map(str, weights.links(found))) if found else (),
        source_bytes=source_bytes(loaded) if "curate" in stages or "clean" in stages else None,
        grown=grown_tokens(experiment) if grown is None else grown,
        start_target=start_target(experiment, run),
    )
    return build(inputs, tuple(stages))


def grown_tokens(experiment: Experiment) -> tuple[str, ...]:
    """Return the tokens of ``finetune.added_tokens`` that the tokenizer lacks; none without a
    finetuned model, and all but registered ones where the tokenizer cannot be read.
    """
    if not experiment.finetune.models:
        return ()
    known = set(experiment.vocabulary.added_tokens)
    if path := experiment.tokenize.tokenizer:
        with suppress(ValueError, OSError):  # ``problems`` reports it
            known |= tokenizer_file.read_tokens(path).ids.keys()
    return tuple(token for token in experiment.finetune.added_tokens if token not in known)


def start_target(experiment: Experiment, run: RunDir | None) -> int:
    """Return the target step of the training of ``finetune.run``, of one that is gone as the specs
    of ``run`` have it; 0 where none is known.
    """
    if experiment.finetune.run is None:
        return 0
    task = specs.read_task(RunDir(experiment.finetune.run), PRETRAIN, 0)
    if task and task.training:
        return task.training.train_steps
    starts = (spec.start for _, spec in finetuned.finetunings(run)) if run else ()
    folder = f"{experiment.finetune.run}/checkpoints"
    return next((one.target_step for one in starts if one.checkpoint_dir == folder), 0)


def source_bytes(loaded: Loaded) -> int | None:
    """Return the bytes of the documents to curate; None where this machine cannot read them."""
    from meditron_cli.config.data_files import place

    places = [
        place(source.path, loaded.cluster.data_dir) for source in loaded.experiment.curate.named
    ]
    if None in places:
        return None
    try:
        return sum(file.stat().st_size for path in places if path for file in files_below(path))
    except OSError:
        return None


def files_below(path: Path) -> Iterator[Path]:
    """Yield a file, or the files of a folder without hidden ones.

    Raises:
        OSError: something cannot be read.
    """
    if path.is_file():
        yield path
        return
    for here, folders, names in os.walk(path, onerror=raise_error, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(here, name) for name in names if not name.startswith("."))


def raise_error(error: OSError) -> NoReturn:
    """Raise an error that a walk through folders would pass over."""
    raise error


def with_corpus_tasks(loaded: Loaded, run: RunDir) -> Loaded:
    """Return a configuration with the number of tasks that have made a run's corpus, and with that
    of its tokens, where they are complete: another number would make the same files again. So it is
    with a corpus while the settings are those that its tasks were planned with, and the MB of a
    task follow from measured times: a new measurement must not change the tasks of a run.
    """
    curate, tokenize = loaded.experiment.curate, loaded.experiment.tokenize
    changed: dict[str, Any] = {}
    parts = recorded_parts(run)
    if parts and (is_made(run) or (curate.task_mb is None and was_planned_with(curate, run))):
        changed = {"tasks": parts, "task_mb": 0}
    elif curate.task_mb is None:
        prefix = f"{loaded.experiment.name}-{loaded.size}"
        changed = {"task_mb": measured_task_mb(run.root.parent, prefix)}
    made = specs.indices(run, "tokenize")
    if made and all(run.done("tokenize", index).exists() for index in made):
        tokenize = tokenize.model_copy(update={"tasks": len(made)})
    sections = {"curate": curate.model_copy(update=changed), "tokenize": tokenize}
    return replace(loaded, experiment=loaded.experiment.model_copy(update=sections))


def recorded_parts(run: RunDir) -> int | None:
    """Return how many tasks clean for a run's corpus, by their specs; None without any."""
    written = specs.read_task(run, "curate", 0)
    if written is None or not isinstance(written.spec, CurateSpec):
        return None
    found = None if written.spec.whole else specs.read_task(run, "deduplicate", 0)
    return found.spec.parts if found and isinstance(found.spec, DeduplicateSpec) else 1


def is_made(run: RunDir) -> bool:
    """Return whether a run's corpus is complete."""
    written = specs.read_task(run, "curate", 0)
    parts = written.spec.parts if written and isinstance(written.spec, CurateSpec) else 0
    return parts > 0 and all(run.done("curate", index).exists() for index in range(parts))


def was_planned_with(curate: Curate, run: RunDir) -> bool:
    """Return whether the tasks of a run's corpus were planned with the same settings."""
    try:
        before = request.request_of_other(run)["experiment"].get("curate", {})
    except ConfigError:
        return False
    return all(before.get(name) == getattr(curate, name) for name in ("tasks", "task_mb"))


def measured_task_mb(root: Path, prefix: str) -> int | None:
    """Return the MB of sources that a task cleans in a minute, by the median of the tasks of the
    newest readable run that has finished some; None without any.

    Args:
        root: folder of runs.
        prefix: of their names.
    """
    for run in store.runs_of(root, prefix)[:COMPARED_RUNS]:
        paths: list[Path] = []
        with suppress(OSError):  # another one's run, or storage that does not respond
            for stage in READING_SOURCES:
                paths += sorted(run.done_folder(stage).glob("*.json"))
        markers = filter(None, map(done_markers.read, paths))
        rates = [cleaned_bytes(marker) / marker.seconds for marker in markers if is_long(marker)]
        if rates:
            return max(1, round(60 * statistics.median(rates) / 10**6))
    return None


def is_long(marker: DoneMarker) -> bool:
    """Return whether a task took long enough that its start is no large part of it."""
    return marker.seconds >= MEASURED_SECONDS and cleaned_bytes(marker) > 0


def cleaned_bytes(marker: DoneMarker) -> int:
    """Return the bytes of sources that a task has cleaned; 0 for one that cleaned none."""
    if marker.stage == "curate":  # alone; of several, none has inputs
        return sum(int(item["bytes"]) for item in marker.inputs)
    return int(marker.summary.get("bytes", 0))


def on_this_machine(cluster: Cluster) -> Cluster:
    """Return a local profile whose node has no more memory than this machine."""
    node = cluster.gpu_partition.node
    here = node.model_copy(update={"memory_gb": min(node.memory_gb, machine_gb())})
    partition = cluster.gpu_partition.model_copy(update={"node": here})
    return cluster.model_copy(update={"gpu_partition": partition})


def machine_gb() -> int:
    """Return this machine's memory, or the limit of this process's container, in GiB."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):  # "max" is not a number
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return max(1, total // 2**30)


def tokenizer_digest(path: Path | None) -> str:
    """Return the tokenizer's SHA-256; empty when it cannot be read, which ``problems`` reports."""
    try:
        if path is None or not path.is_file() or path.stat().st_size > tokenizer_file.MAX_BYTES:
            return ""
        return sha256(path)
    except OSError:
        return ""


def stages_of(stage: str, experiment: Experiment) -> tuple[str, ...]:
    """Return the stages to run; a pipeline omits those without work.

    Raises:
        ConfigError: the only stage has no work.
    """
    from meditron_cli.plan.stage_plan import idle_stages, start_stages

    idle = idle_stages(experiment)
    if stage == PIPELINE:
        return tuple(name for name in PIPELINE_STAGES if name not in idle)
    require_work(stage, idle)
    if stage in CORPUS_STAGES:
        return corpus_stages(stage, experiment)
    if stage not in TRAINING_STAGES:
        return (stage,)
    before: tuple[str, ...] = ("index", "convert")
    if stage == FINETUNE:
        before = tuple(name for name in start_stages(experiment) if name != PRETRAIN)
    return (*(name for name in before if name not in idle), stage)


NO_WORK = {
    "evaluate": (
        "evaluate.benchmarks lists no benchmark, or evaluate.checkpoints no checkpoint to score",
        "evaluate",
    ),
    "convert": ("model.weights is random, so there is nothing to convert", "model.weights"),
    "export": ("export.step lists no checkpoint", "export.step"),
    "generate": ("no benchmark has a mode that generates", "evaluate.benchmarks"),
    JUDGE: ("no judge is named, or no benchmark is of kind healthbench", "evaluate.judge"),
    PREPARE: ("finetune.models lists no model", "finetune.models"),
    FINETUNE: ("finetune.models lists no model", "finetune.models"),
}
"""Why a stage has no work, and the key that gives it some."""


def require_work(stage: str, idle: Collection[str]) -> None:
    """Refuse a stage without work.

    Raises:
        ConfigError: naming the key.
    """
    if stage in idle and stage in NO_WORK:
        sentence, key = NO_WORK[stage]
        raise ConfigError(sentence, hint=f"`meditron explain {key}` explains the key")


def corpus_stages(stage: str, experiment: Experiment) -> tuple[str, ...]:
    """Return the stages to run for one that makes the corpus: all of them for the last.

    Raises:
        ConfigError: one task makes the whole corpus, in the last stage.
    """
    if experiment.curate.tasks > 1:
        return CORPUS_STAGES if stage == CORPUS_STAGES[-1] else (stage,)
    if stage != CORPUS_STAGES[-1]:
        raise ConfigError(
            f"curate.tasks is 1, so {CORPUS_STAGES[-1]} does the work of {stage} too",
            hint="`meditron explain curate.tasks` explains the key",
        )
    return (stage,)


def warnings(plan: Plan, loaded: Loaded, now: float) -> list[str]:
    """Return what a plan is warned of: the plan itself, what ``require_submittable`` refuses, and
    the facts of ``doctor``.
    """
    stages = [stage.stage for stage in plan.stages]
    doubts = loaded.known.warnings(now) if loaded.known else []
    return [*plan.warnings, *loaded.placeholders, *problems.of_stages(loaded, stages), *doubts]


def require_submittable(loaded: Loaded, stages: Collection[str]) -> None:
    """Refuse a configuration whose stages cannot run, before anything is submitted.

    Raises:
        ConfigError: placeholders in the profile, or else missing and unusable inputs; all of them.
    """
    if loaded.placeholders:
        raise ConfigError("\n".join(loaded.placeholders), hint="replace them in the profile")
    sentences = problems.of_stages(loaded, stages)
    if sentences:
        hints = dict.fromkeys(item.hint for item in problems.missing(loaded, stages) if item.hint)
        raise ConfigError("\n".join(sentences), hint="\n".join(hints) or HINT_CORRECT)


def require_trainable(plan: Plan, run: RunDir, partly: bool = False) -> None:
    """Refuse a training that its tokens or its checkpoints do not allow, as far as they are known
    before it starts.

    Args:
        partly: some of its inputs are not on this machine, and are left out.

    Raises:
        TaskError: as ``survey`` raises it, or a checkpoint is of a step beyond the target.
    """
    from jobs.checkpoints import manifest
    from jobs.data import corpora, survey
    from jobs.data.mixture import mixture_of, require_same_phases

    stages = {stage.stage for stage in plan.stages}
    for spec in (task.spec for stage in plan.stages for task in stage.tasks):
        require_same_run(run, spec, stages)
    tasks = (task for stage in plan.stages for task in stage.tasks)
    for spec in (task.pretraining for task in tasks if task.pretraining):
        with suppress(ModuleNotFoundError):  # numpy, which this machine can do without
            survey.check_elsewhere(run, spec, partly)
        found = corpora.sizes(run, spec) if has_tokens(plan, run) else None
        if found:
            corpora.require_enough(spec, found)
            newest = manifest.find_latest(run.path(spec.checkpoint_dir))
            if newest and (phases := newest[1].data.get("phases")):
                mixture = mixture_of(spec, found)
                require_same_phases(spec, mixture, phases, newest[1].iteration, newest[0].name)
        require_untrained(run, spec)


def require_same_run(run: RunDir, spec: Spec, stages: Collection[str]) -> None:
    """Refuse a task that what a run has already does not allow.

    Args:
        stages: of its plan.

    Raises:
        TaskError: naming a checkpoint, a folder, a file or settings.
    """
    require_saved_within(run, spec)
    if isinstance(spec, GenerateSpec):
        answers.require_export(run, spec, "export" in stages)
    if isinstance(spec, JudgeSpec) and "generate" not in stages:
        answers.require_replies(run, spec)
    if isinstance(spec, FinetuneSpec):
        finetuned.require_start(run, spec)
        finetuned.require_same_finetuning(run, spec)
    if isinstance(spec, PrepareSpec | EvaluateSpec | GenerateSpec):
        finetuned.require_same_questions(run, spec)


def require_saved_within(run: RunDir, spec: Spec) -> None:
    """Refuse a training, its index, or a reader of its last checkpoint whose target is below a
    step that is saved.

    Raises:
        TaskError: naming the checkpoint.
    """
    from jobs.checkpoints import manifest, retention

    if isinstance(spec, IndexSpec):
        spec = spec.training
    if isinstance(spec, TrainingSpec):
        target = spec.train_steps
    elif isinstance(spec, EvaluateSpec | ExportSpec) and spec.checkpoint == "last":
        target = spec.target_step
    else:
        return
    for path in manifest.folders(run.path(spec.checkpoint_dir)):
        if manifest.step_of(path) > target:
            raise retention.beyond_target(path, target)


def require_untrained(run: RunDir, spec: PretrainSpec) -> None:
    """Refuse to skip steps that the newest checkpoint has trained on, which nothing would undo.

    Raises:
        TaskError: ``skip_steps`` names some.
    """
    from jobs.checkpoints import manifest
    from jobs.contract.metrics_log import MetricsLog, counted_steps

    newest = manifest.find_latest(run.path(spec.checkpoint_dir))
    if newest is None or not spec.skip_steps:
        return
    saved = newest[1].iteration
    if spec.skip_steps[0] > saved:
        return
    trained = {line.step for line in counted_steps(MetricsLog(run, PRETRAIN).read_new()).trained}
    if late := [step for step in spec.skip_steps if step <= saved and step in trained]:
        raise TaskError(
            f"pretrain.skip_steps names step {late[0]}, which is trained: the newest checkpoint is "
            f"of step {saved}",
            f"leave out steps up to {saved}; or move the checkpoints from step {late[0]} on out of "
            f"{newest[0].parent}, so that training returns to one before",
        )


def has_tokens(plan: Plan, run: RunDir) -> bool:
    """Return whether no stage of a plan is still to change the run's tokens."""
    return all(
        done_markers.is_done(run, task.stage, task.index, specs.digest(task.spec))
        for stage in plan.stages
        for task in stage.tasks
        if isinstance(task.spec, MAKING_TOKENS)
    )


def planned(reader: RecordReader) -> Plan:
    """Plan all stages of a run from the configuration that it was last submitted with.

    Raises:
        ConfigError: the record cannot be read, or is one that this version refuses.
    """
    from meditron_cli.config.load import Loaded
    from meditron_cli.config.stored import restore

    run = reader.run
    recorded = request.last_request(run, reader.history_reader.current())
    experiment, cluster = restore(recorded)
    stages = list(reader.read().require_readable().stages)
    measured = measured_times(run, stages)
    known = recorded_tokenizer(run, stages)
    digest = tokenizer_digest(experiment.tokenize.tokenizer) or (known.sha256 if known else "")
    grown = next((spec.tokenizer.grown for _, spec in finetuned.finetunings(run)), None)
    loaded = Loaded(experiment, cluster, recorded["size"], None, placeholders=(), missing=())
    loaded = with_corpus_tasks(loaded, run)
    return plan_of(loaded, stages, measured, digest, run, grown)


def measured_times(run: RunDir, stages: Collection[str]) -> MetricsSummary | None:
    """Return how long steps and saves of a run's pretraining took; None for other stages."""
    from jobs.contract.metrics_log import MetricsReader

    return MetricsReader(run, PRETRAIN).current() if PRETRAIN in stages else None


def recorded_folder(run: RunDir) -> Path | None:
    """Return the folder of the base model in the run's specs, which may be gone since; None for a
    run that converts none.
    """
    task = specs.read_task(run, "convert", 0)
    folder = task.spec.folder if task and isinstance(task.spec, ConvertSpec) else ""
    return Path(folder) if folder else None


def has_begun(run: RunDir, stage: StagePlan) -> bool:
    """Return whether a stage needs what it begins with no more: a conversion that has ended in a
    run, the folder of the base model; finetunings that all have checkpoints, the run they started
    from.
    """
    if stage.stage == "convert":
        return done_markers.is_done(run, "convert", 0, specs.digest(stage.tasks[0].spec))
    return stage.stage == FINETUNE and all(
        finetuned.has_checkpoints(run, task.spec) for task in stage.tasks
    )


def recorded_tokenizer(run: RunDir, stages: Collection[str]) -> TokenizerRef | None:
    """Return the tokenizer in the run's specs, for one that is gone; None when no spec has one."""
    for stage in stages:
        task = specs.read_task(run, stage, 0)
        spec = task.spec if task else None
        if isinstance(spec, IndexSpec):
            spec = spec.training
        tokenizer = getattr(spec, "tokenizer", None)
        if isinstance(tokenizer, TokenizerRef):
            return tokenizer
    return None
