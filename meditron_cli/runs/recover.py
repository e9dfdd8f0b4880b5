"""Resume interrupted runs from the login node: ``meditron recover``."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass
from datetime import datetime

from jobs.contract.files import last_change
from jobs.contract.outcomes import CONTINUES
from jobs.contract.run_reader import RunReader
from jobs.contract.rundir import RunDir
from jobs.notification import sender
from jobs.slurm.client import Client
from jobs.slurm.states import JobInfo
from jobs.supervision.recovery import recovery_job
from meditron_cli.errors import MeditronError
from meditron_cli.runs import open_jobs, release, store
from meditron_cli.runs.owner import is_mine
from meditron_cli.runs.query import query_schedulers
from meditron_cli.runs.record import RecordReader, RunRecord
from meditron_cli.services import Services

BY = "recover"


@dataclass(frozen=True)
class Notice:
    """A message about a stage: what was done, or why nothing was."""

    run: str
    stage: str
    """Empty where the message is about the whole run."""
    message: str


@dataclass(frozen=True)
class OpenedRun:
    """A run with the readers of its logs, which the next pass uses again."""

    logs: RunReader
    records: RecordReader

    @classmethod
    def of(cls, run: RunDir) -> OpenedRun:
        """Open a run; nothing is read yet."""
        logs = RunReader(run)
        return cls(logs, RecordReader(run, in_full=True, history_reader=logs))

    @property
    def run(self) -> RunDir:
        return self.records.run


class OpenedRuns:
    """The runs of one pass after another; each log is read once."""

    def __init__(self) -> None:
        self._opened: dict[tuple[RunDir, int], OpenedRun] = {}
        """By run and modification time of its record, which is written once: a run that was
        removed and made again is another one.
        """

    def of(self, runs: Iterable[RunDir]) -> list[OpenedRun]:
        """Return these runs opened, and forget all others."""
        keys = [(run, last_change(run.record)) for run in runs]
        self._opened = {key: self._opened.get(key) or OpenedRun.of(key[0]) for key in keys}
        return list(self._opened.values())


@dataclass(frozen=True)
class RecoveryReport:
    """The result of one pass over all runs."""

    notices: tuple[Notice, ...]
    unanswered: bool
    """Slurm did not answer, so nothing was done."""
    runs: int
    """Runs of this user that were checked."""


def recover(services: Services, runs: Iterable[OpenedRun]) -> RecoveryReport:
    """Make one pass over all runs: one query per scheduler, and more only for stages with a task
    whose job has ended.
    """
    records = [(opened, opened.records.read()) for opened in runs if is_mine(opened.run)]
    unfinished = [(opened, record) for opened, record in records if needs_recovery(record)]
    infos = query_schedulers(services, [record for _, record in unfinished], services.clock.now())
    notices = [Notice(record.name, "", record.problem) for _, record in records if record.problem]
    notices += [
        Notice(record.name, stage, message)
        for (_, record), known in zip(unfinished, infos, strict=True)
        for stage, message in release_held(services, record, known)
    ]
    notices += [
        Notice(record.name, stage, message)
        for (opened, record), known in zip(unfinished, infos, strict=True)
        for stage in stages_to_recover(record, known)
        for message in recover_stage(services, opened, record, stage)
    ]
    changed = {notice.run for notice in notices}
    for opened, record in unfinished:
        if record.name in changed:
            sender.send_apart(opened.run)
    unanswered = any(info.is_unknown for known in infos for info in known.values())
    return RecoveryReport(tuple(notices), unanswered, runs=len(records))


def release_held(
    services: Services, record: RunRecord, infos: Mapping[str, JobInfo]
) -> Iterator[tuple[str, str]]:
    """Release what Slurm holds after a failed launch; its recovery job only waits behind it."""
    held = release.held_jobs(record, infos)
    if held:
        yield from release.release_held(RunDir(record.path), services.scheduler("slurm"), held)


def needs_recovery(record: RunRecord) -> bool:
    """Return whether a run is unfinished and no person has cancelled or stopped it."""
    ending = record.ending
    last = max(
        (job.time for stage in record.stages.values() for job in stage.jobs.values()), default=0
    )
    return (
        not record.problem
        and not record.stop_requested
        and any(len(stage.done) < stage.total for stage in record.stages.values())
        and (ending is None or ending.time < last)
    )


def stages_to_recover(record: RunRecord, infos: Mapping[str, JobInfo]) -> Iterator[str]:
    """Yield the stages with an unfinished task whose job has certainly left the queue, or with a
    submission that was killed; jobs with a final exit record were not queried.

    A stage that never started behind one that ended unfinished has no input, and is not recovered.
    """
    for name, stage in record.stages.items():
        if not stage.started and open_jobs.is_blocked(record, stage):
            continue
        jobs = [job.job_id for index, job in stage.jobs.items() if index not in stage.done]
        known = [infos[job] for job in jobs if job in infos]
        if stage.unanswered or any(not (info.is_in_queue or info.is_unknown) for info in known):
            yield name


def recover_stage(
    services: Services, opened: OpenedRun, record: RunRecord, stage: str
) -> list[str]:
    """Recover one stage; a scheduler that does not answer is a message, not an error."""
    kinds = {job.scheduler for job in record.stages[stage].jobs.values()}
    try:
        with redirect_stderr(io.StringIO()):  # the lines for a job's log are printed as notices
            if kinds == {"local"}:
                return recover_local_stage(services, opened, stage)
            client, logs = Client(services.environ), opened.logs
            return list(recovery_job.recover_stage(opened.run, stage, client, BY, logs).messages)
    except (MeditronError, OSError) as error:
        return [f"{stage}: {error}"]


def recover_local_stage(services: Services, opened: OpenedRun, stage: str) -> list[str]:
    """Recover a stage of this machine by a launch of all its unfinished tasks; launch none where
    one of them must not be retried.
    """
    from meditron_cli.runs.launch import launch
    from meditron_cli.runs.prepare import planned

    run, logs, records = opened.run, opened.logs, opened.records
    tasks = recovery_job.unfinished(run, logs.current(), stage)
    scheduler = services.scheduler("local")
    infos = scheduler.states({run.name: {task.job_id for task in tasks}})[run.name]
    over = [task for task in tasks if infos[task.job_id].is_over]
    decisions = recovery_job.Recoverer(run, stage, BY, logs).decide_all(over)
    messages = recovery_job.sentences(stage, decisions)
    delay = max((item.delay for item in decisions.values()), default=0.0)
    is_retried = [item.action in CONTINUES for item in decisions.values()]
    if any(is_retried) and not all(is_retried):
        messages.append(
            f"{stage}: nothing was started; fix the cause, then `{store.command(run, 'resume')}`"
        )
    elif any(is_retried) and delay:
        at = datetime.fromtimestamp(services.clock.now() + delay)
        messages.append(f"{stage}: stopped until the first check after {at:%H:%M}")
    elif any(is_retried):
        started = launch(planned(records), scheduler, records, messages.append, by=BY)
        messages.append(f"{stage}: {recovery_job.resumption(started[stage])}")
    return messages
