"""Jobs whose end the run directory does not hold, so that the scheduler has to report it. Pure."""

from __future__ import annotations

from jobs.contract.outcomes import RetryAction
from meditron_cli.runs.record import RunRecord, StageRecord

FORGET_SECONDS = 3600
"""After a cancellation or a failure this old the scheduler is not asked about what was waiting."""

REQUEUE_SECONDS = 7 * 24 * 3600
"""So long may a job that stopped wait in the queue again before it counts as over."""


def open_jobs(record: RunRecord, now: float) -> dict[str, set[str]]:
    """Job ids by scheduler of which the run directory does not say how they ended."""
    ending = record.ending
    settled = ending.time if ending and now - ending.time > FORGET_SECONDS else 0.0
    found: dict[str, set[str]] = {}
    for stage in record.stages.values():
        if stage.done.issuperset(stage.jobs) or has_nothing_to_wait_for(record, stage, now):
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
