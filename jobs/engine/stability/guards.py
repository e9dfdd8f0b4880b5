"""Find steps whose loss or gradient norm is not finite or spikes, and decide what follows. Pure.

Every rank decides alike: from values that are reduced over all ranks, and from the steps that
trained before, which the metrics have, so also after a restart.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from jobs.contract.metrics_log import (
    REWOUND,
    MetricLine,
    SpikeLine,
    counted_steps,
)
from jobs.contract.stage_specs import TrainingSpec

GAUSSIAN = 1.4826
"""Standard deviations per median absolute deviation of a normal distribution (Rousseeuw and Croux
1993, doi:10.1080/01621459.1993.10476408)."""
FLOOR = 0.01
"""Least deviation of the losses, as a share of their median (guess): where losses hardly differ,
one that is a little higher is no spike."""
LEAST = 1e-9
"""Least deviation of losses that are all zero, in nats."""
MOST_SKIPPED = 20
"""Steps in a row that training decides to skip before it stops (guess): then they are no
exceptions."""
MOST_REWINDS = 3
"""Returns to the same weights before training stops (guess)."""


class Step(NamedTuple):
    """A step's loss in nats per token, and its gradient norm before clipping."""

    loss: float
    norm: float

    @property
    def finite(self) -> bool:
        """Return whether neither is NaN or infinite."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


class Guard:
    """The steps of a mixture that trained last, with which the next one is compared."""

    def __init__(self, spec: TrainingSpec, recent: Iterable[Step] = (), before: int = 0) -> None:
        """Compare with these steps, oldest first; with none before there are ``spike_window``.

        Args:
            before: ``steps_before_mixture`` of them.
        """
        self._spec = spec
        self._before = before
        self.recent: deque[Step] = deque(recent, maxlen=spec.spike_window)

    def add(self, step: Step) -> None:
        """Add a step that trained."""
        self.recent.append(step)

    def problem(self, number: int, step: Step) -> str:
        """Return why a step is not as those before it, in one sentence; empty where it is.

        A loss spikes that is more than ``spike_deviations`` above the median of the window: OLMo 2
        counts losses seven standard deviations from the mean of the last 1,000 (arXiv 2501.00656,
        section 3). The median and the median absolute deviation stand for the two, since earlier
        spikes hardly change them. A gradient norm spikes that is more than ``spike_norm_factor``
        times the median: megatron.core 0.16.1 reports one of ten times the largest of the first
        hundred (distributed/param_and_grad_buffer.py).
        """
        for name, value in (("loss", step.loss), ("gradient norm", step.norm)):
            if not math.isfinite(value):
                return f"the {name} of step {number} is {value}"
        before = steps_before_mixture(self._spec, number)
        if before != self._before:
            self._before = before
            self.recent.clear()
        if len(self.recent) < self._spec.spike_window:
            return ""
        middle, deviation = self.losses()
        if step.loss > middle + self._spec.spike_deviations * deviation:
            above = (step.loss - middle) / deviation
            return (
                f"the loss of step {number}, {step.loss:.4g}, is {above:.3g} deviations above the "
                f"median of {len(self.recent)} steps, {middle:.4g}"
            )
        usual = self.norm()
        if usual and step.norm > self._spec.spike_norm_factor * usual:
            return (
                f"the gradient norm of step {number}, {step.norm:.4g}, is {step.norm / usual:.3g} "
                f"times the median of {len(self.recent)} steps, {usual:.4g}"
            )
        return ""

    def losses(self) -> tuple[float, float]:
        """Return the median of the losses, and their deviation."""
        values = [step.loss for step in self.recent]
        middle = median(values)
        spread = median(abs(value - middle) for value in values)
        return middle, max(GAUSSIAN * spread, FLOOR * abs(middle), LEAST)

    def norm(self) -> float:
        """Return the median of the gradient norms."""
        return median(step.norm for step in self.recent)


def steps_before_mixture(spec: TrainingSpec, number: int) -> int:
    """Return the steps before the mixture and the sequence length of a step: losses of other tokens
    and of longer sequences have another level, which is no spike.
    """
    first = 0
    for earlier, start in pairwise(spec.starts):
        before, phase = earlier.phase, start.phase
        changes = (before.by, before.weights) != (phase.by, phase.weights)
        changes |= earlier.sequence_length != start.sequence_length
        if changes and start.first_step < number:
            first = start.first_step
    return first


def recent_steps(lines: Iterable[MetricLine], before: int, step: int, window: int) -> list[Step]:
    """Return the steps that trained after ``before`` up to a step and count, at most ``window``,
    oldest first.
    """
    trained = [line for line in counted_steps(lines).trained if before < line.step <= step]
    return [Step(line.loss, line.grad_norm) for line in trained[-window:]]


def rewinds(lines: Iterable[MetricLine], saved: int) -> int:
    """Return how often training returned to the weights of a checkpoint because of a spike: to it,
    or to one before it, since which every step was skipped.
    """
    lines = tuple(lines)
    trained = (line.step for line in counted_steps(lines).trained if line.step <= saved)
    last = max(trained, default=0)
    returns = (
        line.saved for line in lines if isinstance(line, SpikeLine) and line.action == REWOUND
    )
    return sum(step is not None and last <= step <= saved for step in returns)
