"""Remove runs that nothing uses.

A run is renamed to a hidden name first and deleted under that name, so that no run is half there
after a kill; the next removal in the same runs directory deletes the rest.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from contextlib import suppress
from pathlib import Path

from jobs.checkpoints import leases
from jobs.contract.files import fsync_folder
from jobs.contract.rundir import RunDir
from meditron_cli.errors import ConfigError
from meditron_cli.runs import query, store
from meditron_cli.runs.owner import require_owner
from meditron_cli.runs.record import RecordReader, RunRecord
from meditron_cli.runs.run_lock import exclusive
from meditron_cli.scheduler.base import JobInfo
from meditron_cli.services import Services

HIDDEN = re.compile(rf"\.({store.NAME.pattern})\.removing")


def remove(services: Services, reader: RecordReader) -> None:
    """Remove a run.

    Raises:
        ConfigError: it is in use, belongs to another user, or cannot be removed.
        SchedulerError: another submission of the run takes too long.
    """
    run = reader.run
    hidden = run.root.with_name(f".{run.name}.removing")
    with exclusive(run, "rm"):
        require_unused(services, reader)
        try:
            run.root.rename(hidden)
            fsync_folder(hidden.parent)
        except OSError as error:
            raise ConfigError(f"{run.root} cannot be removed: {error.strerror}") from error
    delete(hidden)


def require_unused(services: Services, reader: RecordReader) -> None:
    """Refuse a run that a job, a reader of its checkpoints, or another user may need.

    Raises:
        ConfigError: naming the reason.
    """
    run = reader.run
    require_owner(run, "remove")
    if run.root.is_symlink():
        raise ConfigError(
            f"{run.root} is a symbolic link to {run.root.resolve()}",
            hint=f"`rm {shlex.quote(str(run.root))}` removes the link alone",
        )
    require_no_jobs(services, reader, store.command(run, "rm"))
    for folder in (run.path("checkpoints"), *run.path("finetune").glob("*/checkpoints")):
        require_unleased(services, run, folder)


def require_unleased(services: Services, run: RunDir, folder: Path) -> None:
    """Refuse a run of whose checkpoints in a folder one is read or written.

    Raises:
        ConfigError: naming the reader or the writer.
    """
    for lease in leases.read_leases(folder, services.clock.now()):
        if lease.holder and lease.holder.attempt:
            continue  # of a killed rank: all jobs of the run have ended
        holder = lease.holder or "a reader with an unreadable lease"
        raise ConfigError(
            f"run {run.name}: {lease.checkpoint} is leased by {holder}",
            hint=f"`{store.command(run, 'checkpoints')}` shows its leases; they expire without "
            "renewal",
        )
    if writer := leases.read_writer(folder):
        raise ConfigError(f"run {run.name}: {writer} writes to its checkpoints")


def require_no_jobs(services: Services, reader: RecordReader, command: str) -> None:
    """Refuse a run whose jobs may be alive.

    Args:
        command: to repeat, for the hint.

    Raises:
        ConfigError: naming the job.
    """
    run = reader.run
    record = reader.read().require_readable()
    unfinished = unfinished_jobs(services, record)
    if unfinished:
        first = next((info for info in unfinished if not info.is_unknown), unfinished[0])
        if first.is_unknown:
            raise ConfigError(
                f"the scheduler does not report whether job {first.job_id} of run {run.name} is "
                "alive",
                hint=f"`{command}` once it answers, or on the machine where the run was started",
            )
        raise ConfigError(
            f"run {run.name} has jobs that may be alive: {first.job_id} ({first.state.value})"
            + (f" and {len(unfinished) - 1} more" if len(unfinished) > 1 else ""),
            hint=f"`{store.command(run, 'cancel')}` cancels them",
        )
    if any(stage.unanswered for stage in record.stages.values()):
        raise ConfigError(
            f"run {run.name} has an unconfirmed submission: it is in progress, was killed, or got "
            "no answer",
            hint=f"`{store.command(run, 'cancel')}` withdraws it, once the scheduler answers",
        )


def unfinished_jobs(services: Services, record: RunRecord) -> list[JobInfo]:
    """Return the jobs of a run, recovery jobs too, that have not ended for certain."""
    jobs: dict[str, set[str]] = {}
    for stage in record.stages.values():
        for job in stage.jobs.values():
            jobs.setdefault(job.scheduler, set()).update((job.job_id, *stage.recovery_jobs))
    unfinished: list[JobInfo] = []
    for kind, ids in jobs.items():
        states = query.query_scheduler(services, kind, {record.name: ids})[record.name]
        unfinished += [
            states[job] for job in sorted(ids) if states[job].is_in_queue or states[job].is_unknown
        ]
    return unfinished


def finish_removals(root: Path) -> list[str]:
    """Delete what killed removals of this user left, and return the names of those runs.

    Raises:
        ConfigError: it cannot be deleted.
    """
    finished = []
    with suppress(FileNotFoundError):
        for path in sorted(root.iterdir()):
            match = HIDDEN.fullmatch(path.name)
            if match and path.lstat().st_uid == os.getuid():
                delete(path)
                finished.append(match[1])
    return finished


def delete(hidden: Path) -> None:
    """Delete the folder of a removed run; another process may be doing the same.

    Raises:
        ConfigError: part of it remains, under its hidden name.
    """
    problems: list[OSError] = []

    def note(function: object, path: str, reason: tuple[object, BaseException, object]) -> None:
        if isinstance(reason[1], OSError) and not isinstance(reason[1], FileNotFoundError):
            problems.append(reason[1])

    shutil.rmtree(hidden, onerror=note)
    if problems and hidden.exists():
        error = problems[0]
        raise ConfigError(
            f"{error.filename or hidden} cannot be removed: {error.strerror}",
            hint=f"`rm -r {shlex.quote(str(hidden))}` removes the rest",
        )


def disk_usage(folder: Path) -> int:
    """Return the bytes that removing a folder frees; a file with several names counts once."""
    sizes: dict[tuple[int, int], int] = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            with suppress(FileNotFoundError):
                status = os.lstat(os.path.join(parent, name))
                sizes[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(sizes.values())
