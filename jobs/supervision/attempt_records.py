"""One start of a task: its number, its folder, and the records it leaves there and in the run's
events. Standard library only.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from jobs.contract import rundir
from jobs.contract.errors import SUCCESSOR
from jobs.contract.events import append_event
from jobs.contract.files import write_json
from jobs.contract.job import Job
from jobs.contract.outcomes import CONTINUES, Decision, Diagnosis, RootCause
from jobs.supervision.diagnosis.evidence import Evidence

CLASSES = {
    RootCause.COMPLETED: "finished",
    RootCause.STOPPED: "stopped",
    RootCause.CANCELLED: "stopped",
    RootCause.PREEMPTED: "stopped",
    RootCause.TIME_LIMIT: "stopped",
    RootCause.CONFIGURATION: "configuration",
    RootCause.UNHEALTHY: "unhealthy",
}
"""One word for people for a cause; any other is ``failed``."""


@dataclass(frozen=True)
class AttemptRef:
    """Which task of which attempt this is, and when it began."""

    run: rundir.RunDir
    stage: str
    index: int
    attempt: int
    began: float
    step: int | None = None
    """Of the newest valid checkpoint when it began; None where it is not known, or there is none.
    """
    start: str = field(default_factory=lambda: uuid4().hex[:12])
    """Names this start in what outlives it on a node."""

    @property
    def folder(self) -> Path:
        """The attempt's."""
        return self.run.attempt(self.stage, self.attempt)

    @property
    def ranks_log(self) -> Path:
        """What the ranks printed."""
        return self.folder / f"ranks-{self.index:05d}.log"

    @property
    def srun_log(self) -> Path:
        """What srun said of the ranks."""
        return self.folder / f"srun-{self.index:05d}.log"

    @property
    def step_name(self) -> str:
        """The name of the job step that the ranks are, told from any other of the job by it."""
        return f"{self.stage}-{self.index}-{self.attempt}"


def claim(run: rundir.RunDir, stage: str, index: int, first: int) -> int:
    """The number of this start: ``first`` unless a start of this task has it, else the next free
    one, with a folder of its own.

    Two processes never get the same number: each creates ``start-<task>.json`` there, or the whole
    folder, exclusively.

    Raises:
        OSError: the disk takes nothing.
    """
    run.attempt(stage, first).mkdir(parents=True, exist_ok=True)
    number = first
    while not _take(run.attempt(stage, number) / f"start-{index:05d}.json"):
        number = run.new_attempt(stage)
    return number


def _take(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
    except FileExistsError:
        return False
    return True


def record_start(place: AttemptRef, job: Job) -> None:
    """Write the start record, and the event; a disk that is full must not keep ranks from working.

    The event comes first: without it nobody looks for an end.
    """
    fields = {
        "attempt": place.attempt,
        "job_id": job.job_id,
        "restarts": job.restarts,
        "nodes": list(job.nodes),
        "began": place.began,
        "step": place.step,
    }
    note_event(place, "start", fields)
    write(place.folder / f"start-{place.index:05d}.json", fields)


def record_exit(
    place: AttemptRef,
    job: Job,
    evidence: Evidence,
    decision: Decision,
    by: str = "supervisor",
    follows: int | None = None,
) -> bool:
    """Write the one exit record and event of a start, and the sentence into the job's log; whether
    the event was taken.

    Args:
        by: who says how it ended; ``recovery_job`` and ``recover`` do when its supervisor cannot.
        follows: the attempt whose end led to this one's, before any rank: it counts once.
    """
    fields = {**exit_fields(place, job, evidence, decision), "by": by, "follows": follows}
    say(f"{fields['class']}: {fields['reason']}")
    write(place.run.exit_record(place.stage, place.attempt, place.index), fields)
    return note_event(place, "exit", fields)


def exit_fields(
    place: AttemptRef, job: Job, evidence: Evidence, decision: Decision
) -> dict[str, Any]:
    """What an exit record says: how the start ended, why, and what happens next."""
    verdict = decision.verdict or Diagnosis(RootCause.UNKNOWN, decision.reason)
    hang = evidence.hang
    return {
        "stage": place.stage,
        "index": place.index,
        "attempt": place.attempt,
        "job_id": job.job_id,
        "code": SUCCESSOR if decision.action in CONTINUES else decision.code,
        "class": CLASSES.get(verdict.cause, "failed"),
        "message": verdict.sentence,
        "hint": verdict.hint,
        "node": verdict.node,
        "started": place.began,
        "ended": evidence.ended,
        "cause": verdict.cause.value,
        "fingerprint": verdict.fingerprint,
        "step_before": evidence.step_before,
        "step_after": evidence.step_after,
        "last_step": evidence.last_step,
        "action": decision.action.value,
        "reason": decision.reason,
        "delay": decision.delay,
        "exclude": list(decision.exclude),
        "detect_s": None if hang is None else hang.seconds,
    }


def note_event(place: AttemptRef, kind: str, fields: Mapping[str, Any]) -> bool:
    """Append an event; whether that was possible: a disk that refuses it must not keep the ranks
    from anything.
    """
    names = {"stage": place.stage, "index": place.index, "attempt": place.attempt}
    try:
        append_event(place.run, kind, **{**names, **fields})
    except OSError as error:
        say(f"the event {kind!r} could not be written: {error.strerror}")
        return False
    return True


def write(path: Path, fields: dict[str, Any]) -> None:
    """Write a record whole; on a full disk the job's log has to do."""
    try:
        write_json(path, fields)
    except OSError as error:
        say(f"{path.name} could not be written: {error.strerror}: {json.dumps(fields)}")


def say(text: str) -> None:
    """Print into the job's log, which may lie on the disk that is full."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)
