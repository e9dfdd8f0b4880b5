"""Fakes of the protocols at the edge: scheduler and clock."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jobs.contract.attempt_history import RunHistory
from jobs.contract.events import IntentEvent, SubmitEvent, submit_event
from jobs.contract.rundir import RunDir
from meditron_cli.errors import SchedulerError
from meditron_cli.plan.model import Plan, StagePlan
from meditron_cli.scheduler.base import JobInfo, JobState, Scheduler
from meditron_cli.services import Clock

RECOVERY_JOB = "recovery_job-"


@dataclass
class Submitted:
    """One submission that a scheduler received."""

    stage: str
    indices: tuple[int, ...]
    attempt: int
    after: tuple[str, ...]


@dataclass
class FakeScheduler:
    """A scheduler that keeps its jobs in a dictionary, queued until a test changes them."""

    refuses: str = ""
    """The stage of which it refuses a submission."""
    refuses_to_cancel: str = ""
    """The reason for which it refuses to cancel."""
    silent: bool = False
    """Whether queries about jobs get no answer."""
    adopts: bool = False
    """Whether the jobs of killed submissions exist."""
    submitted: list[Submitted] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    started_now: list[str] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    dismissed: list[str] = field(default_factory=list)
    """Recovery jobs that were cancelled."""
    withdrawn: list[tuple[str, int]] = field(default_factory=list)
    asked: list[tuple[str, ...]] = field(default_factory=list)
    jobs: dict[str, JobInfo] = field(default_factory=dict)
    when_asked: Callable[[], None] = lambda: None
    """Called before an answer: the progress of jobs between two reads of the run directory."""
    when_submitted: Callable[[Path], None] = lambda run: None
    """Called with the run directory once a submission's jobs are queued."""

    def require_answer(self) -> None:
        if self.silent:
            raise SchedulerError("the scheduler does not answer")

    def render(self, plan: Plan, run: Path) -> str:
        return "".join(f"{run.name} {stage.stage}\n" for stage in plan.stages)

    def submit(
        self,
        plan: Plan,
        stage: StagePlan,
        indices: Sequence[int],
        run: Path,
        attempt: int,
        after: Sequence[str],
    ) -> list[str]:
        if stage.stage == self.refuses:
            raise SchedulerError(f"sbatch refused {stage.stage}: no such partition")
        self.submitted.append(Submitted(stage.stage, tuple(indices), attempt, tuple(after)))
        number = 100 + len(self.submitted)
        ids = [f"{number}_{place}" for place in range(len(indices))]
        for job in ids:
            self.put(job, JobState.QUEUED)
        self.when_submitted(run)
        return ids

    def states(self, jobs: Mapping[str, Collection[str]]) -> dict[str, dict[str, JobInfo]]:
        self.asked.append(tuple(job for ids in jobs.values() for job in ids))
        self.when_asked()
        known = {} if self.silent else self.jobs
        otherwise = JobState.UNKNOWN if self.silent else JobState.MISSING
        return {
            run: {job: known.get(job, JobInfo(job, otherwise, "")) for job in ids}
            for run, ids in jobs.items()
        }

    def cancel(
        self, run: str, job_ids: Collection[str], accepted: Callable[[], None] = lambda: None
    ) -> None:
        if self.refuses_to_cancel:
            raise SchedulerError(self.refuses_to_cancel)
        accepted()
        self.dismissed += [job for job in job_ids if job.startswith(RECOVERY_JOB)]
        self.cancelled += [job for job in job_ids if not job.startswith(RECOVERY_JOB)]
        for job in job_ids:
            self.put(job, JobState.ENDED, "CANCELLED by 1000")

    def release(self, job_ids: Collection[str]) -> list[str]:
        self.released += job_ids
        return list(job_ids)

    def start_now(self, job_ids: Collection[str]) -> list[str]:
        self.started_now += job_ids
        return list(job_ids)

    def submit_recovery_job(
        self, plan: Plan, stage: StagePlan, run: Path, attempt: int, job_ids: Sequence[str]
    ) -> list[str]:
        return [f"{RECOVERY_JOB}{job_ids[0]}"]

    def adopt(self, run: RunDir, intent: IntentEvent, history: RunHistory) -> SubmitEvent | None:
        if not self.adopts:
            return None
        self.put("99", JobState.QUEUED)
        return submit_event(intent, ["99"], ())

    def node_names(self, partition: str) -> tuple[str, ...] | None:
        return None

    def withdraw(self, run: RunDir, intent: IntentEvent, failure: str = "") -> None:
        self.withdrawn.append((intent.stage, intent.attempt))

    def put(self, job: str, state: JobState, word: str = "", reason: str = "") -> None:
        """Set the state that is reported of a job from now on."""
        self.jobs[job] = JobInfo(job, state, word or state.value, reason)

    def end_all(self) -> None:
        """End every job without success."""
        for job in self.jobs:
            self.put(job, JobState.ENDED, "FAILED")

    def put_stage(self, stage: str, state: JobState, word: str = "", reason: str = "") -> None:
        """Set the state of every job of the stage's last submission."""
        last = max(n for n, item in enumerate(self.submitted) if item.stage == stage)
        for job in list(self.jobs):
            if job.startswith(f"{101 + last}_"):
                self.put(job, state, word, reason)


@dataclass
class FakeClock:
    """A clock that advances only when somebody sleeps."""

    time: float = 1_700_000_000.0
    when_slept: Callable[[], None] = lambda: None

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        self.when_slept()


scheduler_protocol: type[Scheduler] = FakeScheduler
clock_protocol: type[Clock] = FakeClock
