"""Runs as they are now: the run directories first, then one query of each scheduler."""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from jobs.contract.rundir import RunDir
from meditron_cli.errors import SchedulerError
from meditron_cli.runs import open_jobs, state
from meditron_cli.runs.record import RecordReader, RunRecord, read
from meditron_cli.runs.views import RunView
from meditron_cli.scheduler.base import JobInfo, JobState
from meditron_cli.services import Services


def observe(services: Services, runs: Sequence[RunDir]) -> list[RunView]:
    """Return the state of each run, in the order given."""
    with paused_collector():
        return [
            state.derive_view(record, infos, now) for record, infos, now in evidence(services, runs)
        ]


@contextmanager
def paused_collector() -> Iterator[None]:
    """Pause the garbage collector, which would visit the records of many runs again and again;
    reading them makes no cycles.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def evidence(
    services: Services, runs: Sequence[RunDir], in_full: bool = False
) -> list[tuple[RunRecord, dict[str, JobInfo], float]]:
    """Return for each run its record, the schedulers' answers about its open jobs, and the time.

    Args:
        in_full: read the whole history of each run (``RunRecord.history``).
    """
    now = services.clock.now()
    # Readers of many runs would keep all their events in memory; few of them are read again.
    readers = {run.name: RecordReader(run, in_full) for run in runs} if in_full else {}

    def read_record(run: RunDir) -> RunRecord:
        return readers[run.name].read() if in_full else read(run)

    records = [read_record(run) for run in runs]
    infos = query_schedulers(services, records, now)
    # A job that ended between the two queries has its marker or exit record meanwhile.
    records = [
        read_record(run) if has_left_queue(record, known, now) else record
        for run, record, known in zip(runs, records, infos, strict=True)
    ]
    return [(record, known, now) for record, known in zip(records, infos, strict=True)]


def evidence_of(
    services: Services, reader: RecordReader
) -> tuple[RunRecord, dict[str, JobInfo], float]:
    """Return the same for one run, of which only the new events are read."""
    now, record = services.clock.now(), reader.read()
    (infos,) = query_schedulers(services, [record], now)
    if has_left_queue(record, infos, now):
        record = reader.read()
    return record, infos, now


def has_left_queue(record: RunRecord, infos: dict[str, JobInfo], now: float) -> bool:
    """Return whether an open job of the record has left the queue."""
    open_ids = [job for ids in open_jobs.open_jobs(record, now).values() for job in ids]
    return any(infos[job].state in (JobState.ENDED, JobState.MISSING) for job in open_ids)


def query_schedulers(
    services: Services, records: Sequence[RunRecord], now: float
) -> list[dict[str, JobInfo]]:
    """Return the states of each run's open jobs and of their recovery jobs, by job id.

    Each scheduler is queried once for all runs; without an answer its jobs are UNKNOWN.
    """
    wanted: dict[str, dict[str, set[str]]] = {}
    for record in records:
        for by_kind in (open_jobs.open_jobs(record, now), open_jobs.recovery_job_ids(record, now)):
            for kind, ids in by_kind.items():
                wanted.setdefault(kind, {}).setdefault(record.name, set()).update(ids)
    infos: dict[str, dict[str, JobInfo]] = {record.name: {} for record in records}
    for kind, jobs in wanted.items():
        for run, states in query_scheduler(services, kind, jobs).items():
            infos[run].update(states)
    return [infos[record.name] for record in records]


def query_scheduler(
    services: Services, kind: str, jobs: Mapping[str, Collection[str]]
) -> dict[str, dict[str, JobInfo]]:
    """Return the states of jobs, by run and id; UNKNOWN without an answer."""
    try:
        return services.scheduler(kind).states({run: sorted(ids) for run, ids in jobs.items()})
    except SchedulerError:
        return {
            run: {job: JobInfo(job, JobState.UNKNOWN, "") for job in ids}
            for run, ids in jobs.items()
        }
