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
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from jobs.contract.files import AppendedLines, json_values
from jobs.contract.json_fields import from_fields, to_fields
from jobs.contract.rundir import RunDir
from jobs.contract.units import Moment

if TYPE_CHECKING:
    from jobs.contract.stage_specs import TrainingSpec

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
NEWEST_SPIKES = 20
NEWEST_STEPS = 200
"""Number of the newest steps that count for a signal lead time: storage and layout may change."""
FIRST_STEPS = 200
"""Number of the first losses in a summary."""
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
    """By the training so far, with those of skipped batches."""
    samples: str
    """Fingerprint of the samples that were read for the step."""
    tokens: int
    """Of these samples."""
    seconds: float
    tokens_per_s: float
    time: Moment
    """When the step was done, in seconds since 1970."""
    attempt: int


@dataclass(frozen=True, slots=True)
class PeriodLine:
    """Speed, memory and norms of a number of steps in a row, of one attempt."""

    kind: ClassVar[str] = "period"

    step: int
    """The last of them."""
    steps: int = field(metadata={"key": "period"})
    """Their number."""
    loss: float
    """Their mean, in nats per token."""
    perplexity: float
    """``e`` to the power of ``loss``."""
    param_norm: float
    """Of all parameters after the last step (L2, from the optimizer's fp32 values)."""
    seconds: float
    """Of the steps, without validation and saves."""
    data: float = field(metadata={"key": "data_s"})
    """Seconds of the steps in which a rank waited for its samples: those of the rank that waited
    longest."""
    communication: float = field(metadata={"key": "communication_s"})
    """Seconds of the steps from the end of a rank's backward pass to the reduced gradients, in the
    reduction of the loss, and of its forward pass waiting for weights of other ranks: the mean over
    ranks. It includes waiting for slower ranks.
    """
    checkpoint: float = field(metadata={"key": "checkpoint_s"})
    """Seconds for which training waited for saves since the period before."""
    validation: float = field(metadata={"key": "validation_s"})
    """Seconds of validation since the period before."""
    step_p50: float
    """Seconds of a step, the median of the newest steps (``NEWEST_STEPS``) of the attempt."""
    step_p95: float
    step_max: float
    tokens_per_s: float
    """In the steps."""
    tokens_per_s_per_rank: float
    """A rank is a GPU."""
    mfu: float | None
    """Model FLOPs utilisation, as a share of the peak in bf16; None where no peak is known."""
    mfu_without_attention: float | None
    memory_bytes: int
    """The largest peak of a rank since its start: allocated by torch on a GPU, resident without."""
    time: Moment
    attempt: int


RECOMPUTED, WARNED, SKIPPED = "recomputed", "warned", "skipped"
REWOUND, ENDED = "rewound", "stopped"
"""Actions after a spike. ``recomputed``: a second computation of the step was as usual, and it was
trained with that. ``warned``: it was trained all the same. ``skipped``: its update was left out.
``rewound``: training returned to a checkpoint, and skips a number of steps. ``stopped``: training
ended with an error.
"""


@dataclass(frozen=True, slots=True)
class SpikeLine:
    """A step whose loss or gradient norm was not as in the steps before, and what followed."""

    kind: ClassVar[str] = "spike"

    step: int
    problem: str = field(metadata={"key": "spike"})
    """One sentence."""
    action: str
    samples: str
    """Fingerprint of the samples that were read for the step."""
    saved: int | None
    """The step of the checkpoint that training returned to; None with other actions."""
    first: int | None
    """The first step that is skipped therefore; the last one is ``step``. None with actions that
    skip none."""
    time: Moment
    attempt: int


@dataclass(frozen=True, slots=True)
class SkipLine:
    """A step that changed no weights: its batch was skipped."""

    kind: ClassVar[str] = "skip"

    step: int
    reason: str = field(metadata={"key": "skipped"})
    """``pretrain.skip_steps``, or the observation by which training decided it."""
    seconds: float
    time: Moment
    attempt: int


@dataclass(frozen=True)
class _CorpusLoss:
    loss: float
    perplexity: float


@dataclass(frozen=True, slots=True)
class ValidationLine:
    """A validation after a step."""

    kind: ClassVar[str] = "validation"

    step: int
    loss: float = field(metadata={"key": "validation_loss"})
    """In nats per token, over all validation batches; averaged as that of a step."""
    corpora: dict[str, Any]
    """By the name of a corpus its ``loss`` and ``perplexity``."""
    seconds: float
    time: Moment
    attempt: int


@dataclass(frozen=True, slots=True)
class SnapshotLine:
    """The beginning of a save of the state after a step, which is copied until the next update."""

    kind: ClassVar[str] = "snapshot"

    step: int
    seconds: float = field(metadata={"key": "snapshot"})
    """For which training waited."""
    time: Moment
    attempt: int


@dataclass(frozen=True, slots=True)
class _CommitLine:
    """A save of a step that was committed."""

    step: int
    seconds: float
    written: float
    """Seconds from the beginning of the save to its commit; training may have continued."""
    bytes: int
    time: Moment
    attempt: int


@dataclass(frozen=True, slots=True)
class SaveLine(_CommitLine):
    """A checkpoint of a step, to resume from."""

    kind: ClassVar[str] = "save"

    seconds: float = field(metadata={"key": "save"})
    """For which training waited after the snapshot: for the rest of the copy before the next
    update, the end of the writing, and the commit.
    """


@dataclass(frozen=True, slots=True)
class KeptLine(_CommitLine):
    """Weights of a step that are kept, beside any checkpoint."""

    kind: ClassVar[str] = "kept"

    seconds: float = field(metadata={"key": "kept"})
    """For which training waited."""


@dataclass(frozen=True, slots=True)
class HealthLine:
    """The GPUs of all nodes while a step was trained, as their monitors read them."""

    kind: ClassVar[str] = "health"

    step: int
    gpus: int = field(metadata={"key": "health"})
    """Number of GPUs that were read."""
    utilisation: float | None
    """Per cent, the mean."""
    power_w: float | None
    """Watts, of all together."""
    temperature: float | None
    """Degrees Celsius, of the hottest."""
    sm_clock_mhz: float | None
    """Of the slowest."""
    memory_bytes: float | None
    """Of the fullest."""
    energy_j: float
    """Joules of all since the attempt began."""
    findings: int
    """Warnings and worse that hold at this time."""
    time: Moment
    attempt: int


MetricLine = (
    StepLine
    | PeriodLine
    | SpikeLine
    | SkipLine
    | ValidationLine
    | SnapshotLine
    | SaveLine
    | KeptLine
    | HealthLine
)

LINE_TYPES: dict[str, type[MetricLine]] = {
    "period": PeriodLine,
    "spike": SpikeLine,
    "loss": StepLine,
    "skipped": SkipLine,
    "validation_loss": ValidationLine,
    "snapshot": SnapshotLine,
    "save": SaveLine,
    "kept": KeptLine,
    "health": HealthLine,
}
"""By the key that lines of this type have; a period has a loss too, so it is looked for first."""


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
            line = from_fields(kind, value)
            for of_corpus in line.corpora.values() if isinstance(line, ValidationLine) else ():
                from_fields(_CorpusLoss, of_corpus if isinstance(of_corpus, dict) else {})
            return line
    raise ValueError("a metric line of no known kind")


class MetricsLog:
    """Reads the lines that were appended to a training's metrics since the last read."""

    def __init__(self, run: RunDir, stage: str, index: int = 0) -> None:
        """Read from the first line; ``stage`` and ``index`` are the training's task."""
        self._lines = AppendedLines(run.metrics(stage, index))

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
    """From the beginning of a save to its commit."""
    step_seconds: float | None
    """None where it is not known."""
    blocked_seconds: float | None = None
    """Those of a save for which training waits; None where they are not known: then all."""

    @property
    def lead_seconds(self) -> int:
        """Return the signal lead time: a save, a step, and the margins."""
        return math.ceil(self.leave_seconds + EARLY_SECONDS + MARGIN_SECONDS)

    @property
    def leave_seconds(self) -> float:
        """Return the seconds from a stop request to the end of the save that it causes: the step
        in progress ends first, and so does a save that is written beside training.
        """
        beside = max(0.0, self.save_seconds - self.waited_seconds)
        return SAVE_FACTOR * (beside + self.save_seconds) + (self.step_seconds or 0.0)

    @property
    def waited_seconds(self) -> float:
        """Return the seconds of a save for which training waits, or all of them."""
        return self.save_seconds if self.blocked_seconds is None else self.blocked_seconds


@dataclass
class MetricsSummary:
    """The durations and the highest checkpoint in a training's metrics."""

    steps: deque[StepLine] = field(default_factory=lambda: deque(maxlen=STEPS_KEPT))
    """The newest."""
    first_losses: dict[int, float] = field(default_factory=dict)
    """Of the first steps, by step."""
    saves: deque[float] = field(default_factory=lambda: deque(maxlen=NEWEST_SAVES))
    """Seconds from the beginning of the newest saves to their commits."""
    blocked: deque[float] = field(default_factory=lambda: deque(maxlen=NEWEST_SAVES))
    """Those for which training waited."""
    snapshot: float = 0.0
    """Seconds of the newest snapshot."""
    longest_save: float = 0.0
    longest_validation: float = 0.0
    highest_saved: int = 0
    """The highest step of which a checkpoint was written."""
    spikes: deque[SpikeLine] = field(default_factory=lambda: deque(maxlen=NEWEST_SPIKES))
    """The newest."""

    def add(self, lines: Iterable[MetricLine]) -> None:
        """Add the lines that follow those added so far."""
        for line in lines:
            if isinstance(line, StepLine):
                self._add_step(line)
            elif isinstance(line, ValidationLine):
                self.longest_validation = max(self.longest_validation, line.seconds)
            elif isinstance(line, SpikeLine):
                self.spikes.append(line)
            elif isinstance(line, SnapshotLine):
                self.snapshot = line.seconds
            elif isinstance(line, KeptLine):
                self.longest_save = max(self.longest_save, line.written)
            elif isinstance(line, SaveLine):
                self.saves.append(line.written)
                self.blocked.append(self.snapshot + line.seconds)
                self.longest_save = max(self.longest_save, line.written)
                self.highest_saved = max(self.highest_saved, line.step)

    def _add_step(self, line: StepLine) -> None:
        self.steps.append(line)
        if line.step <= FIRST_STEPS:
            self.first_losses[line.step] = line.loss

    def step_times(self, training: TrainingSpec | None) -> StepTimes | None:
        """Return the step times; None before the first save and the first step.

        Args:
            training: whose longest sequences the steps are to have; None for those they had.
        """
        if not self.saves or not self.steps:
            return None
        newest = list(self.steps)[-NEWEST_STEPS:]
        longer = training.longest_over if training else lambda step: 1.0
        steps = [line.seconds * longer(line.step) for line in newest]
        return StepTimes(
            quantile(self.saves, SLOW), quantile(steps, SLOW), quantile(self.blocked, SLOW)
        )


class MetricsReader:
    """The summary of a training's metrics, kept current: each line is read and parsed once."""

    def __init__(self, run: RunDir, stage: str, index: int = 0) -> None:
        self._log = MetricsLog(run, stage, index)
        self._summary = MetricsSummary()

    def current(self) -> MetricsSummary:
        """Return the summary up to now: the same object each time, with the new lines added."""
        self._summary.add(self._log.read_new())
        return self._summary


def measured_step_times(
    run: RunDir, stage: str, training: TrainingSpec | None = None, index: int = 0
) -> StepTimes | None:
    """Return ``MetricsSummary.step_times`` of a run's training."""
    return MetricsReader(run, stage, index).current().step_times(training)


def quantile(values: Iterable[float], share: float) -> float:
    """Return the least value that a share of all do not exceed (nearest rank); of a few, the
    largest.
    """
    ordered = sorted(values)
    return ordered[math.ceil(share * len(ordered)) - 1]


def perplexity(loss: float) -> float:
    """Return ``e`` to the power of a loss, at most the largest that a float64 can have."""
    return math.exp(min(loss, 709.0))


class CountedSteps(NamedTuple):
    """The steps that the newest attempt builds on, each once."""

    trained: list[StepLine]
    """By step."""
    validated: list[ValidationLine]
    """By step."""
    periods: list[PeriodLine]
    """By their last step."""
    skipped: list[SkipLine]
    """By step."""

    @property
    def last(self) -> int:
        """Return the last step that trained or was skipped; 0 before the first."""
        return max((lines[-1].step for lines in (self.trained, self.skipped) if lines), default=0)


def counted_steps(lines: Iterable[MetricLine]) -> CountedSteps:
    """Drop steps that were redone, or lost when an attempt resumed from an older checkpoint.

    A step, trained or skipped, that does not follow the ones before it shows that an attempt
    resumed from the checkpoint before that step: earlier lines of this step and of later ones do
    not count.

    Args:
        lines: of a training, oldest first.
    """
    found: dict[type[Any], dict[int, Any]] = {
        kind: {} for kind in (StepLine, ValidationLine, PeriodLine, SkipLine)
    }
    redone_from = math.inf
    for line in reversed(list(lines)):  # forwards, each resumption would pass over all steps before
        if type(line) in found and line.step < redone_from:
            found[type(line)].setdefault(line.step, line)
        if isinstance(line, StepLine | SkipLine):
            redone_from = min(redone_from, line.step)
    return CountedSteps(*([items[step] for step in sorted(items)] for items in found.values()))
