"""The ledger of a task: its starts, how they ended, and the submissions they belong to, as the
run's events tell them. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jobs.contract import rundir
from jobs.contract.events import read_events
from jobs.contract.outcomes import AttemptOutcome, RetryAction, RootCause

PERSON = "person"


@dataclass(frozen=True)
class Start:
    """Ranks of a task were started, or were about to be."""

    stage: str
    index: int
    attempt: int
    job_id: str
    restarts: int
    """How often Slurm had queued the job again."""
    nodes: tuple[str, ...]
    began: float
    step: int | None


@dataclass(frozen=True)
class SubmittedJob:
    """A job was given the task."""

    time: float
    attempt: int
    job_id: str
    by: str
    """``person``, ``supervisor``, ``recovery_job`` or ``recover``."""
    scheduler: str = ""


@dataclass(frozen=True)
class History:
    """All of that for one task, oldest first."""

    endings: tuple[AttemptOutcome, ...] = ()
    starts: tuple[Start, ...] = ()
    """Those without an ending."""
    submissions: tuple[SubmittedJob, ...] = ()
    is_cancelled: bool = False
    """A person has cancelled the run since the task was last submitted."""
    is_stopped: bool = False
    """The same for a stop request (``cancel --save``)."""

    unsettled: tuple[Start, ...] = ()
    """Those without an ending, and the last one if it was left to Slurm to say how it ended."""

    @property
    def open(self) -> Start | None:
        """The last start without an ending: it works, or nobody has said how it ended."""
        return self.starts[-1] if self.starts else None

    def is_by_person(self, attempt: int) -> bool:
        """Whether this attempt is the first that came of what a person has submitted."""
        before = [item.attempt for item in self.endings if item.attempt < attempt]
        return any(
            item.by == PERSON and max(before, default=0) < item.attempt <= attempt
            for item in self.submissions
        )

    def was_resumed_after(self, attempt: int) -> bool:
        """Whether a person has submitted the task since, whatever came of that attempt."""
        return any(item.by == PERSON and item.attempt > attempt for item in self.submissions)


def read(run: rundir.RunDir, stage: str, index: int) -> History:
    """The history of one task."""
    return fold(read_events(run), stage, index)


def fold(events: Iterable[Mapping[str, Any]], stage: str, index: int) -> History:
    """The history of one task, from the events of its run.

    Endings of an older version, which name no cause, only close their start, and so do those that
    tell of an earlier one. What came after what, the order of the events says: the clocks of those
    who wrote them may differ.
    """
    found = list(events)
    gone = {job for event in found if event["event"] == "undo" for job in event["job_ids"]}
    ours = [event for event in found if _is_about(event, stage, index)]
    given = [(event, _submission(event, index)) for event in ours if event["event"] == "submit"]
    kept = [(event, item) for event, item in given if item.job_id not in gone]
    submissions = tuple(item for _, item in kept)
    since = found[found.index(kept[-1][0]) + 1 :] if kept else found
    starts = {event["attempt"]: _start(event) for event in ours if event["event"] == "start"}
    exits = {event["attempt"]: event for event in ours if event["event"] == "exit"}
    firsts = _first_of_persons(submissions, exits)
    return History(
        endings=tuple(
            _ending(event, number in firsts)
            for number, event in exits.items()
            if "cause" in event and event.get("follows") is None
        ),
        starts=tuple(start for number, start in starts.items() if number not in exits),
        unsettled=tuple(
            start for number, start in starts.items() if number not in {*exits} - _left_open(exits)
        ),
        submissions=submissions,
        is_cancelled=any(event["event"] == "cancel" for event in since),
        is_stopped=any(event["event"] == "stop" for event in since),
    )


def _left_open(exits: Mapping[int, Mapping[str, Any]]) -> set[int]:
    """The last attempt, if how it ended was left to be said by Slurm."""
    last = max(exits, default=0)
    return {last} if exits and exits[last].get("action") == RetryAction.WAIT.value else set()


def _is_about(event: Mapping[str, Any], stage: str, index: int) -> bool:
    if event.get("stage") != stage:
        return False
    return event.get("index") == index or index in event.get("indices", ())


def _first_of_persons(submissions: Iterable[SubmittedJob], attempts: Iterable[int]) -> set[int]:
    """The attempts that a person's submission began: the first not below the number it gave."""
    numbers = sorted(attempts)
    wanted = (item.attempt for item in submissions if item.by == PERSON)
    return {next((n for n in numbers if n >= first), 0) for first in wanted}


def _submission(event: Mapping[str, Any], index: int) -> SubmittedJob:
    """One id may stand for all tasks of a submission: a local job is one process."""
    ids = event["job_ids"]
    job_id = ids[event["indices"].index(index)] if len(ids) == len(event["indices"]) else ids[0]
    by, scheduler = event.get("by", PERSON), event.get("scheduler", "")
    return SubmittedJob(event["time"], event["attempt"], job_id, by, scheduler)


def _start(event: Mapping[str, Any]) -> Start:
    return Start(
        event["stage"],
        event["index"],
        event["attempt"],
        event["job_id"],
        event["restarts"],
        tuple(event["nodes"]),
        event["began"],
        event["step"],
    )


def _ending(event: Mapping[str, Any], by_person: bool) -> AttemptOutcome:
    return AttemptOutcome(
        stage=event["stage"],
        index=event["index"],
        attempt=event["attempt"],
        job_id=event["job_id"],
        cause=RootCause(event["cause"]),
        fingerprint=event["fingerprint"],
        node=event["node"],
        began=event["started"],
        ended=event["ended"],
        step_before=event["step_before"],
        step_after=event["step_after"],
        action=RetryAction(event["action"]),
        by_person=by_person,
        last_step=event.get("last_step"),
    )
