"""Goodput: divide the time of a training into queue, start-up, training, checkpoint, validation,
redone, down and stall. Pure.

The wall-clock is divided twice. First into *spans*: one per attempt, and queue or downtime between
them. Then the span of each attempt by its metric lines. Clocks of nodes differ a little, so no time
counts as earlier than the one recorded before it: the spans join without gaps and the buckets add
up to the wall-clock, whatever the clocks show.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum
from typing import Any, NamedTuple

from jobs.contract.metrics_log import (
    HealthLine,
    KeptLine,
    MetricLine,
    PeriodLine,
    SaveLine,
    SkipLine,
    SnapshotLine,
    SpikeLine,
    StepLine,
    ValidationLine,
    counted_steps,
)
from meditron_cli.reporting.attempts import Attempt

BUCKETS = ("queue", "startup", "training", "checkpoint", "validation", "redone", "down", "stall")
"""``queue``: eligible to run, waiting for the scheduler. ``startup``: from a start to its first
step. ``training``: steps that count, each once. ``redone``: steps that were lost and redone,
or skipped.
``down``: outside attempts and not in a queue. ``stall``: the rest of an attempt, mostly hangs."""

STEPS = ("training", "redone")

WORK_OF = {
    StepLine.kind: "training",
    SkipLine.kind: "redone",
    ValidationLine.kind: "validation",
    SnapshotLine.kind: "checkpoint",
    SaveLine.kind: "checkpoint",
    KeptLine.kind: "checkpoint",
}
"""The bucket of each kind of metric line."""


QUEUED = ("requeue", "submit", "wait")
"""Actions after which the next attempt waits for the scheduler."""


class Work(NamedTuple):
    """The work of one metric line. Times in seconds since 1970."""

    bucket: str
    """``training``, ``checkpoint`` or ``validation``."""
    step: int
    began: float
    ended: float
    attempt: int


class Span(NamedTuple):
    """An interval of wall-clock: an attempt, or the time between two."""

    bucket: str
    """``queue`` or ``down``; empty for an attempt."""
    began: float
    ended: float
    attempt: Attempt | None = None


@dataclass(frozen=True)
class TimeAccount:
    """The time of one training, from the moment it could have started."""

    buckets: Mapping[str, float]
    """Seconds per name in ``BUCKETS``."""
    before_start: float
    """Seconds before the first start."""

    @property
    def wall(self) -> float:
        """Return the seconds of wall-clock: the sum of all buckets."""
        return fsum(self.buckets.values())

    @property
    def goodput(self) -> float | None:
        """Return the time of unique steps over elapsed time, queue included (as Google's
        ml-goodput, github.com/AI-Hypercomputer/ml-goodput-measurement).
        """
        return self._share(0.0)

    @property
    def goodput_without_queue(self) -> float | None:
        """Return the same over the time outside any queue."""
        return self._share(self.buckets["queue"])

    @property
    def ettr(self) -> float | None:
        """Return the effective training time ratio (arXiv 2410.21680): time of unique steps over
        the time since the first start; the queue before it does not count, later ones do.
        """
        return self._share(self.before_start)

    def _share(self, excluded: float) -> float | None:
        whole = self.wall - excluded
        return min(1.0, self.buckets["training"] / whole) if whole > 0 else None

    def to_json(self) -> dict[str, Any]:
        """Return seconds, and ratios from 0 to 1, as ``--json`` prints them."""
        return {
            "wall_s": self.wall,
            **{f"{name}_s": self.buckets[name] for name in BUCKETS},
            "goodput": self.goodput,
            "goodput_without_queue": self.goodput_without_queue,
            "ettr": self.ettr,
        }


def work_of(lines: Sequence[MetricLine]) -> list[Work]:
    """Return the work of a training's metric lines, oldest first; lost steps are ``redone``.
    Periods and spikes have none.
    """
    counted = {id(line) for line in counted_steps(lines).trained}
    work = []
    for line in lines:
        if isinstance(line, PeriodLine | SpikeLine | HealthLine):
            continue
        is_lost = isinstance(line, StepLine) and id(line) not in counted
        bucket = "redone" if is_lost else WORK_OF[line.kind]
        began = line.time - max(line.seconds, 0.0)
        work.append(Work(bucket, line.step, began, line.time, line.attempt))
    return work


def account(
    attempts: Sequence[Attempt],
    submission_times: Sequence[float],
    work: Iterable[Work],
    ready: float,
    end: float | None,
) -> TimeAccount:
    """Divide the time of one task.

    Args:
        attempts: of this task, each with an end (``with_ends``).
        submission_times: the times of its submissions.
        work: of its metric lines.
        ready: the earliest time at which it could have started.
        end: of the wall-clock; None for the last known time of a run that has ended.
    """
    work_by_attempt = defaultdict(list)
    for item in work:
        work_by_attempt[item.attempt].append(item)
    spans = spans_of(attempts, submission_times, ready, end)
    seconds: dict[str, list[float]] = {name: [] for name in BUCKETS}
    for span in spans:
        for bucket, length in divide(span, work_by_attempt):
            seconds[bucket].append(length)
    return TimeAccount({name: fsum(parts) for name, parts in seconds.items()}, before_start(spans))


def with_ends(
    attempts: Sequence[Attempt], work: Iterable[Work], end: float | None
) -> list[Attempt]:
    """Return the attempts of one task, each with an end.

    An attempt without a recorded end, or with one after the next start, ended with its last metric
    line; the last attempt without one runs until ``end``, if given. If a clock was set back, no
    attempt ends before it began.
    """
    signs, ended = last_signs(work), []
    for attempt, following in zip(attempts, [*attempts[1:], None], strict=False):
        sign = max(attempt.began, signs.get(attempt.number, 0.0))
        if following is not None:
            ended.append(replace(attempt, ended=ended_before(following.began, attempt, sign)))
        elif attempt.ended is None:
            ended.append(replace(attempt, ended=sign if end is None else max(attempt.began, end)))
        else:
            ended.append(replace(attempt, ended=max(attempt.began, attempt.ended)))
    return ended


def ended_before(moment: float, attempt: Attempt, sign: float) -> float:
    """Return when an attempt ended that was followed by a start at this moment."""
    known = attempt.ended is not None and attempt.ended <= moment
    ended = attempt.ended if known and attempt.ended is not None else min(sign, moment)
    return max(attempt.began, ended)


def spans_of(
    attempts: Iterable[Attempt], submission_times: Sequence[float], ready: float, end: float | None
) -> list[Span]:
    """Divide the wall-clock of a task from ``ready`` on into adjacent spans; see ``account``."""
    spans: list[Span] = []
    at, previous = ready, None
    for attempt in attempts:
        began = max(at, attempt.began)
        spans += gap(at, began, eligible_at(attempt, previous, submission_times))
        at, previous = max(began, attempt.ended or began), attempt
        spans.append(Span("", began, at, attempt))
    if end is not None and end > at:
        is_resubmitted = any(at < time <= end for time in submission_times)
        is_queued = previous is None or previous.action in QUEUED or is_resubmitted
        spans += gap(at, end, queued_at(previous, submission_times, end) if is_queued else end)
    return spans


def gap(began: float, ended: float, eligible: float) -> list[Span]:
    """Return the spans between two attempts: down until the next one is eligible, then queue."""
    eligible = min(max(began, eligible), ended)
    spans = [Span("down", began, eligible), Span("queue", eligible, ended)]
    return [span for span in spans if span.ended > span.began]


def eligible_at(
    attempt: Attempt, previous: Attempt | None, submission_times: Sequence[float]
) -> float:
    """Return from when an attempt waited for the scheduler alone. One in the allocation of the
    attempt before it did not wait.
    """
    if previous is not None and previous.allocation == attempt.allocation:
        return attempt.began
    if attempt.start.eligible is not None:
        return attempt.start.eligible
    return queued_at(previous, submission_times, attempt.began)


def queued_at(previous: Attempt | None, submission_times: Sequence[float], until: float) -> float:
    """Return when a task entered the queue, where Slurm's answer is not recorded: when it was last
    submitted, or once the delay after the attempt before was over.
    """
    last = max((time for time in submission_times if time <= until), default=0.0)
    delay = previous.end.delay if previous is not None and previous.end else 0.0
    return last if previous is None else max(last, (previous.ended or 0.0) + delay)


def divide(
    span: Span, work_by_attempt: Mapping[int, Sequence[Work]]
) -> Iterator[tuple[str, float]]:
    """Yield the buckets of a span with seconds that add up to its length."""
    if span.attempt is None:
        yield span.bucket, span.ended - span.began
        return
    at, rest = span.began, "startup"
    for item in work_by_attempt.get(span.attempt.number, ()):
        began = min(max(item.began, at), span.ended)
        ended = min(max(item.ended, began), span.ended)
        yield rest, began - at
        yield item.bucket, ended - began
        at, rest = ended, "stall" if item.bucket in STEPS else rest
    yield rest, span.ended - at


def before_start(spans: Iterable[Span]) -> float:
    """Return the seconds before the first attempt."""
    waited = []
    for span in spans:
        if span.attempt is not None:
            break
        waited.append(span.ended - span.began)
    return fsum(waited)


def last_signs(work: Iterable[Work]) -> dict[int, float]:
    """Return the time of each attempt's last metric line."""
    signs: dict[int, float] = {}
    for item in work:
        signs[item.attempt] = max(item.ended, signs.get(item.attempt, 0.0))
    return signs


def last_steps(work: Iterable[Work]) -> dict[int, int]:
    """Return the last step of each attempt that made one."""
    return {item.attempt: item.step for item in work if item.bucket in STEPS}


def node_seconds(attempts: Iterable[Attempt], nodes: int) -> float:
    """Return node-seconds of allocations, each from its first start to its last end.

    Args:
        attempts: of one stage, each with an end (``with_ends``).
        nodes: of one allocation.
    """
    intervals: dict[object, tuple[float, float]] = {}
    for attempt in attempts:
        began, ended = attempt.began, attempt.ended or attempt.began
        first, last = intervals.get(attempt.allocation, (began, ended))
        intervals[attempt.allocation] = (min(first, began), max(last, ended))
    return nodes * fsum(last - first for first, last in intervals.values())
