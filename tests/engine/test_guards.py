"""The guard that finds spikes by comparing a step with those before it."""

from __future__ import annotations

import dataclasses
import math

import pytest

from jobs.contract.metrics_log import REWOUND, WARNED
from jobs.contract.stage_specs import CorpusWeight, PhaseSpec, PretrainSpec, TailSpec
from jobs.engine.stability.guards import (
    Guard,
    Step,
    recent_steps,
    rewinds,
    steps_before_mixture,
)

from .. import metric_lines
from .conftest import SPEC

WINDOW = dataclasses.replace(SPEC, spike_window=8)


def usual(number: int) -> Step:
    """Return a step of a training that learns slowly, with a little noise."""
    return Step(3.0 - 0.01 * number + 0.05 * (-1) ** number, 1.0 + 0.1 * (number % 3))


def guard(steps: int = 8, **settings: float) -> Guard:
    return Guard(dataclasses.replace(WINDOW, **settings), map(usual, range(steps)))


def test_a_step_as_those_before_is_none():
    assert guard().problem(9, usual(8)) == ""


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_always_a_problem(value):
    assert guard(0).problem(1, Step(value, 1.0)) == f"the loss of step 1 is {value}"
    assert guard(0).problem(1, Step(1.0, value)) == f"the gradient norm of step 1 is {value}"


def test_nothing_is_a_spike_before_the_window_is_full():
    assert guard(7).problem(8, Step(100.0, 1000.0)) == ""
    assert guard(8).problem(9, Step(100.0, 1000.0)) != ""


def test_a_loss_spikes_from_a_number_of_deviations_above_the_median():
    middle, deviation = guard().losses()

    below = guard().problem(9, Step(middle + 6.9 * deviation, 1.0))
    above = guard().problem(9, Step(middle + 7.1 * deviation, 1.0))

    assert below == ""
    assert "is 7.1 deviations above the median of 8 steps" in above
    assert guard(spike_deviations=8.0).problem(9, Step(middle + 7.1 * deviation, 1.0)) == ""


def test_a_low_loss_is_no_spike():
    assert guard().problem(9, Step(0.01, 1.0)) == ""


def test_losses_that_hardly_differ_have_a_least_deviation():
    steady = Guard(WINDOW, [Step(2.0, 1.0)] * 8)

    assert steady.problem(9, Step(2.1, 1.0)) == ""
    assert steady.problem(9, Step(2.2, 1.0)) != ""


def test_a_gradient_norm_spikes_from_a_multiple_of_the_median():
    assert guard().problem(9, Step(3.0, 10.9)) == ""
    assert "is 11 times the median of 8 steps, 1.1" in guard().problem(9, Step(3.0, 12.1))
    assert guard(spike_norm_factor=20.0).problem(9, Step(3.0, 12.1)) == ""


def test_earlier_spikes_do_not_hide_a_later_one():
    watch = guard(8)
    for _ in range(3):
        watch.add(Step(30.0, 50.0))

    assert watch.problem(12, Step(30.0, 50.0)) != ""


def test_a_level_that_lasts_is_none_after_half_of_the_window():
    watch = guard(8)
    for _ in range(5):
        watch.add(Step(30.0, 50.0))

    assert watch.problem(14, Step(30.0, 50.0)) == ""


def test_the_window_is_rebuilt_from_the_lines_that_count_up_to_a_step():
    lines = [
        *(metric_lines.step(number, loss=float(number)) for number in range(1, 10)),
        *(metric_lines.step(number, 2, loss=10.0 * number) for number in range(6, 8)),
    ]

    assert recent_steps(lines, 0, 6, 3) == [Step(4.0, 1.0), Step(5.0, 1.0), Step(60.0, 1.0)]
    assert recent_steps(lines, 4, 6, 3) == [Step(5.0, 1.0), Step(60.0, 1.0)]


def mixed(*phases: tuple[int, str, float | None]) -> PretrainSpec:
    """Return a training with phases: steps before each, its corpus, and the end of its tail."""
    tokens = SPEC.global_batch_size * SPEC.model.seq_length
    return dataclasses.replace(
        WINDOW,
        phases=tuple(
            PhaseSpec(
                step * tokens,
                "tokens",
                (CorpusWeight(corpus, 1.0),),
                None if rate is None else TailSpec(rate, "linear", WINDOW.train_steps),
            )
            for step, corpus, rate in phases
        ),
    )


def test_steps_of_another_mixture_are_not_compared():
    spec = mixed((0, "corpus", None), (8, "replay", None))
    before = Guard(spec, map(usual, range(8)))
    spike = Step(100.0, 1000.0)

    assert before.problem(8, spike) != ""
    assert before.problem(9, spike) == ""
    for number in range(8):
        before.add(usual(number))
    assert before.problem(17, usual(8)) == ""
    assert before.problem(17, spike) != ""


def test_a_resumed_training_compares_with_the_steps_of_its_mixture():
    spec = mixed((0, "corpus", None), (4, "replay", None))
    resumed = Guard(spec, map(usual, range(8)), before=4)

    assert resumed.problem(13, Step(100.0, 1000.0)) != ""


@pytest.mark.parametrize(("number", "before"), [(1, 0), (4, 0), (5, 4), (9, 4), (10, 9)])
def test_a_tail_alone_leaves_the_mixture_as_it_is(number, before):
    spec = mixed((0, "corpus", None), (4, "replay", None), (6, "replay", 1e-5), (9, "corpus", None))

    assert steps_before_mixture(spec, number) == before


def test_returns_are_counted_per_checkpoint():
    lines = [
        *map(metric_lines.step, range(1, 12)),
        metric_lines.spike(12, action=REWOUND, saved=10, first=12),
        *map(metric_lines.step, (11, 13)),
        metric_lines.spike(14, action=REWOUND, saved=10, first=12),
        *map(metric_lines.step, (11, *range(15, 24))),
        metric_lines.spike(24, action=REWOUND, saved=20, first=24),
        *map(metric_lines.step, (21, 22, 23, 25)),
        metric_lines.spike(26, action=WARNED),
        *map(metric_lines.step, range(26, 31)),
    ]

    assert [rewinds(lines, step) for step in (10, 20, 30)] == [2, 1, 0]


def test_checkpoints_of_skipped_steps_do_not_renew_the_number_of_returns():
    lines = [
        *map(metric_lines.step, range(1, 12)),
        metric_lines.spike(12, action=REWOUND, saved=10, first=11),
        *map(metric_lines.skip, (11, 12)),
        metric_lines.save(12),
        metric_lines.spike(13, action=REWOUND, saved=12, first=13),
        metric_lines.skip(13),
        metric_lines.save(13),
        metric_lines.spike(14, action=REWOUND, saved=13, first=14),
        metric_lines.skip(14),
    ]

    assert [rewinds(lines, step) for step in (9, 10, 12, 13, 14)] == [0, 1, 2, 3, 3]
    assert rewinds([*lines, metric_lines.step(15)], 15) == 0
