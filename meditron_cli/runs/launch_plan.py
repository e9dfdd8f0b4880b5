"""Decide which tasks of a plan to submit. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jobs.contract.attempt_history import TaskHistory
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import SAVING_STAGES, training_stage
from meditron_cli.errors import ConfigError
from meditron_cli.plan.model import Plan, StagePlan
from meditron_cli.runs import state, store
from meditron_cli.runs.record import RunRecord, StageRecord, TaskJob
from meditron_cli.scheduler.base import JobInfo, JobState


class MissingInputs(ConfigError):
    """A stage whose inputs are neither there nor being made; the hint is for an existing run."""


@dataclass(frozen=True)
class StageDecision:
    """The tasks of one stage that a launch submits, and its dependencies."""

    submit: tuple[int, ...]
    """Tasks to give to new jobs."""
    keep: dict[int, TaskJob]
    """Tasks whose jobs are queued or running and stay."""
    drop: tuple[str, ...]
    """Jobs to cancel first: they wait for something that can no longer happen."""


def refuse_other_data(record: RunRecord, verdicts: Mapping[str, Mapping[int, str]]) -> None:
    """Refuse to recreate a run's tokens from other files once it has trained on the old ones.

    Raises:
        ConfigError: naming the stage whose inputs or settings have changed.
    """
    name = training_stage(record.stages)
    training = record.stages[name] if name else None
    if training is None or not (training.progress or training.done):
        return
    for stage in ("curate", "tokenize"):
        changed = {"spec", "inputs"} & set(verdicts.get(stage, {}).values())
        if changed:
            what = "input files" if "inputs" in changed else "settings or tokenizer"
            resume = store.command(RunDir(record.path), "resume")
            raise ConfigError(
                f"the {what} of {stage} have changed since run {record.name} was trained on them",
                hint=f"put the old ones back, then `{resume}`",
            )


def decide(
    plan: Plan,
    record: RunRecord,
    infos: Mapping[str, JobInfo],
    verdicts: Mapping[str, Mapping[int, str]],
) -> dict[str, StageDecision]:
    """Return what to launch of each stage. Pure. A stage after a restarted one restarts as a whole,
    since its inputs are recreated.

    Raises:
        MissingInputs: a stage's inputs are neither there nor being made.
    """
    decisions: dict[str, StageDecision] = {}
    for stage in plan.stages:
        require_inputs(stage, decisions, record, infos)
        renewed = any(decisions[name].submit for name in stage.after if name in decisions)
        known = record.stages.get(stage.stage)
        jobs = known.jobs if known else {}
        in_queue = {i: job for i, job in jobs.items() if is_in_queue(infos.get(job.job_id))}
        stuck = {
            index: job
            for index, job in in_queue.items()
            if is_stuck(record.history.task(stage.stage, index), infos[job.job_id], renewed)
        }
        keep = {i: job for i, job in in_queue.items() if i not in stuck}
        checked = {} if renewed else verdicts.get(stage.stage, {})
        finished = {index for index, verdict in checked.items() if verdict == "done"}
        wanted = [task.index for task in stage.tasks]
        decisions[stage.stage] = StageDecision(
            submit=tuple(i for i in wanted if i not in keep and i not in finished),
            keep=keep,
            drop=tuple(unique(job.job_id for job in stuck.values())),
        )
    return decisions


def is_in_queue(info: JobInfo | None) -> bool:
    """Return whether a job is queued or running."""
    return info is not None and info.state in (JobState.QUEUED, JobState.ACTIVE)


def is_stuck(task: TaskHistory, info: JobInfo, renewed: bool) -> bool:
    """Return whether a job that has not begun its task can be of no use: it waits for jobs that
    failed or that this launch replaces, or a person has requested its end.
    """
    waits = info.state is JobState.QUEUED or not task.has_begun
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
        for index in decision.keep
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
    decisions: Mapping[str, StageDecision],
    record: RunRecord,
    infos: Mapping[str, JobInfo],
) -> None:
    """Refuse a stage whose inputs do not exist and are not being created.

    Raises:
        MissingInputs: naming the stage that is missing.
    """
    for name in stage.after:
        before = record.stages.get(name)
        if name in decisions or (before is not None and will_be_complete(before, infos)):
            continue
        pipeline = store.command(RunDir(record.path), "submit", "pipeline", "--run")
        raise MissingInputs(
            f"{stage.stage} needs the result of {name}, which this run does not have",
            hint=f"`{pipeline}` runs all stages in order",
        )


def will_be_complete(stage: StageRecord, infos: Mapping[str, JobInfo]) -> bool:
    """Return whether each task of a stage is done or has a queued or running job."""
    in_queue = {index for index, job in stage.jobs.items() if is_in_queue(infos.get(job.job_id))}
    return stage.done | in_queue == set(range(stage.total))


def job_ids(stage: StageRecord) -> list[str]:
    """Return the jobs that a stage's tasks were last submitted as, each once."""
    return unique(job.job_id for job in stage.jobs.values())


def jobs_in_queue(stage: StageRecord, infos: Mapping[str, JobInfo]) -> list[str]:
    """Return the jobs of a stage that are queued or running."""
    return [job for job in job_ids(stage) if is_in_queue(infos.get(job))]


def unique(values: Iterable[str]) -> list[str]:
    """Return the values in order, each once."""
    return list(dict.fromkeys(values))
