"""The run's event log ``events.jsonl``: typed events, appending, incremental reading. Standard
library only.

One JSON object per line: ``{"format", "time", "event", …}``. Events of the kinds in ``EVENT_TYPES``
decide which job runs which task; ``jobs.contract.attempt_history`` folds them. Other kinds
(``recovery_job``, ``blocked``) are notes for people, which ``read_events`` returns as JSON.

A start and an exit are stored here and nowhere else. A line that is not an event of its kind (cut
short by a crash, edited by hand, of a later version) is skipped.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from jobs.contract.exit_record import ExitRecord
from jobs.contract.files import FORMAT, AppendedLines, append_lines, json_values
from jobs.contract.json_fields import from_fields, to_fields
from jobs.contract.rundir import RunDir
from jobs.contract.units import Moment

PERSON = "person"

KIND = re.compile(rb'"event": ?"(\w+)"')

Select = Callable[[Iterable[tuple[bytes, bytes]]], Iterable[bytes]]
"""Chooses the lines to parse, from the kinds and bytes of all."""


@dataclass(frozen=True)
class Event:
    """A line of the log. ``time`` is in seconds since 1970, by the clock of the writer."""

    kind: ClassVar[str]

    time: Moment

    def to_json(self) -> dict[str, Any]:
        """Return the event's own fields and its time."""
        return to_fields(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Event:
        """Parse what ``to_json`` returned.

        Raises:
            ValueError: a field is missing, or has another type.
        """
        return from_fields(cls, value)


@dataclass(frozen=True)
class IntentEvent(Event):
    """A submission that is about to be made."""

    kind = "intent"

    stage: str
    attempt: int
    indices: tuple[int, ...]
    scheduler: str = ""
    by: str = PERSON
    """``person``, ``supervisor``, ``recovery_job`` or ``recover``."""
    replaces: tuple[str, ...] = ()
    """The jobs whose tasks these are."""
    exclude: tuple[str, ...] = ()
    """Nodes that the job must not use."""
    run_dir: str = ""
    """The run directory that its jobs work on: a copy of the run elsewhere does not own them."""


@dataclass(frozen=True)
class SubmitEvent(IntentEvent):
    """A submission that was made: the result of the intent with its stage and attempt."""

    kind = "submit"

    job_ids: tuple[str, ...] = ()
    """One per task, or one for all: a local job is one process."""
    recovery_jobs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.job_ids:
            raise ValueError("a submission without a job")

    def jobs(self) -> Iterator[tuple[int, str]]:
        """Yield each task's index with its job."""
        ids = self.job_ids
        if len(ids) != len(self.indices):
            ids = ids[:1] * len(self.indices)
        return zip(self.indices, ids, strict=True)


def submit_event(
    intent: IntentEvent, job_ids: Iterable[str], recovery_jobs: Iterable[str]
) -> SubmitEvent:
    """Return the result of an intent: these jobs were submitted, just now."""
    fields = {**vars(intent), "time": time.time()}
    return SubmitEvent(**fields, job_ids=tuple(job_ids), recovery_jobs=tuple(recovery_jobs))


@dataclass(frozen=True)
class WithdrawEvent(Event):
    """The result of an intent that left no job."""

    kind = "withdraw"

    stage: str
    attempt: int


@dataclass(frozen=True)
class UndoEvent(Event):
    """Submissions that were taken back because a later one of the same launch failed."""

    kind = "undo"

    job_ids: tuple[str, ...]
    reason: str = ""


@dataclass(frozen=True)
class CancelEvent(Event):
    """A person cancelled everything submitted before."""

    kind = "cancel"

    job_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class StopEvent(Event):
    """A person requested that everything submitted before save and exit (``cancel --save``)."""

    kind = "stop"

    job_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class RequestEvent(Event):
    """The configuration of a later submission that differs from the one before."""

    kind = "request"

    experiment: dict[str, Any]
    cluster: dict[str, Any]
    size: str
    config_file: str | None
    command: tuple[str, ...]


@dataclass(frozen=True)
class StartEvent(Event):
    """A supervisor is about to start the ranks of a task."""

    kind = "start"

    stage: str
    index: int
    attempt: int
    job_id: str
    began: Moment
    restarts: int = 0
    """Number of requeues of the job by Slurm before this start."""
    nodes: tuple[str, ...] = ()
    step: int | None = None
    """Of the newest valid checkpoint; None where it is not known, or there is none."""
    eligible: Moment | None = None
    """When the job could first have run, by Slurm's clock; None where that is not known, and for
    stages that do not train: a short task does not pay for one more query.
    """


@dataclass(frozen=True)
class SignalEvent(Event):
    """The ranks of an attempt were requested to save and exit."""

    kind = "signal"

    stage: str
    index: int
    attempt: int
    signals: tuple[int, ...] = ()
    """Received by the supervisor; none where the ranks hang, or a person requested the stop."""


@dataclass(frozen=True)
class ObservedEvent(Event):
    """A supervisor's diagnosis of an attempt whose end it does not decide: Slurm is ending the job,
    or no job may be submitted from its node. The attempt stays open; the process that closes it
    uses this.
    """

    kind = "observed"

    record: ExitRecord

    def to_json(self) -> dict[str, Any]:
        return {"time": self.time, **self.record.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Event:
        return cls(from_fields(Event, value).time, ExitRecord.from_json(value))


@dataclass(frozen=True)
class ExitEvent(ObservedEvent):
    """An attempt ended, and what happens next is decided."""

    kind = "exit"


@dataclass(frozen=True)
class AlarmEvent(Event):
    """A warning about a run, a node or a GPU while ranks ran (``jobs.supervision.alarms``)."""

    kind = "alarm"

    stage: str
    index: int
    attempt: int
    code: str
    verdict: str
    """``WARN``, ``DRAIN`` or ``FATAL``."""
    message: str
    node: str = ""
    """Empty where it concerns no single node."""


EVENT_TYPES: dict[str, type[Event]] = {
    kind.kind: kind
    for kind in (
        IntentEvent,
        SubmitEvent,
        WithdrawEvent,
        UndoEvent,
        CancelEvent,
        StopEvent,
        RequestEvent,
        StartEvent,
        SignalEvent,
        ObservedEvent,
        ExitEvent,
        AlarmEvent,
    )
}


def append(run: RunDir, *events: Event) -> None:
    """Append events, all or none of them after a crash of the machine, under a file lock."""
    append_lines(run.events, [_line(event.kind, event.to_json()) for event in events])


def append_event(run: RunDir, kind: str, **fields: Any) -> None:
    """Append an event that is a note for people."""
    append_lines(run.events, [_line(kind, {"time": time.time(), **fields})])


def _line(kind: str, fields: Mapping[str, Any]) -> str:
    return json.dumps({"format": FORMAT, "event": kind, **fields}, sort_keys=True)


def read_events(run: RunDir, kinds: Collection[str] = ()) -> list[dict[str, Any]]:
    """Read all events as JSON, oldest first.

    Args:
        kinds: only these; all when empty.
    """
    return list(_objects(AppendedLines(run.events).read(), kinds))


class EventLog:
    """Reads the events that were appended to a run's log since the last read."""

    def __init__(self, run: RunDir, kinds: Collection[str] = tuple(EVENT_TYPES)) -> None:
        """Read from the first event.

        Args:
            kinds: of ``EVENT_TYPES``; lines of other kinds are not parsed.
        """
        self._lines = AppendedLines(run.events)
        self._kinds = kinds

    def read_new(self, select: Select | None = None) -> list[Event]:
        """Return the new events, oldest first; of all kinds, or those that are selected."""
        return list(parse(_objects(self._lines.read(), self._kinds, select)))


def parse(values: Iterable[Mapping[str, Any]]) -> Iterator[Event]:
    """Yield the typed events among JSON objects; what is none is skipped."""
    for value in values:
        kind = EVENT_TYPES.get(value["event"])
        if kind is not None:
            try:
                yield kind.from_json(value)
            except ValueError:
                continue


def _objects(
    lines: Iterable[bytes], kinds: Collection[str], select: Select | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects among lines that have a kind; others are not even parsed."""
    names = {kind.encode() for kind in kinds}
    known = [
        (kind, line)
        for line in lines
        if (match := KIND.search(line)) and ((kind := match[1]) in names or not names)
    ]
    selected = [line for _, line in known] if select is None else list(select(known))
    for value in json_values(selected):
        if isinstance(value, dict) and isinstance(value.get("event"), str):
            yield value
