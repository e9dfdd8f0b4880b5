"""Release jobs that only wait before their next attempt, or that Slurm holds.

A job waits in two ways. Its supervisor keeps the allocation, or the local process, until a backoff
is over; it polls the RESUME file. Or a pending job has a start time, set by ``sbatch --begin`` or,
after a requeue, by Slurm, which drops it on request. A person's resume ends the wait.

A job whose launch failed is requeued and held by Slurm unless the site sets
nohold_on_prolog_fail (slurm.conf(5)); it would wait without end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from jobs.contract.events import append_event
from jobs.contract.exit_record import ExitRecord
from jobs.contract.rundir import RunDir
from meditron_cli.runs.launch_plan import StageDecision
from meditron_cli.runs.record import RunRecord
from meditron_cli.scheduler.base import JobInfo, JobState, Scheduler

BEGIN_TIME = "BeginTime"
"""squeue's reason of a pending job whose start time has not come."""


def waiting_jobs(
    record: RunRecord,
    decisions: Mapping[str, StageDecision],
    infos: Mapping[str, JobInfo],
) -> dict[str, dict[str, JobState]]:
    """Return the jobs that only wait, by stage, with their states."""
    waiting = {}
    for stage, decision in decisions.items():
        exits = record.stages[stage].exits if stage in record.stages else {}
        jobs = {
            job.job_id: infos[job.job_id].state
            for index, job in decision.keep.items()
            if is_waiting(infos[job.job_id], exits.get(index))
        }
        if jobs:
            waiting[stage] = jobs
    return waiting


def is_waiting(info: JobInfo, last_exit: ExitRecord | None) -> bool:
    """Return whether a job waits for a time, by its state and its current attempt's exit record."""
    if info.state is JobState.ACTIVE:
        return last_exit is not None and last_exit.delay > 0
    return info.state is JobState.QUEUED and info.reason == BEGIN_TIME


def release(
    run: RunDir, scheduler: Scheduler, waiting: Mapping[str, Mapping[str, JobState]]
) -> Iterator[str]:
    """End the waits, and yield a sentence per stage."""
    for stage, jobs in waiting.items():
        held = [job for job, state in jobs.items() if state is JobState.ACTIVE]
        pending = [job for job, state in jobs.items() if state is JobState.QUEUED]
        if held:
            run.resume_file.touch()
        released = [*held, *scheduler.start_now(pending)]
        if released:
            yield f"{stage}: {jobs_text(released)} waited before the next attempt, which starts now"
        if refused := [job for job in pending if job not in released]:
            text = jobs_text(refused)
            yield f"{stage}: Slurm did not release {text}, pending until its start time"


def held_jobs(record: RunRecord, infos: Mapping[str, JobInfo]) -> dict[str, list[str]]:
    """Return the jobs of unfinished tasks that Slurm holds after a failed launch, by stage."""
    held = {}
    for name, stage in record.stages.items():
        jobs = [job.job_id for index, job in stage.jobs.items() if index not in stage.done]
        held_ids = [job for job in dict.fromkeys(jobs) if is_held(infos.get(job))]
        if held_ids:
            held[name] = held_ids
    return held


def is_held(info: JobInfo | None) -> bool:
    """Return whether Slurm holds a job after its launch failed."""
    return info is not None and info.is_held_after_launch


def release_held(
    run: RunDir, scheduler: Scheduler, held: Mapping[str, list[str]]
) -> Iterator[tuple[str, str]]:
    """Release held jobs, record that as an event, and yield each stage with a sentence.

    Slurm has drained the node where the launch failed, so that the job starts on another one.
    """
    for stage, jobs in held.items():
        released = scheduler.release(jobs)
        if released:
            append_event(run, "release", stage=stage, job_ids=released)
            yield stage, f"released {jobs_text(released)}, held by Slurm after a failed launch"
        if refused := [job for job in jobs if job not in released]:
            yield (
                stage,
                f"Slurm holds {jobs_text(refused)} and refuses to release it: ask the site",
            )


def release_all(
    run: RunDir,
    scheduler: Scheduler,
    waiting: Mapping[str, Mapping[str, JobState]],
    held: Mapping[str, list[str]],
) -> Iterator[str]:
    """Release jobs that wait and jobs that are held, and yield a sentence per stage."""
    yield from release(run, scheduler, waiting)
    for stage, sentence in release_held(run, scheduler, held):
        yield f"{stage}: {sentence}"


def jobs_text(job_ids: list[str]) -> str:
    """Return ``job 12``, or ``job 12 and 3 more``."""
    more = f" and {len(job_ids) - 1} more" if len(job_ids) > 1 else ""
    return f"job {job_ids[0]}{more}"
