"""The history of a run: which jobs its tasks were given to, when attempts started and how they
ended, folded from the run's events. Standard library only.

A start without an exit is *open*: it is running, or its end is yet to be recorded. That is the only
open state. The order of events decides what came after what, since the clocks of their writers may
differ. Each event is folded once (``RunHistory.add``), and each is indexed by stage and task, so
that a question about one task costs nothing per other task.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from jobs.contract import rundir
from jobs.contract.events import (
    PERSON,
    AlarmEvent,
    CancelEvent,
    Event,
    EventLog,
    ExitEvent,
    IntentEvent,
    ObservedEvent,
    RequestEvent,
    Select,
    StartEvent,
    StopEvent,
    SubmitEvent,
    UndoEvent,
    WithdrawEvent,
)
from jobs.contract.exit_record import ExitRecord


class SubmittedJob(NamedTuple):
    """A job that a task was given to."""

    time: float
    attempt: int
    """Number of its first attempt."""
    job_id: str
    by: str
    """``person``, ``supervisor``, ``recovery_job`` or ``recover``."""
    scheduler: str = ""


class Withdrawn:
    """The events that take submissions of a run back. Tasks share it and do not refer to the whole
    history: a cycle would leave the histories of many runs to the garbage collector.
    """

    def __init__(self) -> None:
        self.undone: set[str] = set()
        """Jobs that were taken back."""
        self.cancelled_at = -1
        """Place of the last ``cancel`` in the order of events; -1 where there is none."""
        self.stopped_at = -1
        """The same of the last ``stop``."""

    def add(self, place: int, event: Event) -> None:
        """Add an event that takes submissions back; ignore others."""
        if isinstance(event, UndoEvent):
            self.undone.update(event.job_ids)
        elif isinstance(event, CancelEvent):
            self.cancelled_at = place
        elif isinstance(event, StopEvent):
            self.stopped_at = place


class TaskHistory:
    """Submissions, starts and ends of one task, oldest first."""

    def __init__(self, withdrawn: Withdrawn, stage: str, index: int) -> None:
        self.stage = stage
        self.index = index
        self.started: dict[int, StartEvent] = {}
        """By attempt."""
        self.ended: dict[int, ExitRecord] = {}
        """By attempt; the first exit record of an attempt counts."""
        self.observed: dict[int, ExitRecord] = {}
        """By attempt: diagnoses without a decision."""
        self._withdrawn = withdrawn
        self._submitted: list[tuple[int, SubmittedJob]] = []
        """With their place in the order of events."""
        self._begun: list[tuple[int, int]] = []
        """Place and attempt of starts, and of exits without a start."""

    @property
    def submissions(self) -> tuple[SubmittedJob, ...]:
        """Return the jobs that the task was given to, without those that were taken back."""
        return tuple(item for _, item in self._kept())

    @property
    def job(self) -> SubmittedJob | None:
        """Return the job that the task was last given to."""
        kept = self._kept()
        return kept[-1][1] if kept else None

    @property
    def attempt(self) -> int:
        """Return the number of the last attempt of its present job: the first that the job is to
        make until it has begun one. An attempt that was refused before its start counts too.
        """
        kept = self._kept()
        place, number = (kept[-1][0], kept[-1][1].attempt) if kept else (-1, 0)
        for at, attempt in self._begun:
            if at > place and (attempt in self.started or attempt > number):
                number = attempt
        return number

    @property
    def has_begun(self) -> bool:
        """Return whether the present job has begun an attempt."""
        return self.attempt in self.started

    @property
    def starts(self) -> tuple[StartEvent, ...]:
        """Return the open starts."""
        return tuple(start for number, start in self.started.items() if number not in self.ended)

    @property
    def open(self) -> StartEvent | None:
        """Return the last start, if it is open."""
        return self.starts[-1] if self.starts else None

    @property
    def exits(self) -> tuple[ExitRecord, ...]:
        """Return the exit records that count: not of attempts that an earlier one's end prevented.
        ``by_person`` is set.
        """
        firsts = self._first_of_persons()
        return tuple(
            replace(record, by_person=True) if number in firsts else record
            for number, record in self.ended.items()
            if record.follows is None
        )

    @property
    def is_cancelled(self) -> bool:
        """Return whether a person has cancelled the run since the task was last submitted."""
        return self._withdrawn.cancelled_at > self._since()

    @property
    def is_stopped(self) -> bool:
        """Return the same for a stop request (``cancel --save``)."""
        return self._withdrawn.stopped_at > self._since()

    def is_by_person(self, attempt: int) -> bool:
        """Return whether this attempt is the first of a submission that a person made."""
        ended = (number for number, record in self.ended.items() if record.follows is None)
        before = max((number for number in ended if number < attempt), default=0)
        return any(
            item.by == PERSON and before < item.attempt <= attempt for item in self.submissions
        )

    def was_resumed_after(self, attempt: int) -> bool:
        """Return whether a person has submitted the task since that attempt."""
        return any(item.by == PERSON and item.attempt > attempt for item in self.submissions)

    def note_submission(self, place: int, job: SubmittedJob) -> None:
        """Add a submission; ``place`` is its place in the order of events."""
        self._submitted.append((place, job))

    def note_start(self, place: int, start: StartEvent) -> None:
        """Add a start."""
        self.started[start.attempt] = start
        self._begun.append((place, start.attempt))

    def note_exit(self, place: int, record: ExitRecord) -> None:
        """Add an exit record."""
        self.ended.setdefault(record.attempt, record)
        if record.attempt not in self.started:
            self._begun.append((place, record.attempt))

    def _kept(self) -> Sequence[tuple[int, SubmittedJob]]:
        undone = self._withdrawn.undone
        if not undone:  # of nearly every run
            return self._submitted
        return [item for item in self._submitted if item[1].job_id not in undone]

    def _since(self) -> int:
        """Return the place of the last submission; -1 before the first."""
        kept = self._kept()
        return kept[-1][0] if kept else -1

    def _first_of_persons(self) -> set[int]:
        """Return the attempts that a person's submission began: the first not below its number."""
        numbers = sorted(self.ended)
        starts = (item.attempt for item in self.submissions if item.by == PERSON)
        return {next((n for n in numbers if n >= first), 0) for first in starts}


class RunHistory:
    """The folded events of a run, indexed by stage and task."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.request: RequestEvent | None = None
        """The last one that changed the configuration; None where the first one is in force."""
        self.alarms: list[AlarmEvent] = []
        """Oldest first."""
        self.begun: dict[tuple[str, int, int], TaskHistory] = {}
        """The task of each attempt, by stage, index and attempt, in the order in which they began.
        An exit without a start is an attempt that was refused.
        """
        self._withdrawn = Withdrawn()
        self._tasks: dict[str, dict[int, TaskHistory]] = {}
        self._submits: dict[str, list[SubmitEvent]] = {}
        self._intents: dict[tuple[str, int], IntentEvent] = {}

    @classmethod
    def of(cls, events: Iterable[Event]) -> RunHistory:
        """Build the history of all events of a run."""
        history = cls()
        history.add(events)
        return history

    def add(self, events: Iterable[Event]) -> None:
        """Add the events that follow those added so far."""
        for event in events:
            self._add(len(self.events), event)
            self.events.append(event)

    def task(self, stage: str, index: int) -> TaskHistory:
        """Return the history of one task; an empty one where no event names it."""
        tasks = self._tasks.setdefault(stage, {})
        if index not in tasks:
            tasks[index] = TaskHistory(self._withdrawn, stage, index)
        return tasks[index]

    def tasks(self, stage: str) -> Mapping[int, TaskHistory]:
        """Return the histories of a stage's tasks, by index."""
        return self._tasks.get(stage, {})

    def submits(self, stage: str) -> list[SubmitEvent]:
        """Return the submissions of a stage that were not taken back."""
        submissions = self._submits.get(stage, [])
        return [
            event for event in submissions if not self._withdrawn.undone.issuperset(event.job_ids)
        ]

    def recovery_jobs(self, stage: str) -> set[str]:
        """Return every recovery job that a stage ever had."""
        return {job for event in self.submits(stage) for job in event.recovery_jobs}

    @property
    def unanswered(self) -> list[IntentEvent]:
        """Return the intents without a result: their submission was killed, or is being made."""
        return list(self._intents.values())

    @property
    def submitted_at(self) -> float | None:
        """Return when the first submission that was not taken back was made."""
        times = (
            event.time
            for event in self.events
            if isinstance(event, SubmitEvent)
            and not self._withdrawn.undone.issuperset(event.job_ids)
        )
        return next(times, None)

    @property
    def stop_request(self) -> CancelEvent | StopEvent | None:
        """Return the last request to end the run."""
        place = max(self._withdrawn.cancelled_at, self._withdrawn.stopped_at)
        event = self.events[place] if place >= 0 else None
        return event if isinstance(event, (CancelEvent, StopEvent)) else None

    def _add(self, place: int, event: Event) -> None:
        if isinstance(event, IntentEvent):
            self._add_submission(place, event)
        elif isinstance(event, WithdrawEvent):
            self._intents.pop((event.stage, event.attempt), None)
        elif isinstance(event, StartEvent):
            task = self.task(event.stage, event.index)
            task.note_start(place, event)
            self.begun.setdefault((event.stage, event.index, event.attempt), task)
        elif isinstance(event, ObservedEvent):
            self._add_end(place, event)
        elif isinstance(event, RequestEvent):
            self.request = event
        elif isinstance(event, AlarmEvent):
            self.alarms.append(event)
        else:
            self._withdrawn.add(place, event)

    def _add_submission(self, place: int, event: IntentEvent) -> None:
        if not isinstance(event, SubmitEvent):
            self._intents[event.stage, event.attempt] = event
            return
        self._intents.pop((event.stage, event.attempt), None)
        self._submits.setdefault(event.stage, []).append(event)
        for index, job_id in event.jobs():
            job = SubmittedJob(event.time, event.attempt, job_id, event.by, event.scheduler)
            self.task(event.stage, index).note_submission(place, job)

    def _add_end(self, place: int, event: ObservedEvent) -> None:
        record = event.record
        task = self.task(record.stage, record.index)
        if isinstance(event, ExitEvent):
            task.note_exit(place, record)
            self.begun.setdefault((record.stage, record.index, record.attempt), task)
        else:
            task.observed[record.attempt] = record


class HistoryReader:
    """The history of a run, kept current: each event is read, parsed and folded once."""

    def __init__(self, run: rundir.RunDir) -> None:
        self._log = EventLog(run)
        self._history = RunHistory()

    def current(self, select: Select | None = None) -> RunHistory:
        """Return the history up to now: the same object each time, with the new events added; of
        all kinds, or those that are selected.
        """
        self._history.add(self._log.read_new(select))
        return self._history


def read(run: rundir.RunDir) -> RunHistory:
    """Read the history of a run once; keep a ``HistoryReader`` to read it again."""
    return HistoryReader(run).current()
