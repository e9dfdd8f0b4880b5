"""Jobs whose end the run directory does not hold, so that the scheduler has to report it. Pure."""

from __future__ import annotations

import math

from jobs.contract.outcomes import RetryAction
from meditron_cli.runs.record import RunRecord, StageRecord

FORGET_SECONDS = 3600
"""Age of a cancellation or failure after which the jobs that waited are not queried."""

REQUEUE_SECONDS = 7 * 24 * 3600
"""Longest time in the queue of a requeued job before it counts as ended."""


def open_jobs(record: RunRecord, now: float) -> dict[str, set[str]]:
    """Return the ids of jobs whose end the run directory does not hold, by scheduler."""
    ending = record.ending
    ended_before = ending.time if ending and now - ending.time > FORGET_SECONDS else 0.0
    open_ids: dict[str, set[str]] = {}
    for stage in record.stages.values():
        if stage.done.issuperset(stage.jobs) or is_blocked_for_long(record, stage, now):
            continue
        for index, job in stage.jobs.items():
            if (
                index not in stage.done
                and not is_over(stage, index, now)
                and job.time >= ended_before
            ):
                open_ids.setdefault(job.scheduler, set()).add(job.job_id)
    return open_ids


def recovery_job_ids(record: RunRecord, now: float) -> dict[str, set[str]]:
    """Return the recovery jobs that may still resume tasks of ``open_jobs``, by scheduler."""
    open_ids = open_jobs(record, now)
    recovery_ids: dict[str, set[str]] = {}
    for stage in record.stages.values():
        for kind, ids in open_ids.items():
            if any(job.job_id in ids for job in stage.jobs.values()) and stage.recovery_jobs:
                recovery_ids.setdefault(kind, set()).update(stage.recovery_jobs)
    return recovery_ids


def is_over(stage: StageRecord, index: int, now: float) -> bool:
    """Return whether no job resumes a task: it ended, or stopped very long ago."""
    end = stage.exits.get(index)
    return has_ended(stage, index) or bool(end and now - end.ended > REQUEUE_SECONDS)


def is_blocked_for_long(record: RunRecord, stage: StageRecord, now: float) -> bool:
    """Return whether an earlier stage failed so long ago that this one's jobs are not queried."""
    return is_blocked(record, stage, now - FORGET_SECONDS)


def is_blocked(record: RunRecord, stage: StageRecord, before: float = math.inf) -> bool:
    """Return whether an earlier stage ended unfinished before a time, and is not retried."""
    earlier = [record.stages[name] for name in stage.after if name in record.stages]
    return any(
        ended_unfinished(item, before) or is_blocked(record, item, before) for item in earlier
    )


def ended_unfinished(stage: StageRecord, before: float) -> bool:
    """Return whether an unfinished task of a stage has a final exit record from before a time."""
    return any(
        index not in stage.done and has_ended(stage, index) and end.ended < before
        for index, end in stage.exits.items()
    )


def has_ended(stage: StageRecord, index: int) -> bool:
    """Return whether a task's exit record is final: the task is not retried."""
    end = stage.exits.get(index)
    return end is not None and end.action in (RetryAction.STOP, RetryAction.FINISH)
