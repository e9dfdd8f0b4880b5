"""Alarms about a training over time. Pure; numbers without a source are guesses.

Nothing is decided here: an alarm is recorded, shown and sent.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence

from jobs.contract.exit_record import ExitRecord
from jobs.contract.metrics_log import SpikeLine, StepLine
from jobs.contract.outcomes import Alarm

STORM_ATTEMPTS = 5
STORM_SECONDS = 1800.0
"""Restart storm (NVIDIA resiliency extension, examples/fault_tolerance/deployment/watch)."""

SAVE_FACTOR = 3.0
SAVE_SECONDS = 30.0
EARLIER_SAVES = 5

GOODPUT_SECONDS = 3600.0
LEAST_SECONDS = 900.0
GOODPUT = 0.7
"""Least share of the time that should be spent in training steps."""

SMOOTHED = 200
"""Steps of which the mean loss is compared."""
LOSS_FACTOR = 1.05
LOSS_PERIODS = 3
"""Means in a row that exceed the best one."""
STALLED_STEPS = 1000
STALLED_SHARE = 0.2
"""Of all steps: a rate that rises again lets the loss of a trained model rise at first."""
FALLING = 2.0
"""Standard errors by which a loss falls that is learning."""


def restart_storm(endings: Sequence[ExitRecord], now: float) -> Alarm | None:
    """Report many attempts that ended in a short time."""
    recent = [ending for ending in endings if now - ending.ended <= STORM_SECONDS]
    if len(recent) < STORM_ATTEMPTS:
        return None
    causes = ", ".join(sorted({ending.cause.value for ending in recent}))
    minutes = STORM_SECONDS / 60
    return Alarm(
        "restart_storm", f"{len(recent)} attempts ended within {minutes:.0f} minutes ({causes})"
    )


def slow_saves(saves: Sequence[float]) -> Alarm | None:
    """Report a save that took far longer than those before it.

    Args:
        saves: seconds from the beginning of each to its commit, the newest last.
    """
    earlier = saves[:-1]
    if len(earlier) < EARLIER_SAVES:
        return None
    usual = statistics.median(earlier)
    if saves[-1] < max(SAVE_SECONDS, SAVE_FACTOR * usual):
        return None
    return Alarm(
        "slow_storage", f"a checkpoint took {saves[-1]:.0f} s to write, {usual:.0f} s is usual"
    )


def low_goodput(steps: Sequence[StepLine], began: float, now: float) -> Alarm | None:
    """Report an hour of which too little was spent in training steps.

    Args:
        steps: the newest, in order, of which the first may be younger than an hour.
        began: when the attempt began: only whole hours of it count.
        now: seconds since 1970.
    """
    if not steps or began > now - GOODPUT_SECONDS:
        return None
    start = max(now - GOODPUT_SECONDS, steps[0].time)
    if now - start < LEAST_SECONDS:
        return None
    trained = sum(line.seconds for line in steps if line.time > start)
    share = trained / (now - start)
    if share >= GOODPUT:
        return None
    longest = max(
        later - line.time
        for line, later in zip(steps, [*(one.time for one in steps[1:]), now], strict=True)
    )
    # The steps may be too short for those that are known to fill an hour: one pause is no rate.
    is_hour = start == now - GOODPUT_SECONDS
    is_pause = trained >= GOODPUT * (now - start - longest)
    if is_pause and not is_hour and now - start - trained < (1 - GOODPUT) * GOODPUT_SECONDS:
        return None
    minutes = (now - start) / 60
    return Alarm(
        "goodput",
        f"only {share:.0%} of the last {minutes:.0f} minutes were spent in training steps",
    )


def rising_loss(steps: Sequence[StepLine]) -> Alarm | None:
    """Report a loss that stays above the best it had: training diverges.

    Args:
        steps: those trained so far, as far as they are known.
    """
    count = len(steps) // SMOOTHED
    if count <= LOSS_PERIODS:
        return None
    blocks = [steps[len(steps) - SMOOTHED * number :][:SMOOTHED] for number in range(count, 0, -1)]
    means = [statistics.fmean(line.loss for line in block) for block in blocks]
    best = min(means[:-LOSS_PERIODS])
    if min(means[-LOSS_PERIODS:]) <= LOSS_FACTOR * best:
        return None
    step = blocks[means.index(best)][-1].step
    return Alarm(
        "rising_loss",
        f"the loss of the last {LOSS_PERIODS * SMOOTHED} steps is {means[-1]:.4g}, and was "
        f"{best:.4g} up to step {step:,}",
    )


def stalled_learning(
    first: Mapping[int, float], steps: Sequence[StepLine], total: int
) -> Alarm | None:
    """Report a loss that is not below that of the first steps after a fifth of the training.

    Args:
        first: losses of the first steps, by step.
        steps: the newest.
        total: number of steps of the whole training.
    """
    newest = [line.loss for line in steps][-LOSS_PERIODS * SMOOTHED :]
    if not first or len(newest) < LOSS_PERIODS * SMOOTHED:
        return None
    if steps[-1].step < max(STALLED_STEPS, STALLED_SHARE * total):
        return None
    now, before = statistics.fmean(newest), statistics.fmean(first.values())
    if now < before or is_falling([line.loss for line in steps]):
        return None
    return Alarm(
        "stalled_learning",
        f"the loss of the last {len(newest)} steps is {now:.4g}, and was {before:.4g} in the first "
        f"{len(first)}: training has learnt nothing",
    )


def is_falling(losses: Sequence[float]) -> bool:
    """Return whether the later half of some losses is below the earlier one by more than noise."""
    half = len(losses) // 2
    halves = losses[:half], losses[half:]
    earlier, later = map(statistics.fmean, halves)
    noise = math.sqrt(sum(statistics.variance(part) / len(part) for part in halves))
    return earlier - later > FALLING * noise


def spikes(lines: Iterable[SpikeLine]) -> Iterator[Alarm]:
    """Yield an alarm per spike."""
    for line in lines:
        yield Alarm("loss_spike", f"{line.problem}: {line.action}", key=str(line.step))
