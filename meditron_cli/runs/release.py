"""Release jobs that only wait before their next attempt: a person's resume means now.

A job waits in two ways. Its supervisor keeps the allocation, or the local process, until a backoff
is over; it polls the RESUME file. Or a pending job has a start time, set by ``sbatch --begin`` or,
after a requeue, by Slurm, which drops it on request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

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
            if is_waiting(infos[job.job_id], exits.get(index, {}))
        }
        if jobs:
            waiting[stage] = jobs
    return waiting


def is_waiting(info: JobInfo, last_exit: Mapping[str, object]) -> bool:
    """Return whether a job waits for a time, by its state and its current attempt's exit record."""
    if info.state is JobState.ACTIVE:
        return bool(last_exit.get("delay"))
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
            yield f"{stage}: {names(released)} waited before the next attempt, which starts now"
        if refused := [job for job in pending if job not in released]:
            yield f"{stage}: Slurm did not release {names(refused)}, pending until its start time"


def names(job_ids: list[str]) -> str:
    """Return ``job 12``, or ``job 12 and 3 more``."""
    more = f" and {len(job_ids) - 1} more" if len(job_ids) > 1 else ""
    return f"job {job_ids[0]}{more}"
