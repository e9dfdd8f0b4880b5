"""Training's log ``metrics.jsonl``: typed lines, incremental reading, and measured times. Standard
library only.

One JSON object per line, appended by rank 0 alone, without a lock or fsync. A line that is of no
kind (cut short by a kill, edited by hand) is skipped. A step that is trained again has another
line; the later one counts.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from jobs.contract.files import AppendedLines, json_values
from jobs.contract.json_fields import from_fields, to_fields
from jobs.contract.rundir import RunDir

BLOCK_BYTES = 1 << 22
"""Read at once: the log of a long training need not fit into the memory of its supervisor."""

SAVE_FACTOR = 1.5
"""Factor on the slow saves, because shared storage varies (a guess)."""
EARLY_SECONDS = 60
"""Slurm may send the signal up to this much early (sbatch(1), ``--signal``)."""
MARGIN_SECONDS = 30
"""For the ranks to exit and the supervisor to record it (a guess)."""
SLOW = 0.95
"""The quantile of save and step times that counts."""
NEWEST_SAVES = 20
NEWEST_STEPS = 200
"""Number of the newest steps that count for a signal lead time: storage and layout may change."""
STEPS_KEPT = 1000
"""Number of the newest step times in a summary."""


@dataclass(frozen=True, slots=True)
class StepLine:
    """A training step."""

    kind: ClassVar[str] = "step"

    step: int
    """Counted from 1."""
    loss: float
    """In nats per token."""
    learning_rate: float = field(metadata={"key": "lr"})
    grad_norm: float
    consumed_samples: int
    """By the training so far."""
    samples: str
    """Fingerprint of the samples that were read for the step."""
    tokens: int
    """By the training so far."""
    seconds: float
    tokens_per_s: float
    time: float
    """When the step was done, in seconds since 1970."""
    attempt: int


@dataclass(frozen=True, slots=True)
class ValidationLine:
    """A validation after a step."""

    kind: ClassVar[str] = "validation"

    step: int
    loss: float = field(metadata={"key": "validation_loss"})
    """In nats per token, the mean over the validation batches."""
    seconds: float
    time: float
    attempt: int


@dataclass(frozen=True, slots=True)
class SaveLine:
    """A checkpoint that was written after a step."""

    kind: ClassVar[str] = "save"

    step: int
    seconds: float = field(metadata={"key": "save"})
    """For which training waited."""
    bytes: int
    time: float
    attempt: int


MetricLine = StepLine | ValidationLine | SaveLine

LINE_TYPES: dict[str, type[MetricLine]] = {
    "loss": StepLine,
    "validation_loss": ValidationLine,
    "save": SaveLine,
}
"""By the key that only lines of this type have."""


def to_json(line: MetricLine) -> dict[str, Any]:
    """Return a line as its JSON object."""
    return to_fields(line)


def from_json(value: Mapping[str, Any]) -> MetricLine:
    """Parse what ``to_json`` returned.

    Raises:
        ValueError: it is of no kind, a field is missing, or has another type.
    """
    for key, kind in LINE_TYPES.items():
        if key in value:
            return from_fields(kind, value)
    raise ValueError("a metric line of no known kind")


class MetricsLog:
    """Reads the lines that were appended to a training's metrics since the last read."""

    def __init__(self, run: RunDir, stage: str) -> None:
        """Read from the first line; ``stage`` is the training's."""
        self._lines = AppendedLines(run.metrics(stage))

    def read_new(self) -> Iterator[MetricLine]:
        """Yield the new lines, oldest first."""
        while lines := self._lines.read(BLOCK_BYTES):
            for value in json_values(lines):
                try:
                    line = from_json(value) if isinstance(value, dict) else None
                except ValueError:
                    continue
                if line is not None:
                    yield line


@dataclass(frozen=True)
class StepTimes:
    """Times of a training's saves and steps in seconds: the 95th percentile of each."""

    save_seconds: float
    step_seconds: float | None
    """None where it is not known."""

    @property
    def lead_seconds(self) -> int:
        """Return the signal lead time: a save, a step, and the margins."""
        return math.ceil(self.leave_seconds + EARLY_SECONDS + MARGIN_SECONDS)

    @property
    def leave_seconds(self) -> float:
        """Return the seconds from a stop request to the end of the save that it causes: the step
        in progress ends first.
        """
        return SAVE_FACTOR * self.save_seconds + (self.step_seconds or 0.0)


@dataclass
class MetricsSummary:
    """The durations and the highest checkpoint in a training's metrics."""

    steps: deque[float] = field(default_factory=lambda: deque(maxlen=STEPS_KEPT))
    """Seconds of the newest steps."""
    saves: deque[float] = field(default_factory=lambda: deque(maxlen=NEWEST_SAVES))
    """Seconds of the newest saves."""
    longest_save: float = 0.0
    longest_validation: float = 0.0
    highest_saved: int = 0
    """The highest step of which a checkpoint was written."""

    def add(self, lines: Iterable[MetricLine]) -> None:
        """Add the lines that follow those added so far."""
        for line in lines:
            if isinstance(line, StepLine):
                self.steps.append(line.seconds)
            elif isinstance(line, ValidationLine):
                self.longest_validation = max(self.longest_validation, line.seconds)
            else:
                self.saves.append(line.seconds)
                self.longest_save = max(self.longest_save, line.seconds)
                self.highest_saved = max(self.highest_saved, line.step)

    @property
    def step_times(self) -> StepTimes | None:
        """Return the step times; None before the first save and the first step."""
        if not self.saves or not self.steps:
            return None
        steps = list(self.steps)[-NEWEST_STEPS:]
        return StepTimes(quantile(self.saves, SLOW), quantile(steps, SLOW))


class MetricsReader:
    """The summary of a training's metrics, kept current: each line is read and parsed once."""

    def __init__(self, run: RunDir, stage: str) -> None:
        self._log = MetricsLog(run, stage)
        self._summary = MetricsSummary()

    def current(self) -> MetricsSummary:
        """Return the summary up to now: the same object each time, with the new lines added."""
        self._summary.add(self._log.read_new())
        return self._summary


def measured_step_times(run: RunDir, stage: str) -> StepTimes | None:
    """Return the step times of a run's training; None before its first save and its first step."""
    return MetricsReader(run, stage).current().step_times


def quantile(values: Iterable[float], share: float) -> float:
    """Return the least value that a share of all do not exceed (nearest rank); of a few, the
    largest.
    """
    ordered = sorted(values)
    return ordered[math.ceil(share * len(ordered)) - 1]


class CountedSteps(NamedTuple):
    """The steps that the newest attempt builds on, each once."""

    trained: list[StepLine]
    """By step."""
    validated: list[ValidationLine]
    """By step."""


def counted_steps(lines: Iterable[MetricLine]) -> CountedSteps:
    """Drop steps that were redone, or lost when an attempt resumed from an older checkpoint.

    A training step that does not follow the ones before it shows that an attempt resumed from the
    checkpoint before that step: earlier lines of this step and of later ones do not count.

    Args:
        lines: of a training, oldest first.
    """
    trained: dict[int, StepLine] = {}
    validated: dict[int, ValidationLine] = {}
    for line in lines:
        if isinstance(line, ValidationLine):
            validated[line.step] = line
        elif isinstance(line, StepLine):
            if trained and line.step <= next(reversed(trained)):
                trained = {step: item for step, item in trained.items() if step < line.step}
                validated = {step: item for step, item in validated.items() if step < line.step}
            trained[line.step] = line
    return CountedSteps(list(trained.values()), [validated[step] for step in sorted(validated)])
