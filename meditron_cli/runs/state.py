"""Derive the state of a run from its record and the scheduler's answer. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from jobs.contract.errors import STOPPED
from jobs.contract.exit_record import ExitRecord
from jobs.contract.outcomes import RootCause
from jobs.contract.progress_record import ProgressRecord
from jobs.contract.stage_specs import SAVING_STAGES
from meditron_cli.runs.open_jobs import has_ended
from meditron_cli.runs.record import RunRecord, StageRecord, StopRequest, TaskJob
from meditron_cli.runs.views import RunView, StageView, TaskProgress
from meditron_cli.scheduler.base import JobInfo, JobState

PRECEDENCE = ("running", "failed", "unknown", "cancelled", "stopped", "pending", "succeeded")
"""States of tasks and stages; the first that occurs is the state of the stage or run."""

NEW_JOB_SECONDS = 120
"""For Slurm to list a job after its submission (accounting lags behind)."""

NEVER = "DependencyNeverSatisfied"

ALIVE = ("running", "pending", "unknown")
"""States that may change without a person."""


def derive_view(record: RunRecord, infos: Mapping[str, JobInfo], now: float) -> RunView:
    """Return the state of a run, from its record and the scheduler's states of its open jobs.

    A job that is not in ``infos`` was not queried; its task's state follows from the record alone.
    """
    stages: dict[str, StageView] = {}
    for name, stage in record.stages.items():
        stages[name] = derive_stage_view(record, stage, infos, now, before=stages)
    state = first_of(view.state for view in stages.values()) if stages else "stopped"
    training = training_of(record, stages)
    progress = training.progress if training else None
    trains = (
        training is not None
        and stages[training.stage].state == "running"
        and not is_suspended(training, infos)
    )
    return RunView(
        name=record.name,
        state="unknown" if record.problem else state,
        cluster=record.cluster,
        stages=stages,
        loss=progress.loss if progress else None,
        eta_s=eta(progress, now) if trains and progress else None,
        problem=record.problem,
        unreadable=record.unreadable,
    )


def training_of(record: RunRecord, stages: Mapping[str, StageView]) -> StageRecord | None:
    """Return the single training whose progress is that of the run: one that runs, else the first;
    None without one.
    """
    trainings = [stage for stage in record.stages.values() if stage.target_step is not None]
    running = [stage for stage in trainings if stages[stage.stage].state == "running"]
    return next(iter(running or trainings), None)


def is_suspended(stage: StageRecord, infos: Mapping[str, JobInfo]) -> bool:
    """Return whether a job of a stage holds its nodes without running on them."""
    jobs = (infos.get(job.job_id) for job in stage.jobs.values())
    return any(info is not None and info.word == "SUSPENDED" for info in jobs)


def derive_stage_view(
    record: RunRecord,
    stage: StageRecord,
    infos: Mapping[str, JobInfo],
    now: float,
    before: Mapping[str, StageView],
) -> StageView:
    """Return the state of a stage: that of its tasks, by precedence.

    Args:
        before: the states of earlier stages.
    """
    unfinished = [
        before[name] for name in stage.after if name in before and not before[name].finished
    ]
    states = {index: task_state(stage, index, record.ending, infos, now) for index in stage.indices}
    if unfinished:
        continued = all(earlier.state in ALIVE for earlier in unfinished)
        stuck = {index for index in states if continued and is_stuck(stage, index, infos)}
        states |= {
            index: waiting_state(state, stage.exits.get(index), index in stuck)
            for index, state in states.items()
            if not (state == "running" and index in stage.begun)
        }
    step, tokens = steps_and_tokens(stage)
    pending = pending_job(stage, infos)
    working = [index for index, word in states.items() if word == "running"]
    return StageView(
        stage=stage.stage,
        state=first_of(states.values()),
        total=stage.total,
        done=len(stage.done),
        attempts=stage.attempts,
        step=step,
        target_step=stage.target_step,
        tokens=tokens,
        target_tokens=stage.target_tokens,
        loss=stage.progress.loss if stage.progress else None,
        task_states=states,
        pending_reason=pending.reason if pending else "",
        expected_start=pending.start if pending else None,
        stopping=stop_sentence(record, stage, working),
        progress=progress_of([stage.task_progress[i] for i in working if i in stage.task_progress]),
    )


def stop_sentence(record: RunRecord, stage: StageRecord, working: Sequence[int]) -> str:
    """Return how running tasks of a stage are about to end by a person's request; empty for none.

    Args:
        working: the running tasks.
    """
    ending, times = record.ending, [stage.jobs[index].time for index in working]
    if not times:
        return ""
    is_requested = ending is not None and ending.time >= max(times)
    if is_requested and ending and ending.state == "cancelled":
        return "is being cancelled"
    if stage.stage in SAVING_STAGES:
        return "saves and stops" if record.stop_requested else ""
    return "is being cancelled" if is_requested else ""


def pending_job(stage: StageRecord, infos: Mapping[str, JobInfo]) -> JobInfo | None:
    """Return a pending job of a stage's unfinished tasks: a held one, else the first to start."""
    jobs = (stage.jobs[index].job_id for index in sorted(stage.jobs.keys() - stage.done))
    reports = [infos[job] for job in dict.fromkeys(jobs) if job in infos]
    pending = [
        info
        for info in reports
        if info.state is JobState.QUEUED and info.reason not in ("", "None")
    ]
    return min(
        pending,
        key=lambda info: (not info.is_held_after_launch, info.start is None, info.start or 0.0),
        default=None,
    )


def progress_of(files: Sequence[ProgressRecord]) -> TaskProgress | None:
    """Add up the progress files of running tasks; None without any that has begun."""
    begun = [progress for progress in files if progress.total > 0]
    if not begun:
        return None
    done = sum(progress.done for progress in begun)
    total = sum(progress.total for progress in begun)
    fraction = sum(progress.done / progress.total for progress in begun)
    return TaskProgress(min(fraction, len(begun)), done / total, total, begun[0].unit)


def waiting_state(state: str, end: ExitRecord | None, stuck: bool) -> str:
    """Return the state of a task whose earlier stages are unfinished.

    A running job that has begun nothing only waits (a local one does), a job that is gone has not
    started its task, and one that is ``stuck`` on a job that ended will be re-pointed to that one's
    successor.
    """
    if state == "running" or stuck:
        return "pending"
    return "stopped" if state == "failed" and end is None else state


def is_stuck(stage: StageRecord, index: int, infos: Mapping[str, JobInfo]) -> bool:
    """Return whether a task's job has a dependency that can never be satisfied."""
    job = stage.jobs.get(index)
    info = infos.get(job.job_id) if job else None
    return info is not None and info.state is JobState.QUEUED and info.reason == NEVER


def stuck_jobs(record: RunRecord, infos: Mapping[str, JobInfo]) -> list[tuple[str, str]]:
    """Return the stage and id of each job with a dependency that can never be satisfied."""
    stuck = {
        (name, job.job_id): None
        for name, stage in record.stages.items()
        for index, job in sorted(stage.jobs.items())
        if index not in stage.done and is_stuck(stage, index, infos)
    }
    return list(stuck)


def blocked_stages(
    record: RunRecord, stages: Mapping[str, StageView]
) -> dict[tuple[str, str], list[str]]:
    """Return the unfinished stages that wait for one which will not finish by itself, by the name
    and state of that one, the first of its chain.
    """
    origins: dict[str, str] = {}
    blocked: dict[tuple[str, str], list[str]] = {}
    for name, stage in record.stages.items():
        ended = [
            before
            for before in stage.after
            if before in stages
            and not stages[before].finished
            and (before in origins or stages[before].state not in ALIVE)
        ]
        if ended and not stages[name].finished:
            origin = origins[name] = origins.get(ended[0], ended[0])
            blocked.setdefault((origin, stages[origin].state), []).append(name)
    return blocked


def first_of(states: Iterable[str]) -> str:
    """Return the first state by precedence; ``succeeded`` without any."""
    present = set(states)
    return next((state for state in PRECEDENCE if state in present), "succeeded")


def task_state(
    stage: StageRecord,
    index: int,
    ending: StopRequest | None,
    infos: Mapping[str, JobInfo],
    now: float,
) -> str:
    """Return the state of one task.

    The done marker decides first, then a final exit record, then a queued or running job, then a
    recovery job.
    """
    if index in stage.done:
        return "succeeded"
    if any(index in indices for indices in stage.unanswered.values()):
        return "unknown"
    job = stage.jobs.get(index)
    if job is None:
        return "stopped"
    end = stage.exits.get(index)
    if end and ending and ending.time >= job.time and end.ended < ending.time:
        ending = None
    requested = ending.state if ending and ending.time >= job.time else None
    if end and has_ended(stage, index):
        return requested or final_state(end)
    return open_state(stage, index, requested, infos, now)


def open_state(
    stage: StageRecord, index: int, requested: str | None, infos: Mapping[str, JobInfo], now: float
) -> str:
    """Return the state of a task without a final exit record. ``requested`` is its state once its
    job is gone, where a person has cancelled or stopped it.
    """
    job, end = stage.jobs[index], stage.exits.get(index)
    info = infos.get(job.job_id)
    if info is not None and info.state in (JobState.QUEUED, JobState.ACTIVE, JobState.UNKNOWN):
        return listed_state(info)
    if requested or has_recovery_job(stage, infos):
        return requested or "pending"
    if end and not was_cancelled(info):
        return "stopped"
    return missing_job_state(job, info, now)


def final_state(end: ExitRecord) -> str:
    """Return the state of a task that is not retried."""
    if end.cause is RootCause.CANCELLED:
        return "cancelled"
    return "stopped" if end.code == STOPPED else "failed"


def has_recovery_job(stage: StageRecord, infos: Mapping[str, JobInfo]) -> bool:
    """Return whether a recovery job of this stage is queued or running."""
    reports = (infos.get(job) for job in stage.recovery_jobs)
    return any(info and info.state in (JobState.QUEUED, JobState.ACTIVE) for info in reports)


def was_cancelled(info: JobInfo | None) -> bool:
    """Return whether the scheduler reports that a person cancelled the job."""
    return info is not None and info.was_cancelled


def listed_state(info: JobInfo) -> str:
    """Return the state of a task whose job the scheduler lists, or of which it reports nothing."""
    if info.state is JobState.UNKNOWN:
        return "unknown"
    if info.state is JobState.ACTIVE:
        return "running"
    return "stopped" if info.reason == NEVER else "pending"


def missing_job_state(job: TaskJob, info: JobInfo | None, now: float) -> str:
    """Return the state of a task whose job is gone without an exit record."""
    if was_cancelled(info):
        return "cancelled"
    # It may have been submitted after the query, or the accounting may lag behind.
    unseen = info is None or (info.state is JobState.MISSING and job.scheduler == "slurm")
    return "pending" if unseen and now - job.time < NEW_JOB_SECONDS else "failed"


def steps_and_tokens(stage: StageRecord) -> tuple[int | None, int | None]:
    """Return the steps and tokens of training so far; None for other stages."""
    if stage.target_step is None:
        return None, None
    if len(stage.done) == stage.total:
        return stage.target_step, stage.target_tokens
    # While an attempt starts its progress file has 0.
    done = int(stage.progress.done) if stage.progress else 0
    step = max(done, stage.began_from)
    phases = [(0, 0, stage.step_tokens or 0), *stage.later_phases]
    begin, tokens, each = [phase for phase in phases if phase[0] <= step][-1]
    return step, tokens + (step - begin) * each


def eta(progress: ProgressRecord, now: float, tokens_per_s: float | None = None) -> float | None:
    """Return the seconds until training reaches its target at a speed, or that of its last step.

    None without a speed, and when the estimate has run out: nothing was reported for longer than
    the rest was to take, as in a suspended job.
    """
    tokens, target = progress.tokens, progress.target_tokens
    speed = tokens_per_s or progress.tokens_per_s
    if not speed or tokens is None or target is None:
        return None
    remaining = (target - tokens) / speed - (now - progress.time)
    return remaining if remaining > 0 else None
