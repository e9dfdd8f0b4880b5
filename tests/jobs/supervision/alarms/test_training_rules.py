"""Alarms about a training: each with a series that raises it, and one that does not."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from jobs.contract.exit_record import ExitRecord
from jobs.contract.metrics_log import StepLine
from jobs.contract.outcomes import Alarm, RetryAction, RootCause
from jobs.supervision.alarms import training_rules

from .... import metric_lines

NOW = 1_700_000_000.0


def ended(*minutes_ago: float) -> list[ExitRecord]:
    """Attempts that ended so many minutes ago."""
    return [
        ExitRecord(
            "pretrain", 0, n, "7", RootCause.CRASH, RetryAction.SUBMIT, 0.0, NOW - 60 * minutes
        )
        for n, minutes in enumerate(minutes_ago)
    ]


def test_five_ends_within_half_an_hour_are_a_restart_storm() -> None:
    found = training_rules.restart_storm(ended(28, 20, 12, 5, 0), NOW)

    assert found == Alarm("restart_storm", "5 attempts ended within 30 minutes (crash)")
    assert training_rules.restart_storm(ended(200, 31, 20, 12, 5, 0), NOW) is None


def test_a_save_that_takes_three_times_as_long_is_reported() -> None:
    usual = [20.0, 25.0, 18.0, 30.0, 22.0]

    assert training_rules.slow_saves([*usual, 90.0]) == Alarm(
        "slow_storage", "a checkpoint took 90 s to write, 22 s is usual"
    )
    assert training_rules.slow_saves([*usual, 60.0]) is None
    assert training_rules.slow_saves([1.0, 1.0, 1.0, 1.0, 1.0, 8.0]) is None
    assert training_rules.slow_saves([20.0, 90.0]) is None


def lines(losses: Iterable[float], seconds: float = 3.0, every: float = 3.0) -> list[StepLine]:
    found = [metric_lines.step(n + 1, loss=loss, seconds=seconds) for n, loss in enumerate(losses)]
    return [
        metric_lines.step(
            line.step, loss=line.loss, seconds=seconds, time=NOW - every * (len(found) - line.step)
        )
        for line in found
    ]


def test_an_hour_with_little_training_is_reported() -> None:
    slow = lines([2.0] * 500, seconds=3.0, every=6.0)

    found = training_rules.low_goodput(slow, NOW - 7200, NOW)

    assert found is not None
    assert found.message == "only 50% of the last 50 minutes were spent in training steps"
    assert training_rules.low_goodput(lines([2.0] * 900, every=3.6), NOW - 7200, NOW) is None
    assert training_rules.low_goodput(slow, NOW - 1800, NOW) is None, "it has just begun"
    assert training_rules.low_goodput(slow[-100:], NOW - 7200, NOW) is None, "too few are known"
    assert training_rules.low_goodput([], NOW - 7200, NOW) is None


def test_one_pause_among_short_steps_is_not_an_hour_with_little_training() -> None:
    """Of a training with short steps less than an hour is known."""
    begun = NOW - 7200
    whole = [metric_lines.step(n, time=NOW - 1000 + n, seconds=1.0) for n in range(1000)]
    after_pause = [
        metric_lines.step(n, time=NOW - 1480 + n + (480 if n > 600 else 0), seconds=1.0)
        for n in range(1000)
    ]
    pauses = [
        metric_lines.step(n, time=NOW - 1600 + n + 60 * (n // 100), seconds=1.0)
        for n in range(1000)
    ]

    assert training_rules.low_goodput(after_pause, begun, NOW) is None
    assert training_rules.low_goodput(whole, begun, NOW + 480) is None
    assert training_rules.low_goodput(pauses, begun, NOW) is not None
    assert training_rules.low_goodput(whole, begun, NOW + 1100) is not None, "it may hang"


def test_a_loss_that_stays_above_its_best_is_reported() -> None:
    rising = lines([2.0] * 400 + [2.4] * 600)

    assert training_rules.rising_loss(rising) == Alarm(
        "rising_loss", "the loss of the last 600 steps is 2.4, and was 2 up to step 200"
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_noisy_loss_that_falls_or_rests_is_not_reported(seed: int) -> None:
    dice = random.Random(seed)
    falling = [2.5 - 0.0005 * n + dice.gauss(0, 0.2) for n in range(1000)]
    resting = [1.8 + dice.gauss(0, 0.2) for _ in range(1000)]
    spiking = [2.0 + (3.0 if n % 97 == 0 else 0.0) for n in range(1000)]

    for losses in (falling, resting, spiking, resting[:300]):
        assert training_rules.rising_loss(lines(losses)) is None


def test_a_training_whose_loss_is_where_it_began_is_reported() -> None:
    first = dict.fromkeys(range(1, 201), 2.0)
    resting, falling = lines([2.0] * 1000), lines([2.0] * 400 + [1.99] * 600)

    assert training_rules.stalled_learning(first, resting, 5000) == Alarm(
        "stalled_learning",
        "the loss of the last 600 steps is 2, and was 2 in the first 200: training has learnt "
        "nothing",
    )
    assert training_rules.stalled_learning(first, falling, 5000) is None
    assert training_rules.stalled_learning(first, resting, 5001) is None, "it may still begin to"
    assert training_rules.stalled_learning(first, resting[:999], 1000) is None
    assert training_rules.stalled_learning({}, resting, 1000) is None


@pytest.mark.parametrize("seed", range(5))
def test_a_loss_that_falls_from_a_bump_is_learning(seed: int) -> None:
    """The rate rose to its maximum: the loss is above the first ones, and falls."""
    dice = random.Random(seed)
    first = {n: 1.55 + dice.gauss(0, 0.05) for n in range(1, 201)}
    falling = [1.68 - 0.0001 * n + dice.gauss(0, 0.05) for n in range(1000)]
    resting = [1.60 + dice.gauss(0, 0.05) for n in range(1000)]

    assert training_rules.stalled_learning(first, lines(falling), 5000) is None
    assert training_rules.stalled_learning(first, lines(resting), 5000) is not None


def test_each_spike_is_an_alarm_of_its_own() -> None:
    spikes = [metric_lines.spike(7), metric_lines.spike(9)]

    found = list(training_rules.spikes(spikes))

    assert [alarm.key for alarm in found] == ["7", "9"]
    assert found[0].message == "the loss of step 7 is high: warned"
