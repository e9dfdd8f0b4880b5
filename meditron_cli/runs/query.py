"""Runs as they are now: the run directories first, then one question to each scheduler."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jobs.contract.rundir import RunDir
from meditron_cli.errors import SchedulerError
from meditron_cli.runs import state
from meditron_cli.runs.record import RunRecord, read
from meditron_cli.runs.state import RunView
from meditron_cli.scheduler.base import JobInfo, JobState
from meditron_cli.services import Services


def observe(services: Services, runs: Sequence[RunDir]) -> list[RunView]:
    """The state of each run, in the order given."""
    return [state.fold(record, infos, now) for record, infos, now in evidence(services, runs)]


def evidence(
    services: Services, runs: Sequence[RunDir]
) -> list[tuple[RunRecord, dict[str, JobInfo], float]]:
    """What is known of each run: its record, what the schedulers say of its open jobs, and when."""
    now = services.clock.now()
    records = [read(run) for run in runs]
    infos = ask(services, records, now)
    if infos:
        # A job that ended between the two questions has left its marker or exit record meanwhile.
        records = [
            read(run) if any_gone(record, infos, now) else record
            for run, record in zip(runs, records, strict=True)
        ]
    return [(record, infos, now) for record in records]


def any_gone(record: RunRecord, infos: dict[str, JobInfo], now: float) -> bool:
    """Whether a job that the record holds for open is not in the queue any more."""
    open_ids = [job for ids in state.open_jobs(record, now).values() for job in ids]
    return any(infos[job].state in (JobState.ENDED, JobState.MISSING) for job in open_ids)


def ask(services: Services, records: Iterable[RunRecord], now: float) -> dict[str, JobInfo]:
    """One question to each scheduler that has open jobs, about these and their recovery jobs;
    silence makes them UNKNOWN.
    """
    wanted: dict[str, set[str]] = {}
    for record in records:
        for found in (state.open_jobs(record, now), state.recovery_job_ids(record, now)):
            for kind, ids in found.items():
                wanted.setdefault(kind, set()).update(ids)
    infos: dict[str, JobInfo] = {}
    for kind, ids in wanted.items():
        infos.update({job: JobInfo(job, JobState.UNKNOWN, "") for job in ids})
        try:
            infos.update(services.scheduler(kind).states(sorted(ids)))
        except SchedulerError:
            continue
    return infos
