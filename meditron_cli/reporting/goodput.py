"""Where the time of a training went: queued, starting, training, saving, validating, done again,
down, standing still. Pure.

The wall-clock is cut twice. First into *spans*, that of each attempt and what lies between them,
queue or downtime; then the span of an attempt into what its metric lines tell. Clocks of nodes
differ a little, so each time is taken to be no earlier than what was told before it: whatever the
clocks say, the spans join without gaps and the buckets sum to the wall-clock.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import fsum
from typing import Any, NamedTuple

from jobs.contract.attempt_history import Attempt
from jobs.contract.events import (
    CancelEvent,
    Event,
    ExitEvent,
    StartEvent,
    StopEvent,
    SubmitEvent,
    UndoEvent,
)
from jobs.contract.metrics_log import counted_steps

BUCKETS = ("queue", "startup", "training", "checkpoint", "validation", "redone", "down", "stall")
"""``queue``: waiting for the scheduler. ``startup``: from a start to its first step. ``training``:
steps that count, each once. ``redone``: steps that were lost, and done again. ``down``: between two
starts, and not in a queue. ``stall``: the rest of an attempt, hangs above all."""

STEPS = ("training", "redone")

TRAINING = "pretrain"
"""The stage that has steps."""

LEFT_TO_SLURM = ("requeue", "wait")
"""Actions after which Slurm may have the job in its queue."""


class Work(NamedTuple):
    """A metric line as far as the ledger needs it. Times in seconds since 1970."""

    bucket: str
    """``training``, ``checkpoint`` or ``validation``."""
    step: int
    began: float
    ended: float
    attempt: int


class Span(NamedTuple):
    """A stretch of wall-clock between two attempts, or that of one."""

    bucket: str
    """``queue`` or ``down``; empty for an attempt's."""
    began: float
    ended: float
    attempt: Attempt | None = None


@dataclass(frozen=True)
class TimeAccount:
    """The time of one training, from the moment it could have started."""

    buckets: Mapping[str, float]
    """Seconds by the names in ``BUCKETS``."""
    first_queue: float
    """Seconds of the queue before the first start."""

    @property
    def wall(self) -> float:
        """Seconds of wall-clock: the sum of all buckets."""
        return fsum(self.buckets.values())

    @property
    def goodput(self) -> float | None:
        """Time of unique steps over elapsed time, queue included (RESILIENCE, section 9; the
        definition of Google's ml-goodput).
        """
        return self._share(0.0)

    @property
    def goodput_without_queue(self) -> float | None:
        """The same over the time outside of any queue."""
        return self._share(self.buckets["queue"])

    @property
    def ettr(self) -> float | None:
        """Effective training time ratio (arXiv 2410.21680): time of unique steps over the time
        since the first start; a queue after a failure counts, that before the first start does not.
        """
        return self._share(self.first_queue)

    def _share(self, left_out: float) -> float | None:
        whole = self.wall - left_out
        return min(1.0, self.buckets["training"] / whole) if whole > 0 else None

    def to_json(self) -> dict[str, Any]:
        """As ``--json`` prints it: seconds, and ratios from 0 to 1."""
        return {
            "wall_s": self.wall,
            **{f"{name}_s": self.buckets[name] for name in BUCKETS},
            "goodput": self.goodput,
            "goodput_without_queue": self.goodput_without_queue,
            "ettr": self.ettr,
        }


def work_of(lines: Iterable[Mapping[str, Any]]) -> list[Work]:
    """The work that metric lines tell of, oldest first; steps that were lost are ``redone``.

    Args:
        lines: of ``metrics.jsonl``, oldest first. A line without an attempt belongs to the one
            before it.
    """
    found: list[Work] = []
    numbered: list[dict[str, Any]] = []
    attempt = 0
    for line in lines:
        attempt = line.get("attempt", attempt)
        known = kind_of(line)
        if known is None:
            continue
        bucket, seconds = known
        if bucket == "training":
            numbered.append({"step": line["step"], "loss": 0.0, "place": len(found)})
        end = float(line["time"])
        found.append(Work(bucket, line["step"], end - max(seconds, 0.0), end, attempt))
    counting = {line["place"] for line in counted_steps(numbered).trained}
    for line in numbered:
        if line["place"] not in counting:
            found[line["place"]] = found[line["place"]]._replace(bucket="redone")
    return found


def kind_of(line: Mapping[str, Any]) -> tuple[str, float] | None:
    """What a metric line tells of, and its seconds; None for what takes no time of its own."""
    if "save" in line:
        return "checkpoint", float(line["save"])
    if "validation_loss" in line:
        return "validation", float(line.get("seconds", 0.0))
    return ("training", float(line["seconds"])) if "loss" in line else None


def account(
    events: Iterable[Event],
    attempts: Sequence[Attempt],
    work: Iterable[Work],
    ready: float,
    end: float | None,
) -> TimeAccount:
    """The ledger of one task.

    Args:
        events: of this task, oldest first: submissions, starts, and what ends submissions.
        attempts: of this task, each with an end (``settle``).
        work: what its metric lines tell.
        ready: when it could have started, had there been a place.
        end: of the wall-clock; None when nothing goes on any more, for the end of what is known.
    """
    lines = defaultdict(list)
    for item in work:
        lines[item.attempt].append(item)
    spans = cut(events, attempts, ready, end)
    seconds: dict[str, list[float]] = {name: [] for name in BUCKETS}
    for span in spans:
        for bucket, length in fill(span, lines):
            seconds[bucket].append(length)
    return TimeAccount({name: fsum(parts) for name, parts in seconds.items()}, first_queue(spans))


def settle(attempts: Sequence[Attempt], work: Iterable[Work], end: float | None) -> list[Attempt]:
    """The attempts of one task with an end each. One that nobody told ended with its last sign of
    life, and so did one of which is told that it outlived the next start; but the last one goes on
    until ``end``, where there is one. A clock that was set back makes no attempt end before it
    began.
    """
    signs, found = last_signs(work), []
    for attempt, following in zip(attempts, [*attempts[1:], None], strict=False):
        sign = max(attempt.began, signs.get(attempt.number, 0.0))
        if following is not None:
            found.append(replace(attempt, ended=ended_before(following.began, attempt, sign)))
        elif attempt.ended is None:
            found.append(replace(attempt, ended=sign if end is None else max(attempt.began, end)))
        else:
            found.append(replace(attempt, ended=max(attempt.began, attempt.ended)))
    return found


def ended_before(moment: float, attempt: Attempt, sign: float) -> float:
    """When an attempt ended that the next start followed at this moment."""
    known = attempt.ended is not None and attempt.ended <= moment
    ended = attempt.ended if known and attempt.ended is not None else min(sign, moment)
    return max(attempt.began, ended)


class Mark(NamedTuple):
    """A moment at which a task's time changes its kind."""

    kind: str
    """``submit``, ``withdraw``, ``start`` or ``exit``."""
    time: float
    attempt: Attempt | None = None


def cut(
    events: Iterable[Event],
    attempts: Sequence[Attempt],
    ready: float,
    end: float | None,
) -> list[Span]:
    """The wall-clock of a task in spans that join, from ``ready`` on; see ``account``."""
    marks = list(with_exits(marks_of(events, attempts)))
    cutter = Cutter(ready)
    for mark, following in zip(marks, [*marks[1:], None], strict=True):
        cutter.take(mark, following)
    if end is not None:
        cutter.idle(end)
    return cutter.spans


def marks_of(events: Iterable[Event], attempts: Iterable[Attempt]) -> Iterator[Mark]:
    """Submissions, what takes them back, and starts, in the order in which they were told."""
    waiting = {attempt.number: attempt for attempt in attempts}
    for event in events:
        if isinstance(event, SubmitEvent):
            yield Mark("submit", event.time)
        elif isinstance(event, (CancelEvent, StopEvent, UndoEvent)):
            yield Mark("withdraw", event.time)
        elif isinstance(event, StartEvent) and (attempt := waiting.pop(event.attempt, None)):
            yield Mark("start", attempt.began, attempt)
        elif isinstance(event, ExitEvent):
            attempt = waiting.pop(event.record.attempt, None)
            if attempt:
                yield Mark("start", attempt.began, attempt)


def with_exits(marks: Iterable[Mark]) -> Iterator[Mark]:
    """The marks, and the end of each attempt before whatever came later: a post-mortem is told
    long after the end it tells of.
    """
    working: Attempt | None = None
    for mark in marks:
        if working is not None and (mark.kind == "start" or mark.time > (working.ended or 0.0)):
            yield Mark("exit", working.ended or 0.0, working)
            working = None
        yield mark
        working = mark.attempt or working
    if working is not None:
        yield Mark("exit", working.ended or 0.0, working)


@dataclass
class Cutter:
    """Cuts the wall-clock at one mark after the other."""

    at: float
    """Up to here it is cut."""
    spans: list[Span] = field(default_factory=list)
    bucket: str = "queue"
    """What the time outside of attempts is now."""
    queued: bool = False
    """A successor was submitted before the attempt had ended."""
    hold: float = 0.0
    """Until then a delay keeps the task out of the queue."""
    working: bool = False

    def take(self, mark: Mark, following: Mark | None) -> None:
        """Cut at a mark; the one after it tells where the task was in between."""
        if mark.kind == "start":
            self.idle(mark.time)
            self.working = True
        elif mark.attempt is not None:
            self._end(mark.attempt, mark.time, following)
        elif self.working:
            self.queued = mark.kind == "submit"
        else:
            self.idle(mark.time)
            self.bucket = "queue" if mark.kind == "submit" else "down"

    def idle(self, until: float) -> None:
        """Cut what lies between attempts."""
        if self.bucket == "queue":
            self._cut("down", min(self.hold, until))
        self._cut(self.bucket, until)

    def _end(self, attempt: Attempt, time: float, following: Mark | None) -> None:
        self._cut("", time, attempt)
        self.hold = self.at + (attempt.end.delay if attempt.end else 0.0)
        self.bucket = "queue" if self.queued or requeued(attempt, following) else "down"
        self.queued = self.working = False

    def _cut(self, bucket: str, until: float, attempt: Attempt | None = None) -> None:
        if until > self.at or attempt is not None:
            began, self.at = self.at, max(self.at, until)
            self.spans.append(Span(bucket, began, self.at, attempt))


def requeued(attempt: Attempt, following: Mark | None) -> bool:
    """Whether Slurm had the job in its queue again after an attempt."""
    if following is not None and following.attempt is not None:
        return following.attempt.allocation != attempt.allocation
    if following is not None and following.kind == "submit":
        return False
    return attempt.action in LEFT_TO_SLURM


def fill(span: Span, lines: Mapping[int, Sequence[Work]]) -> Iterator[tuple[str, float]]:
    """What the seconds of a span were spent on; they sum to its length."""
    if span.attempt is None:
        yield span.bucket, span.ended - span.began
        return
    at, rest = span.began, "startup"
    for item in lines.get(span.attempt.number, ()):
        began = min(max(item.began, at), span.ended)
        ended = min(max(item.ended, began), span.ended)
        yield rest, began - at
        yield item.bucket, ended - began
        at, rest = ended, "stall" if item.bucket in STEPS else rest
    yield rest, span.ended - at


def first_queue(spans: Iterable[Span]) -> float:
    """Seconds in the queue before the first attempt."""
    waited = []
    for span in spans:
        if span.attempt is not None:
            break
        waited.append(span.ended - span.began if span.bucket == "queue" else 0.0)
    return fsum(waited)


def last_signs(work: Iterable[Work]) -> dict[int, float]:
    """When each attempt did last what a metric line tells of."""
    signs: dict[int, float] = {}
    for item in work:
        signs[item.attempt] = max(item.ended, signs.get(item.attempt, 0.0))
    return signs


def last_steps(work: Iterable[Work]) -> dict[int, int]:
    """The last step of each attempt that made one."""
    return {item.attempt: item.step for item in work if item.bucket in STEPS}


def node_seconds(attempts: Iterable[Attempt], nodes: int) -> float:
    """Seconds times nodes that allocations held, from the first start in each to its last end.

    Args:
        attempts: of one stage, each with an end (``settle``).
        nodes: of one allocation.
    """
    held: dict[object, tuple[float, float]] = {}
    for attempt in attempts:
        began, ended = attempt.began, attempt.ended or attempt.began
        first, last = held.get(attempt.allocation, (began, ended))
        held[attempt.allocation] = (min(first, began), max(last, ended))
    return nodes * fsum(last - first for first, last in held.values())
