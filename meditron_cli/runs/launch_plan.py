"""Decide which tasks of a plan to submit. Pure.

A task is known by its result, the file or folder that it writes. It keeps its index for the life of
the run, whatever other tasks a later plan has, so that its job, history and done marker stay its
own. A job keeps its spec; where a plan has another one for its task, the job is replaced while
nothing has begun, and the submission is refused afterwards.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace

from jobs.contract import specs
from jobs.contract.attempt_history import TaskHistory
from jobs.contract.rundir import RunDir
from jobs.contract.specs import TaskSpec
from jobs.contract.stage_specs import (
    CORPUS_STAGES,
    PRETRAIN,
    SAVING_STAGES,
    STAGES,
    Spec,
    TokenizerRef,
)
from jobs.contract.units import plural
from jobs.slurm.states import WAITS_FOR_JOBS
from meditron_cli.errors import ConfigError
from meditron_cli.plan.early import waits_for
from meditron_cli.plan.model import Plan, StagePlan
from meditron_cli.runs import state, store
from meditron_cli.runs.record import RunRecord, StageRecord, TaskJob
from meditron_cli.scheduler.base import JobInfo, JobState

RecordedSpecs = Mapping[str, Mapping[int, TaskSpec | None]]
"""The specs that a run has, by stage and index; None for a damaged one."""


class MissingInputs(ConfigError):
    """A stage whose inputs are neither there nor being made; the hint is for an existing run."""

    def __init__(self, stage: str, needed: str, hint: str) -> None:
        """Name the stage, and the one that makes its inputs."""
        message = f"{stage} needs the result of {needed}, which this run does not have"
        super().__init__(message, hint=hint)
        self.needed = needed


class WaitingStages(ConfigError):
    """Queued stages outside of the plan that would wait for a replaced job without end; the hint is
    for a run that is continued with its own configuration."""


@dataclass(frozen=True)
class StageDecision:
    """The tasks of one stage that a launch submits, and its dependencies."""

    submit: tuple[int, ...]
    """Tasks to give to new jobs."""
    keep: dict[int, TaskJob]
    """Tasks whose jobs are queued or running and stay."""
    drop: tuple[str, ...]
    """Jobs to cancel first: they wait for something that can no longer happen, or ``replaced``."""
    replaced: tuple[str, ...] = ()
    """Jobs that have not begun a task whose settings are others now."""
    others: dict[int, TaskJob] = field(default_factory=dict)
    """Tasks that are in the queue and not in the plan; their jobs stay too."""
    lost: tuple[str, ...] = ()
    """Jobs to cancel of tasks that are not in the plan."""


def with_known_indices(plan: Plan, recorded: RecordedSpecs) -> Plan:
    """Return the plan with each task under the index that the run has for its result. A new task
    gets a free index: its place in the plan, or the next one.
    """
    stages = (known_indices(stage, recorded.get(stage.stage, {})) for stage in plan.stages)
    return replace(plan, stages=tuple(stages))


def known_indices(stage: StagePlan, recorded: Mapping[int, TaskSpec | None]) -> StagePlan:
    """Return a stage with known indices."""
    known = {result_of(task.spec): index for index, task in recorded.items() if task}
    taken = set(known.values())
    tasks = []
    for task in stage.tasks:
        index = known.get(result_of(task.spec), task.index)
        if result_of(task.spec) not in known and index in taken:
            index = next(i for i in itertools.count() if i not in taken and i not in recorded)
        taken.add(index)
        tasks.append(replace(task, index=index))
    return replace(stage, tasks=tuple(tasks))


def result_of(spec: Spec) -> str:
    """Return the path of what a task writes and no other task of its stage does."""
    for name in ("output_dir", "output_prefix", "checkpoint_dir"):
        if path := getattr(spec, name, ""):
            part = getattr(spec, "part", None)
            return str(path) if part is None else f"{path}, part {part}"
    raise TypeError(f"{type(spec).__name__} names no result")


def refuse_other_data(
    record: RunRecord, verdicts: Mapping[str, Mapping[int, str]], taken_down: int = 0
) -> None:
    """Refuse to recreate a run's tokens from other files once it has trained on the old ones.

    Args:
        record: of the run.
        verdicts: on the done markers of its tasks.
        taken_down: documents that were removed from its corpus.

    Raises:
        ConfigError: naming the stage whose inputs or settings have changed.
    """
    training = record.stages.get(PRETRAIN)
    if training is None or not (training.progress or training.done):
        return
    for stage in (*CORPUS_STAGES, "tokenize"):
        changed = {"spec", "inputs"} & set(verdicts.get(stage, {}).values())
        if changed:
            what = "input files" if "inputs" in changed else "settings or tokenizer"
            run = RunDir(record.path)
            hint = f"put the old ones back, then `{store.command(run, 'resume')}`"
            if taken_down:
                hint = (
                    f"{plural(taken_down, 'document')} removed from its corpus since; "
                    f"`{store.command(run, 'submit', 'evaluate', '--run')}` still scores it, and "
                    "--new starts a run from the sources"
                )
            raise ConfigError(
                f"the {what} of {stage} have changed since run {record.name} was trained on them",
                hint=hint,
            )


def refuse_beside_parts(record: RunRecord, plan: Plan, infos: Mapping[str, JobInfo]) -> None:
    """Refuse to make a whole corpus in one task while others make parts of it.

    Raises:
        ConfigError: naming their stage.
    """
    for name in plan.replaced_stages:
        if name in record.stages and jobs_in_queue(record.stages[name], infos):
            run = RunDir(record.path)
            raise ConfigError(
                f"{name} of run {record.name} is in the queue, and curate alone would do its work",
                hint=f"`{store.command(run, 'cancel')}` ends the run's jobs, "
                f"`{store.command(run, 'status')}` shows when they have ended; then repeat the "
                "command",
            )


def refuse_other_tokenizer(
    record: RunRecord, plan: Plan, made_with: Mapping[str, TokenizerRef]
) -> None:
    """Refuse stages with another tokenizer or vocabulary registry than results of the run have
    that they read. Tokens of a run that has neither weights nor a training may be made anew.

    Args:
        made_with: the tokenizer of each stage with a result.

    Raises:
        ConfigError: naming the stage, and what is another one.
    """
    planned = [stage.stage for stage in plan.stages]
    kept = {*made_with} - {"tokenize"}
    for stage, old in made_with.items():
        if stage == "tokenize" and "tokenize" in planned and not kept:
            continue
        for new in filter(None, map(tokenizer_of, plan.stages)):
            if (new.sha256, new.vocabulary) == (old.sha256, old.vocabulary):
                continue
            what = "vocabulary" if new.vocabulary != old.vocabulary else "tokenizer"
            resume = store.command(RunDir(record.path), "resume")
            raise ConfigError(
                f"the {what} is not the one with which {stage} of run {record.name} was made "
                f"({new.path}: {short(new.sha256)}, was {short(old.sha256)})",
                hint=f"put the old one back, then `{resume}`; --new starts a run with another one",
            )


def tokenizer_of(stage: StagePlan) -> TokenizerRef | None:
    """Return the tokenizer of a stage's tasks; None for a stage that reads none."""
    return getattr(stage.tasks[0].spec, "tokenizer", None) if stage.tasks else None


def short(digest: str) -> str:
    """Return the beginning of a SHA-256."""
    return digest[:12] or "not there"


def decide(
    plan: Plan,
    record: RunRecord,
    infos: Mapping[str, JobInfo],
    verdicts: Mapping[str, Mapping[int, str]],
    recorded: RecordedSpecs,
    saved: Collection[int] = (),
) -> dict[str, StageDecision]:
    """Return what to launch of each stage. Pure. A stage after a restarted one restarts as a whole,
    since its inputs are recreated.

    Args:
        recorded: specs with which those of the plan are compared; of a plan that only continues
            the run, none.
        saved: steps of the run's checkpoints.

    Raises:
        MissingInputs: a stage's inputs are neither there nor being made.
        WaitingStages: a queued stage that the plan does not have waits for a job to be replaced.
        ConfigError: a task runs with other settings.
    """
    decisions: dict[str, StageDecision] = {}
    names = {*record.stages, *(stage.stage for stage in plan.stages)}
    for stage in plan.stages:
        after = {task.index: waits_for(stage, task, names, saved) for task in stage.tasks}
        require_inputs(stage, set().union(*after.values()), decisions, record, infos)
        starts = {name for name, decision in decisions.items() if decision.submit}
        renewed = {index for index, before in after.items() if not starts.isdisjoint(before)}
        known = record.stages.get(stage.stage)
        jobs = known.jobs if known else {}
        in_queue = {i: job for i, job in jobs.items() if is_in_queue(infos.get(job.job_id))}
        stuck = {
            index: job
            for index, job in in_queue.items()
            if is_stuck(
                record.history.task(stage.stage, index),
                infos[job.job_id],
                index in renewed or (index not in after and not starts.isdisjoint(stage.after)),
                can_start=after.get(index) == (),
            )
        }
        alive = {i: job for i, job in in_queue.items() if i not in stuck}
        checked = verdicts.get(stage.stage, {})
        finished = {i for i, verdict in checked.items() if verdict == "done" and i not in renewed}
        changed = changed_tasks(stage, recorded.get(stage.stage, {})) & alive.keys()
        done = known.done if known else set()
        replaced = replaced_jobs(record, stage, infos, alive, changed, done)
        alive = {
            index: job
            for index, job in alive.items()
            if job.job_id not in replaced and index not in changed
        }
        wanted = [task.index for task in stage.tasks]
        keep = {index: job for index, job in alive.items() if index in wanted}
        decisions[stage.stage] = StageDecision(
            submit=tuple(i for i in wanted if i not in keep and i not in finished),
            keep=keep,
            drop=tuple(unique([*(job.job_id for job in stuck.values()), *replaced])),
            replaced=replaced,
            lost=tuple(unique(job.job_id for index, job in stuck.items() if index not in wanted)),
            others={index: job for index, job in alive.items() if index not in wanted},
        )
    refuse_waiting_stages(record, infos, decisions)
    refuse_other_index(plan, record, infos, decisions, recorded)
    return decisions


def changed_tasks(stage: StagePlan, recorded: Mapping[int, TaskSpec | None]) -> set[int]:
    """Return the tasks whose recorded settings are others than the plan's."""
    return {
        task.index
        for task in stage.tasks
        if (old := recorded.get(task.index)) and specs.digest(old.spec) != specs.digest(task.spec)
    }


def replaced_jobs(
    record: RunRecord,
    stage: StagePlan,
    infos: Mapping[str, JobInfo],
    alive: Mapping[int, TaskJob],
    changed: Set[int],
    done: Set[int],
) -> tuple[str, ...]:
    """Return the jobs of changed tasks, none of which has begun.

    Raises:
        ConfigError: one runs a task, a changed one or, with one job for several, another.
    """
    jobs = unique(alive[index].job_id for index in sorted(changed - done))
    for index, job in sorted(alive.items()):
        info, task = infos[job.job_id], record.history.task(stage.stage, index)
        runs = info.state is not JobState.QUEUED and task.has_begun and index not in done
        if runs and job.job_id in jobs:
            raise runs_with_others(record, stage.stage, job)
    return tuple(jobs)


def runs_with_others(record: RunRecord, stage: str, job: TaskJob) -> ConfigError:
    """Return the error for a task that runs with other settings than a submission has."""
    run = RunDir(record.path)
    saves = stage in SAVING_STAGES
    cancel = store.command(run, "cancel", "--save") if saves else store.command(run, "cancel")
    return ConfigError(
        f"{stage} of run {record.name} runs in job {job.job_id} with other settings, "
        "so nothing was submitted",
        hint=f"`{cancel}` ends the run's jobs, `{store.command(run, 'status')}` shows when they "
        "have ended; then repeat the command",
    )


def refuse_other_index(
    plan: Plan,
    record: RunRecord,
    infos: Mapping[str, JobInfo],
    decisions: Mapping[str, StageDecision],
    recorded: RecordedSpecs,
) -> None:
    """Refuse to lay out the samples of other settings under a training outside of the plan, whose
    next start in its job would not find its own.

    Raises:
        WaitingStages: it is queued.
        ConfigError: it runs.
    """
    stage = next((stage for stage in plan.stages if stage.stage == "index"), None)
    if stage is None or not changed_tasks(stage, recorded.get(stage.stage, {})):
        return
    for name, reader in record.stages.items():
        if name in decisions or stage.stage not in reader.after:
            continue
        for index, job in reader.jobs.items():
            if index in reader.done or not is_in_queue(infos.get(job.job_id)):
                continue
            if infos[job.job_id].state is not JobState.QUEUED:
                raise runs_with_others(record, name, job)
            pipeline = store.command(RunDir(record.path), "submit", "pipeline", "--run")
            raise WaitingStages(
                f"{name} of run {record.name} is queued as job {job.job_id} with other settings "
                f"than {stage.stage} has now, so nothing was submitted",
                hint=f"`{pipeline}` submits all of them",
            )


def refuse_waiting_stages(
    record: RunRecord, infos: Mapping[str, JobInfo], decisions: Mapping[str, StageDecision]
) -> None:
    """Refuse to replace jobs for which queued jobs of stages outside of the plan wait.

    Raises:
        WaitingStages: naming the stages.
    """
    replaced = [name for name, decision in decisions.items() if decision.replaced]
    waiting = [
        name
        for name, stage in record.stages.items()
        if name not in decisions
        and not set(replaced).isdisjoint(stage.after)
        and any(
            is_in_queue(infos.get(job.job_id)) and not record.history.task(name, index).has_begun
            for index, job in stage.jobs.items()
        )
    ]
    if waiting:
        pipeline = store.command(RunDir(record.path), "submit", "pipeline", "--run")
        raise WaitingStages(
            f"{' and '.join(waiting)} of run {record.name} would never start: queued behind "
            f"{' and '.join(replaced)}, which has other settings now",
            hint=f"`{pipeline}` submits all of them",
        )


def is_in_queue(info: JobInfo | None) -> bool:
    """Return whether a job is queued or running."""
    return info is not None and info.state in (JobState.QUEUED, JobState.ACTIVE)


def is_stuck(task: TaskHistory, info: JobInfo, renewed: bool, can_start: bool = False) -> bool:
    """Return whether a job that has not begun its task can be of no use: it waits for jobs that
    failed, that this launch replaces, or for which it need not wait since its task ``can_start``;
    or a person has requested its end.
    """
    waits = info.state is JobState.QUEUED or not task.has_begun
    if can_start and info.state is JobState.QUEUED and info.reason in WAITS_FOR_JOBS:
        return True
    useless = renewed or task.is_cancelled or task.is_stopped or info.reason == state.NEVER
    return waits and useless


def refuse_ending_jobs(record: RunRecord, decisions: Mapping[str, StageDecision]) -> None:
    """Refuse to launch beside jobs that end by a person's request: they have received it, and jobs
    behind them could never start.

    Raises:
        ConfigError: naming the stages.
    """
    endings = {
        name: ending
        for name, decision in decisions.items()
        for index in (*decision.keep, *decision.others)
        if (ending := requested_ending(record, record.history.task(name, index)))
    }
    if endings:
        run = RunDir(record.path)
        resume, cancel = store.command(run, "resume"), store.command(run, "cancel")
        stages = ", ".join(f"{name} {ending}" for name, ending in endings.items())
        raise ConfigError(
            f"run {record.name} is ending as requested: {stages}",
            hint=f"`{resume}` once it has ended; `{cancel}` ends it at once",
        )


def requested_ending(record: RunRecord, task: TaskHistory) -> str:
    """Return how a task that has begun is about to end by a person's request; empty for none."""
    if not task.has_begun:
        return ""
    if task.is_cancelled:
        return "is being cancelled"
    if task.stage in SAVING_STAGES:
        return "saves and stops" if task.is_stopped or record.stop_requested else ""
    return "is being cancelled" if task.is_stopped else ""


def require_inputs(
    stage: StagePlan,
    after: Collection[str],
    decisions: Mapping[str, StageDecision],
    record: RunRecord,
    infos: Mapping[str, JobInfo],
) -> None:
    """Refuse a stage whose inputs do not exist and are not being created.

    Args:
        after: the stages that its tasks wait for.

    Raises:
        MissingInputs: naming the stage that is missing.
    """
    for name in sorted(after, key=STAGES.index):
        before = record.stages.get(name)
        if name in decisions or (before is not None and will_be_complete(before, infos)):
            continue
        one, pipeline = (
            store.command(RunDir(record.path), "submit", which, "--run")
            for which in (name, "pipeline")
        )
        hint = f"`{one}` makes it, `{pipeline}` runs all stages in order"
        raise MissingInputs(stage.stage, name, hint=hint)


def will_be_complete(stage: StageRecord, infos: Mapping[str, JobInfo]) -> bool:
    """Return whether each task of a stage is done or has a queued or running job."""
    in_queue = {index for index, job in stage.jobs.items() if is_in_queue(infos.get(job.job_id))}
    return (stage.done | in_queue).issuperset(stage.indices)


def job_ids(stage: StageRecord) -> list[str]:
    """Return the jobs that a stage's tasks were last submitted as, each once."""
    return unique(job.job_id for job in stage.jobs.values())


def jobs_in_queue(stage: StageRecord, infos: Mapping[str, JobInfo]) -> list[str]:
    """Return the jobs of a stage that are queued or running."""
    return [job for job in job_ids(stage) if is_in_queue(infos.get(job))]


def unique(values: Iterable[str]) -> list[str]:
    """Return the values in order, each once."""
    return list(dict.fromkeys(values))
