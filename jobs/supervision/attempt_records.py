"""One attempt of a task: its number, folder, start and exit events. Standard library only."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from jobs.contract import events, rundir
from jobs.contract.errors import SUCCESSOR
from jobs.contract.events import Event, ExitEvent, ObservedEvent, SignalEvent, StartEvent
from jobs.contract.exit_record import ExitRecord
from jobs.contract.files import make_folder
from jobs.contract.job import Job
from jobs.contract.outcomes import CONTINUES, Decision, Diagnosis, RetryAction, RootCause
from jobs.runtime.log import log
from jobs.supervision.diagnosis.evidence import Evidence

TASK_FILE = re.compile(r"(rank-exit|health)-\d{5}-")
"""Files that each task of an attempt has several of: one per rank or node."""


class FolderListing:
    """The names of the files in an attempt's folder by task, read once for all its tasks."""

    def __init__(self, folder: Path) -> None:
        self._names: dict[str, list[str]] = {}
        for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
            if match := TASK_FILE.match(name):
                self._names.setdefault(match[0], []).append(name)

    def names(self, prefix: str) -> list[str]:
        """Return the names that begin with ``<kind>-<task>-``, sorted."""
        return self._names.get(prefix, [])


@dataclass(frozen=True)
class AttemptRef:
    """A reference to one attempt of a task, with the time it began."""

    run: rundir.RunDir
    stage: str
    index: int
    number: int
    """From 1, per stage."""
    began: float
    step: int | None = None
    """Step of the newest valid checkpoint when it began; None without one, or where not known."""
    start_id: str = field(default_factory=lambda: uuid4().hex[:12])
    """Identifies this start in files that outlive it on a node."""
    listing: FolderListing | None = field(default=None, compare=False)
    """Listing of the folder, where many tasks of one attempt are examined."""

    @property
    def folder(self) -> Path:
        """Return the attempt's folder."""
        return self.run.attempt(self.stage, self.number)

    def files(self, kind: str) -> list[Path]:
        """Return the task's files of a kind (``rank-exit``, ``health``), by name."""
        listing = self.listing or FolderListing(self.folder)
        return [self.folder / name for name in listing.names(f"{kind}-{self.index:05d}-")]

    @property
    def ranks_log(self) -> Path:
        """Return the path of the ranks' output."""
        return self.folder / f"ranks-{self.index:05d}.log"

    @property
    def srun_log(self) -> Path:
        """Return the path of srun's own messages."""
        return self.folder / f"srun-{self.index:05d}.log"

    @property
    def step_name(self) -> str:
        """Return the name of the ranks' job step, unique in the job."""
        return f"{self.stage}-{self.index}-{self.number}"


def claim(run: rundir.RunDir, stage: str, index: int, first: int) -> int:
    """Return the number of this attempt: ``first`` unless an attempt of this task has it, else the
    next free one, with a folder of its own.

    Two processes never get the same number: each creates the empty file ``claim-<task>`` there, or
    the whole folder, exclusively.

    Raises:
        OSError: the disk takes nothing, or the run directory was moved away or removed.
    """
    make_folder(run.attempt(stage, first))
    number = first
    while not _take(run.attempt(stage, number) / f"claim-{index:05d}"):
        number = run.new_attempt(stage)
    return number


def _take(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
    except FileExistsError:
        return False
    return True


def record_start(attempt: AttemptRef, job: Job, eligible: float | None = None) -> None:
    """Append the start event, which opens the attempt; a full disk does not prevent the ranks from
    running.

    Args:
        eligible: when the job became eligible to run, where Slurm reports it.
    """
    start = StartEvent(
        time.time(),
        attempt.stage,
        attempt.index,
        attempt.number,
        job.job_id,
        attempt.began,
        job.restarts,
        job.nodes,
        attempt.step,
        eligible,
    )
    _append(attempt.run, start)


def record_exit(run: rundir.RunDir, record: ExitRecord) -> bool:
    """Log the reason and append the exit event of an attempt, or ``observed`` where another process
    decides; return whether the event was written.
    """
    log(f"{record.category}: {record.reason}")
    is_open = record.action is RetryAction.WAIT
    return _append(run, (ObservedEvent if is_open else ExitEvent)(time.time(), record))


def exit_record(
    attempt: AttemptRef,
    job: Job,
    evidence: Evidence,
    decision: Decision,
    by: str = "supervisor",
    follows: int | None = None,
) -> ExitRecord:
    """Return the exit record of an attempt, with commands about its run.

    Args:
        by: who decided: ``supervisor``, ``recovery_job`` or ``recover``.
        follows: the attempt whose end prevented this one, before any rank.
    """
    diagnosis = decision.diagnosis or Diagnosis(RootCause.UNKNOWN, decision.reason)
    return ExitRecord(
        stage=attempt.stage,
        index=attempt.index,
        attempt=attempt.number,
        job_id=job.job_id,
        cause=diagnosis.cause,
        action=decision.action,
        started=attempt.began,
        ended=evidence.attempt.ended,
        code=SUCCESSOR if decision.action in CONTINUES else decision.code,
        message=diagnosis.sentence,
        hint=attempt.run.hint(diagnosis.hint),
        node=diagnosis.node,
        fingerprint=diagnosis.fingerprint,
        step_before=evidence.progress.step_before,
        step_after=evidence.progress.step_after,
        last_step=evidence.progress.last_step,
        reason=attempt.run.hint(decision.reason),
        delay=decision.delay,
        exclude=decision.exclude,
        detect_s=None if evidence.observed.hang is None else evidence.observed.hang.seconds,
        energy_j=evidence.attempt.energy_j,
        energy_source=evidence.attempt.energy_source,
        by=by,
        follows=follows,
    )


def record_signal(attempt: AttemptRef, signals: Iterable[int]) -> None:
    """Append the event that the ranks were requested to exit."""
    event = SignalEvent(time.time(), attempt.stage, attempt.index, attempt.number, tuple(signals))
    _append(attempt.run, event)


def _append(run: rundir.RunDir, event: Event) -> bool:
    """Append an event, or log it where the disk takes nothing; return whether it was written."""
    try:
        events.append(run, event)
    except OSError as error:
        fields = json.dumps(event.to_json())
        log(f"the event {event.kind!r} could not be written: {error.strerror}: {fields}")
        return False
    return True
