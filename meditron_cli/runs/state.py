"""The state of a run, which follows from its record and the scheduler's answer. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobs.contract.errors import STOPPED
from jobs.contract.exit_record import ExitRecord
from jobs.contract.outcomes import RetryAction, RootCause
from meditron_cli.runs.record import RunRecord, StageRecord, StopRequest, TaskJob
from meditron_cli.scheduler.base import JobInfo, JobState

PRECEDENCE = ("running", "failed", "unknown", "cancelled", "stopped", "pending", "succeeded")
"""Of tasks in a stage and of stages in a run: the first that occurs is the state of the whole."""

FORGET_SECONDS = 3600
"""After a cancellation or a failure this old the scheduler is not asked about what was waiting."""

REQUEUE_SECONDS = 7 * 24 * 3600
"""So long may a job that stopped wait in the queue again before it counts as over."""

NEW_JOB_SECONDS = 120
"""So long may a job that was just submitted be unknown to Slurm (accounting lags behind)."""

NEVER = "DependencyNeverSatisfied"

ALIVE = ("running", "pending", "unknown")
"""States of what may go on by itself."""


@dataclass(frozen=True)
class TaskProgress:
    """How far the running tasks of a stage are, together."""

    fraction: float
    """Tasks that the running ones amount to: 0.5 for one task halfway."""
    share: float
    """Done of the total, in the tasks' own unit."""
    total: float
    unit: str
    """``bytes``, ``questions`` …."""

    @property
    def text(self) -> str:
        """``43% of 1.2 GB``, ``43% of 400 questions``."""
        size = f"{self.total:,.0f} {self.unit}"
        return f"{self.share:.0%} of {bytes_text(self.total) if self.unit == 'bytes' else size}"


def bytes_text(count: float) -> str:
    """Return bytes in decimal units, as disks and downloads are measured: ``1.2 GB``."""
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= limit:
            return f"{count / limit:,.1f} {unit}"
    return f"{count:.0f} bytes"


@dataclass(frozen=True)
class StageView:
    """State of a stage."""

    stage: str
    state: str
    total: int
    done: int
    attempts: int
    step: int | None
    target_step: int | None
    tokens: int | None
    target_tokens: int | None
    task_states: Mapping[int, str] = field(default_factory=dict)
    progress: TaskProgress | None = None
    """Of running tasks, where the stage has no steps."""
    pending_reason: str = ""
    """Why its pending job waits, in Slurm's word; empty where it has none."""
    expected_start: float | None = None
    """When Slurm expects to start that job, seconds since 1970."""

    @property
    def state_text(self) -> str:
        """The state, of a pending stage with Slurm's reason."""
        reason = self.pending_reason
        return f"{self.state} ({reason})" if reason and self.state == "pending" else self.state

    @property
    def finished(self) -> bool:
        """Whether every task is done."""
        return self.done >= self.total

    @property
    def failed(self) -> int:
        """How many tasks failed."""
        return sum(word == "failed" for word in self.task_states.values())

    @property
    def names_failures(self) -> bool:
        """Whether ``amount`` says how many of several tasks failed."""
        return self.total > 1 and self.failed > 0

    @property
    def measure(self) -> tuple[float, int]:
        """How much is done, of how much: steps where the stage has them, else tasks."""
        if self.target_step is not None:
            return self.step or 0, self.target_step
        return self.done + (self.progress.fraction if self.progress else 0.0), self.total

    @property
    def amount(self) -> str:
        """``120/600 steps`` of pretraining; of other stages ``3/9 tasks``, with the progress of
        running tasks and the number of failed ones.
        """
        if self.target_step is not None:
            return f"{self.step or 0}/{self.target_step} steps"
        if self.names_failures:
            return f"{self.failed} of {self.total} tasks failed, {self.done} done"
        tasks = f"{self.done}/{self.total} tasks"
        return f"{tasks}, {self.progress.text}" if self.progress else tasks

    def to_json(self) -> dict[str, Any]:
        """The stage as ``status --json`` prints it."""
        keys = ("state", "done", "total", "step", "target_step", "tokens", "target_tokens")
        return {
            **{key: getattr(self, key) for key in keys},
            "attempts": self.attempts,
            "pending_reason": self.pending_reason,
            "expected_start": self.expected_start,
        }


@dataclass(frozen=True)
class RunView:
    """State of a run."""

    name: str
    state: str
    cluster: str
    stages: dict[str, StageView]
    loss: float | None
    eta_s: float | None
    """Seconds until pretraining reaches its target at its own pace; None when it does not run."""
    problem: str
    goodput: float | None = None
    """Share of the time since the first submission that went into steps that count; costs reading
    all step records, so it is known only of a run that is looked at alone."""

    def to_json(self) -> dict[str, Any]:
        """The run as ``status --json`` prints it."""
        return {
            "run": self.name,
            "state": self.state,
            "cluster": self.cluster,
            "stages": {name: stage.to_json() for name, stage in self.stages.items()},
            "loss": self.loss,
            "eta_s": self.eta_s,
            "goodput": self.goodput,
        }


def open_jobs(record: RunRecord, now: float) -> dict[str, set[str]]:
    """Job ids by scheduler of which the run directory does not say how they ended."""
    ending = record.ending
    settled = ending.time if ending and now - ending.time > FORGET_SECONDS else 0.0
    found: dict[str, set[str]] = {}
    for stage in record.stages.values():
        if has_nothing_to_wait_for(record, stage, now):
            continue
        for index, job in stage.jobs.items():
            if index not in stage.done and not is_over(stage, index, now) and job.time >= settled:
                found.setdefault(job.scheduler, set()).add(job.job_id)
    return found


def recovery_job_ids(record: RunRecord, now: float) -> dict[str, set[str]]:
    """Recovery jobs by scheduler that may still continue what ``open_jobs`` names."""
    open_ids = open_jobs(record, now)
    found: dict[str, set[str]] = {}
    for stage in record.stages.values():
        for kind, ids in open_ids.items():
            if any(job.job_id in ids for job in stage.jobs.values()) and stage.recovery_jobs:
                found.setdefault(kind, set()).update(stage.recovery_jobs)
    return found


def is_over(stage: StageRecord, index: int, now: float) -> bool:
    """Whether nobody will work on a task again by itself: it ended, or stopped very long ago."""
    ended = stage.exits.get(index)
    return has_ended(stage, index) or bool(ended and now - ended.ended > REQUEUE_SECONDS)


def has_nothing_to_wait_for(record: RunRecord, stage: StageRecord, now: float) -> bool:
    """Whether a stage before this one failed so long ago that its jobs are of no interest."""
    before = [record.stages[name] for name in stage.after if name in record.stages]
    return any(
        failed_long_ago(earlier, now) or has_nothing_to_wait_for(record, earlier, now)
        for earlier in before
    )


def failed_long_ago(stage: StageRecord, now: float) -> bool:
    """Whether an unfinished task of a stage has ended for good, and not just now."""
    return any(
        index not in stage.done and has_ended(stage, index) and now - ended.ended > FORGET_SECONDS
        for index, ended in stage.exits.items()
    )


def has_ended(stage: StageRecord, index: int) -> bool:
    """Return whether a task's exit record says that it is not retried."""
    end = stage.exits.get(index)
    return end is not None and end.action in (RetryAction.STOP, RetryAction.FINISH)


def fold(record: RunRecord, infos: Mapping[str, JobInfo], now: float) -> RunView:
    """The state of a run, from its record and what the scheduler said of its open jobs.

    A job that is not in ``infos`` was not asked about; its task is judged by the record alone.
    """
    stages: dict[str, StageView] = {}
    for name, stage in record.stages.items():
        stages[name] = fold_stage(record, stage, infos, now, before=stages)
    state = first_of(view.state for view in stages.values()) if stages else "stopped"
    training = "pretrain" in stages and stages["pretrain"].state == "running"
    progress = record.stages["pretrain"].progress if "pretrain" in stages else {}
    return RunView(
        name=record.name,
        state="unknown" if record.problem else state,
        cluster=record.cluster,
        stages=stages,
        loss=progress.get("loss"),
        eta_s=eta(progress, now) if training and not is_suspended(record, infos) else None,
        problem=record.problem,
    )


def is_suspended(record: RunRecord, infos: Mapping[str, JobInfo]) -> bool:
    """Return whether the job of pretraining holds its nodes without running on them."""
    jobs = (infos.get(job.job_id) for job in record.stages["pretrain"].jobs.values())
    return any(info is not None and info.word == "SUSPENDED" for info in jobs)


def fold_stage(
    record: RunRecord,
    stage: StageRecord,
    infos: Mapping[str, JobInfo],
    now: float,
    before: Mapping[str, StageView],
) -> StageView:
    """The state of a stage: that of its tasks, by precedence; ``before`` has the earlier stages."""
    unfinished = [
        before[name] for name in stage.after if name in before and not before[name].finished
    ]
    states = {
        index: task_state(stage, index, record.ending, infos, now) for index in range(stage.total)
    }
    if unfinished:
        continued = all(earlier.state in ALIVE for earlier in unfinished)
        stuck = {index for index in states if continued and is_stuck(stage, index, infos)}
        states = {
            index: waiting_state(state, stage.exits.get(index), index in stuck)
            for index, state in states.items()
        }
    step, tokens = steps_and_tokens(stage)
    waits = pending_job(stage, infos)
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
        task_states=states,
        pending_reason=waits.reason if waits else "",
        expected_start=waits.start if waits else None,
        progress=progress_of([stage.running[i] for i in working if i in stage.running]),
    )


def pending_job(stage: StageRecord, infos: Mapping[str, JobInfo]) -> JobInfo | None:
    """Return a pending job of a stage's unfinished tasks: a held one, else the first to start."""
    jobs = (job.job_id for index, job in sorted(stage.jobs.items()) if index not in stage.done)
    found = [infos[job] for job in dict.fromkeys(jobs) if job in infos]
    pending = [
        info for info in found if info.state is JobState.QUEUED and info.reason not in ("", "None")
    ]
    return min(
        pending,
        key=lambda info: (not info.is_held_after_launch, info.start is None, info.start or 0.0),
        default=None,
    )


def progress_of(files: Sequence[Mapping[str, Any]]) -> TaskProgress | None:
    """Add up the progress files of running tasks; None without any that has begun."""
    begun = [progress for progress in files if progress["total"] > 0]
    if not begun:
        return None
    done = sum(progress["done"] for progress in begun)
    total = sum(progress["total"] for progress in begun)
    fraction = sum(progress["done"] / progress["total"] for progress in begun)
    return TaskProgress(min(fraction, len(begun)), done / total, total, begun[0]["unit"])


def waiting_state(state: str, end: ExitRecord | None, stuck: bool) -> str:
    """The state of a task before which something is unfinished.

    A job that runs only waits (a local one does), one that is gone has not started its task, and
    one that is ``stuck`` on a job that ended will be given that one's successor to wait for.
    """
    if state == "running" or stuck:
        return "pending"
    return "stopped" if state == "failed" and end is None else state


def is_stuck(stage: StageRecord, index: int, infos: Mapping[str, JobInfo]) -> bool:
    """Whether a task's job waits for something that cannot happen any more."""
    job = stage.jobs.get(index)
    info = infos.get(job.job_id) if job else None
    return info is not None and info.state is JobState.QUEUED and info.reason == NEVER


def stuck_jobs(record: RunRecord, infos: Mapping[str, JobInfo]) -> list[tuple[str, str]]:
    """Stage and id of each job that waits for something that cannot happen any more."""
    found = {
        (name, job.job_id): None
        for name, stage in record.stages.items()
        for index, job in sorted(stage.jobs.items())
        if index not in stage.done and is_stuck(stage, index, infos)
    }
    return list(found)


def first_of(states: Iterable[str]) -> str:
    """The state that speaks for all of them; nothing at all has succeeded."""
    present = set(states)
    return next((state for state in PRECEDENCE if state in present), "succeeded")


def task_state(
    stage: StageRecord,
    index: int,
    ending: StopRequest | None,
    infos: Mapping[str, JobInfo],
    now: float,
) -> str:
    """The state of one task.

    The marker comes first, then an exit record that is final, then a living job, then a recovery
    job that will look after it, then the rest.
    """
    if index in stage.done:
        return "succeeded"
    if any(index in indices for indices in stage.unanswered.values()):
        return "unknown"
    job = stage.jobs.get(index)
    if job is None:
        return "stopped"
    ended = stage.exits.get(index)
    if ended and ending and ending.time >= job.time and ended.ended < ending.time:
        ending = None
    asked = ending.state if ending and ending.time >= job.time else None
    if ended and has_ended(stage, index):
        return asked or final_state(ended)
    return open_state(stage, index, asked, infos, now)


def open_state(
    stage: StageRecord, index: int, asked: str | None, infos: Mapping[str, JobInfo], now: float
) -> str:
    """The state of a task of which nobody decided that nothing goes on; ``asked`` is what it is to
    be once its job is gone, if a person asked for that.
    """
    job, ended = stage.jobs[index], stage.exits.get(index)
    info = infos.get(job.job_id)
    if info is not None and info.state in (JobState.QUEUED, JobState.ACTIVE, JobState.UNKNOWN):
        return living_state(info)
    if asked or has_recovery_job(stage, infos):
        return asked or "pending"
    if ended and not was_cancelled(info):
        return "stopped"
    return vanished_state(job, info, now)


def final_state(end: ExitRecord) -> str:
    """Return the state of a task that is not retried."""
    if end.cause is RootCause.CANCELLED:
        return "cancelled"
    return "stopped" if end.code == STOPPED else "failed"


def has_recovery_job(stage: StageRecord, infos: Mapping[str, JobInfo]) -> bool:
    """Whether a job waits to continue what this stage's jobs leave unfinished."""
    found = (infos.get(job) for job in stage.recovery_jobs)
    return any(info and info.state in (JobState.QUEUED, JobState.ACTIVE) for info in found)


def was_cancelled(info: JobInfo | None) -> bool:
    """Whether the scheduler says that somebody cancelled the job."""
    return info is not None and info.was_cancelled


def living_state(info: JobInfo) -> str:
    """The state of a task whose job the scheduler still has, or does not answer for."""
    if info.state is JobState.UNKNOWN:
        return "unknown"
    if info.state is JobState.ACTIVE:
        return "running"
    return "stopped" if info.reason == NEVER else "pending"


def vanished_state(job: TaskJob, info: JobInfo | None, now: float) -> str:
    """The state of a task whose job is gone and left no exit record."""
    if was_cancelled(info):
        return "cancelled"
    # It may have been submitted since the scheduler was asked, or its accounting may lag behind.
    unseen = info is None or (info.state is JobState.MISSING and job.scheduler == "slurm")
    return "pending" if unseen and now - job.time < NEW_JOB_SECONDS else "failed"


def steps_and_tokens(stage: StageRecord) -> tuple[int | None, int | None]:
    """Steps and tokens of pretraining so far; None for other stages."""
    if stage.target_step is None:
        return None, None
    if len(stage.done) == stage.total:
        return stage.target_step, stage.target_tokens
    # While an attempt starts its progress file says 0.
    step = max(int(stage.progress.get("done", 0)), stage.began_from)
    return step, step * (stage.step_tokens or 0)


def eta(progress: Mapping[str, Any], now: float) -> float | None:
    """Return the seconds until pretraining reaches its target at its present speed.

    None without a speed, and when the estimate has run out: nothing was reported for longer than
    the rest was to take, as in a suspended job.
    """
    speed = progress.get("tokens_per_s")
    if not speed:
        return None
    left = (progress["target_tokens"] - progress["tokens"]) / speed - (now - progress["time"])
    return float(left) if left > 0 else None
