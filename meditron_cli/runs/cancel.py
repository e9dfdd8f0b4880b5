"""Cancel a run's jobs: at once, or after a checkpoint."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping

from jobs.contract import events
from jobs.contract.events import CancelEvent, StopEvent
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import SAVING_STAGES, STAGES
from jobs.slurm import transaction
from meditron_cli.errors import SchedulerError
from meditron_cli.runs import open_jobs, store
from meditron_cli.runs.owner import require_original, require_owner
from meditron_cli.runs.record import RecordReader, RunRecord
from meditron_cli.runs.run_lock import exclusive
from meditron_cli.scheduler.base import JobInfo, JobState, Scheduler

STOP_HINT = "`touch {}` makes running jobs save and stop, where the run's group may write there"


def cancel(run: RunDir, schedulers: Callable[[str], Scheduler]) -> list[str]:
    """Cancel all jobs of a run, recovery jobs too, and return the ids of those without them; change
    nothing where no job is open.

    The event is written once the scheduler has accepted the cancellation, and before the jobs have
    ended. The run's lock keeps their supervisors from resubmitting until then.

    Raises:
        ConfigError: the run belongs to another user, or cannot be written.
        SchedulerError: refused, or no answer; the run is not marked as cancelled.
    """
    denied_hint = STOP_HINT.format(shlex.quote(str(run.stop_file)))
    require_owner(run, "cancel", denied_hint)
    reader = RecordReader(run, in_full=True)
    with exclusive(run, "cancel", denied_hint):
        unanswered = reader.history_reader.current().unanswered
        for intent in unanswered:
            transaction.withdraw(run, intent, schedulers(intent.scheduler))
        record = reader.read().require_readable()
        open_ids = open_jobs.open_jobs(record, now=0.0)
        if not open_ids and not unanswered:
            return []
        job_ids = sorted(job for ids in open_ids.values() for job in ids)
        require_original(run, reader.history_reader.current(), job_ids)

        def record_event() -> None:
            events.append(run, CancelEvent(time.time(), tuple(job_ids)))

        for kind, ids in open_ids.items():
            schedulers(kind).cancel(run.name, sorted(ids), record_event)
        if not open_ids:
            record_event()
        cancel_recovery_jobs(record, schedulers)
    return job_ids


def cancel_recovery_jobs(record: RunRecord, schedulers: Callable[[str], Scheduler]) -> None:
    """Cancel the recovery jobs of a run."""
    job_ids = {job for stage in STAGES for job in record.history.recovery_jobs(stage)}
    if job_ids:
        schedulers("slurm").cancel(record.name, sorted(job_ids))


def stop(run: RunDir, schedulers: Callable[[str], Scheduler]) -> list[str] | None:
    """Checkpoint running training and evaluation, and cancel all other jobs; return the ids of the
    jobs that save and exit. Change nothing, and return None, where no job is open.

    The file STOP comes first: ranks and supervisors obey it even if this process is killed, and
    an event without it would record a stop that no process executes.

    Raises:
        ConfigError: the run belongs to another user, or cannot be written.
        SchedulerError: no answer about what runs.
    """
    denied_hint = STOP_HINT.format(shlex.quote(str(run.stop_file)))
    require_owner(run, "cancel", denied_hint)
    reader = RecordReader(run, in_full=True)
    with exclusive(run, "cancel --save", denied_hint):
        unanswered = reader.history_reader.current().unanswered
        transaction.resolve_unanswered(run, reader.history_reader, schedulers)
        record = reader.read().require_readable()
        open_ids = open_jobs.open_jobs(record, now=0.0)
        if not open_ids and not unanswered:
            return None
        job_ids = sorted(set().union(*open_ids.values()))
        require_original(run, reader.history_reader.current(), job_ids)
        saving_ids: list[str] = []
        run.stop_file.touch()
        events.append(run, StopEvent(time.time(), tuple(job_ids)))
        for kind, ids in open_ids.items():
            infos = schedulers(kind).states({run.name: sorted(ids)})[run.name]
            require_states(run, infos)
            saving = saving_jobs(record, infos)
            schedulers(kind).cancel(run.name, sorted(ids - saving))
            saving_ids += sorted(saving)
        cancel_recovery_jobs(record, schedulers)
    return saving_ids


def require_states(run: RunDir, infos: Mapping[str, JobInfo]) -> None:
    """Refuse to cancel jobs that may be running and would not have the time to save.

    Raises:
        SchedulerError: the scheduler does not report which run.
    """
    if any(info.is_unknown for info in infos.values()):
        raise SchedulerError(
            f"the scheduler does not report which jobs of run {run.name} run; those that do save "
            "and exit, the others may still be queued",
            hint=f"`{store.command(run, 'cancel', '--save')}` once it answers, or on the machine "
            "where the run was started",
        )


def saving_jobs(record: RunRecord, infos: Mapping[str, JobInfo]) -> set[str]:
    """Return the running jobs whose ranks poll the file STOP; one that waits has begun no task."""
    return {
        job.job_id
        for name in SAVING_STAGES
        if name in record.stages
        for index, job in record.stages[name].jobs.items()
        if job.job_id in infos
        and infos[job.job_id].state is JobState.ACTIVE
        and record.history.task(name, index).has_begun
    }
