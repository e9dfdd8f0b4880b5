"""Reasons for which stages wait, and what lets them start. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

from jobs.contract.rundir import RunDir
from jobs.slurm.states import HELD_BY_ADMIN, HELD_BY_USER
from meditron_cli.runs import release, state, store
from meditron_cli.runs.record import RunRecord
from meditron_cli.runs.views import RunView, StageView
from meditron_cli.scheduler.base import JobInfo


def start_text(stage: StageView) -> str:
    """Return when a pending stage is expected to start; empty where Slurm has no estimate."""
    if stage.state != "pending" or stage.expected_start is None:
        return ""
    return f"starts about {datetime.fromtimestamp(stage.expected_start):%Y-%m-%d %H:%M}"


def sentences(
    run: RunDir, record: RunRecord, view: RunView, infos: Mapping[str, JobInfo]
) -> Iterator[str]:
    """Yield why stages wait that do not start by themselves, each followed by its hint, if any."""
    yield from held(run, record, infos)
    yield from unconfirmed(run, record)
    yield from blocked(run, record, view, infos)


def held(run: RunDir, record: RunRecord, infos: Mapping[str, JobInfo]) -> Iterator[str]:
    """Yield which jobs of unfinished tasks are held, and how to release them."""
    for name, stage in record.stages.items():
        ids = [job.job_id for index, job in stage.jobs.items() if index not in stage.done]
        if own := [job for job in ids if job in infos and infos[job].reason == HELD_BY_USER]:
            yield f"{name}: its owner holds {release.jobs_text(own)}"
            arrays = dict.fromkeys(job.partition("_")[0] for job in own)
            yield f"hint: `scontrol release {' '.join(arrays)}` lets it start"
    for name, ids in release.held_jobs(record, infos).items():
        is_named = any(infos[job].reason != HELD_BY_ADMIN for job in ids)
        why = (
            "after a failed launch" if is_named else "as an administrator asked or a launch failed"
        )
        yield f"{name}: Slurm holds {release.jobs_text(ids)}, {why}"
        yield f"hint: `{store.command(run, 'resume')}` releases it"


def unconfirmed_stages(record: RunRecord) -> list[str]:
    """Return the stages whose submission has no result on record."""
    return [name for name, stage in record.stages.items() if stage.unanswered]


def unconfirmed(run: RunDir, record: RunRecord) -> Iterator[str]:
    """Yield the stages whose submission has no result on record, and what follows."""
    stages = unconfirmed_stages(record)
    if not stages:
        return
    resume, cancel = (store.command(run, word) for word in ("resume", "cancel"))
    yield (
        f"{', '.join(stages)}: the submission is unconfirmed: it is in progress, was killed, or "
        "got no answer"
    )
    yield f"hint: `{resume}` completes it, `{cancel}` withdraws it"


def blocked(
    run: RunDir, record: RunRecord, view: RunView, infos: Mapping[str, JobInfo]
) -> Iterator[str]:
    """Yield the stages that cannot start, one sentence per reason, and the remedy where nothing
    else has it.
    """
    jobs: dict[str, list[str]] = {}
    for stage, job_id in state.stuck_jobs(record, infos):
        jobs.setdefault(stage, []).append(job_id)
    for (origin, word), stages in state.blocked_stages(record, view.stages).items():
        if word == "cancelled" and jobs.keys().isdisjoint(stages):
            continue  # all of them are cancelled
        verb = "wait" if len(stages) > 1 else "waits"
        ending = "failed" if word == "failed" else f"is {word}"
        yield f"{', '.join(stages)}: {verb} for {origin}, which {ending}"
        for stage in stages:
            jobs.pop(stage, None)
    for stage, job_ids in jobs.items():
        yield f"{stage}: {release.jobs_text(job_ids)} waits for a job that failed"
        yield f"hint: `{store.command(run, 'resume')}` gives it a new dependency"
