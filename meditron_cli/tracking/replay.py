"""Replay a training's metrics into a tracker: each line once, in the order of the log.

The tracker itself records how many lines it has, so that a second replay adds nothing and a killed
one continues. A line that a later attempt has made void (``metrics_log.counted_steps``) is not
sent. One that was sent before stays, and the step's new line follows it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jobs.contract.metrics_log import (
    HealthLine,
    KeptLine,
    MetricLine,
    MetricsLog,
    SaveLine,
    SkipLine,
    SnapshotLine,
    StepLine,
)
from meditron_cli.errors import ConfigError

CHUNK = 200
"""Points in one call of a tracker, after which an interrupted replay continues."""
PLACE = ("step", "time", "attempt")
"""Fields that place a line, and are no metrics."""
TRAIN = "train"
"""The first part of the names of a training step's metrics; other lines have their kind's."""


@dataclass(frozen=True)
class Point:
    """The metrics of one line of the log."""

    line: int
    """Its number among the lines of the log, from 1."""
    step: int
    time: float
    """In seconds since 1970."""
    attempt: int
    values: Mapping[str, float]
    """By name: ``train/loss``, ``validation/loss``, ``save/seconds``."""


class Tracker(Protocol):
    """A run of an experiment tracker, which all attempts of a training share."""

    @property
    def position(self) -> int:
        """Return the number of the last line that the tracker has; 0 before the first."""
        ...

    def log(self, points: Sequence[Point]) -> None:
        """Add points, and move the position to the last of them."""
        ...


class Replay:
    """The replay of one training's metrics."""

    def __init__(self, log: MetricsLog) -> None:
        """Read from the first line."""
        self._log = log
        self._lines: list[MetricLine] = []

    @property
    def lines(self) -> int:
        """Return the number of lines read so far."""
        return len(self._lines)

    def send_new(self, tracker: Tracker) -> int:
        """Send the lines that the tracker does not have, and return their number.

        Raises:
            ConfigError: the tracker has more lines than the log.
        """
        self._lines.extend(self._log.read_new())
        if tracker.position > len(self._lines):
            raise ConfigError(
                f"the tracker has {tracker.position} lines of this run's metrics, the run has "
                f"{len(self._lines)}: it is an older copy, or its metrics were cut short",
                hint="sync from the run directory that the jobs write to",
            )
        new = list(points(self._lines, tracker.position))
        for start in range(0, len(new), CHUNK):
            tracker.log(new[start : start + CHUNK])
        return len(new)


def points(lines: Sequence[MetricLine], position: int) -> Iterator[Point]:
    """Yield the points of the lines behind a position, without those that do not count any more.

    Args:
        lines: all of the log, oldest first.
        position: the number of lines to leave out.
    """
    counted = count(lines)
    for number in range(position, len(lines)):
        if counted[number]:
            line = lines[number]
            yield Point(number + 1, line.step, line.time, line.attempt, dict(metrics(line)))


def count(lines: Sequence[MetricLine]) -> list[bool]:
    """Return whether each line counts: no later line trains or skips its step, or one before it,
    again. A save was made, whatever became of its checkpoint, and a GPU was as hot.
    """
    counted = [True] * len(lines)
    lowest = math.inf
    for number in reversed(range(len(lines))):
        line = lines[number]
        if not isinstance(line, SnapshotLine | SaveLine | KeptLine | HealthLine):
            counted[number] = line.step < lowest
        if isinstance(line, StepLine | SkipLine):
            lowest = min(lowest, line.step)
    return counted


def metrics(line: MetricLine) -> Iterator[tuple[str, float]]:
    """Yield names and values of a line's finite numbers."""
    prefix = TRAIN if isinstance(line, StepLine) else line.kind
    for field in dataclasses.fields(line):
        if field.name not in PLACE:
            yield from _numbers(f"{prefix}/{field.name}", getattr(line, field.name))


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _numbers(f"{name}/{key}", item)
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        yield name, float(value)
