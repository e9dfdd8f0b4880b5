"""Paired tests and intervals against exact enumeration, scipy and published examples."""

from __future__ import annotations

import itertools
import random
import statistics
from fractions import Fraction
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from jobs.evaluation import comparison
from jobs.evaluation.comparison import Comparison, compare


@pytest.mark.parametrize(("gained", "lost"), list(itertools.product(range(7), repeat=2)))
def test_mcnemar_is_the_share_of_splits_that_are_as_unequal(gained: int, lost: int) -> None:
    n = gained + lost
    splits = [abs(2 * sum(wins) - n) for wins in itertools.product((0, 1), repeat=n)]
    as_unequal = sum(split >= abs(gained - lost) for split in splits)

    assert comparison.mcnemar(gained, lost) == float(Fraction(as_unequal, len(splits)))


@given(st.integers(0, 3_000), st.integers(0, 3_000))
def test_mcnemar_is_scipys_binomial_test(gained: int, lost: int) -> None:
    found = comparison.mcnemar(gained, lost)

    known = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert found == pytest.approx(known, rel=1e-9)


def test_questions_of_equal_points_do_not_count() -> None:
    first = {"a": [1.0], "b": [0.0], "c": [1 / 3], "d": [0.5], "e": [1.0]}
    second = {"e": [0.0], "d": [1.0], "c": [1 / 3], "b": [1.0], "a": [1.0]}

    found = compare(first, second)

    assert (found.n, found.gained, found.lost, found.p_value) == (5, 2, 1, 1.0)
    assert found.difference == pytest.approx((3 + 1 / 3 - 2 - 5 / 6) / 5)


def test_the_points_of_a_question_are_averaged_over_seeds() -> None:
    found = compare({"a": [1.0, 1.0, 0.0], "b": [0.0]}, {"a": [0.0, 1.0, 0.0], "b": [0.0]})

    assert found == Comparison(n=2, difference=pytest.approx(-1 / 6), gained=0, lost=1, p_value=1.0)


def test_scores_of_other_questions_are_not_paired() -> None:
    with pytest.raises(ValueError, match="different questions"):
        compare({"a": [1.0]}, {"b": [1.0]})


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.3))
def test_holm_rejects_what_its_step_down_procedure_rejects(
    p_values: list[float], level: float
) -> None:
    rejected = set()
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda n: p_values[n])):
        if p_values[place] * (len(p_values) - rank) > level:
            break
        rejected.add(place)

    corrected = comparison.holm(p_values)

    assert {place for place, value in enumerate(corrected) if value <= level} == rejected


def test_holm_keeps_the_order_it_was_given() -> None:
    assert comparison.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert comparison.holm([]) == []


def interval_of(*arguments: Any, **more: Any) -> tuple[float, float]:
    return comparison.interval([comparison.differences(*arguments, **more)])


def scored(seed: int, n: int, *shares: float) -> dict[str, list[float]]:
    draw = random.Random(seed)
    return {f"q{item}": [float(draw.random() < share) for share in shares] for item in range(n)}


def test_the_bootstrap_of_one_seed_is_scipys() -> None:
    first, second = scored(1, 300, 0.4), scored(2, 300, 0.5)
    differences = [second[name][0] - first[name][0] for name in first]

    found = interval_of(first, second, same_seeds=True)

    known = stats.bootstrap(
        (differences,),
        numpy.mean,
        n_resamples=10_000,
        method="percentile",
        rng=numpy.random.default_rng(5),
    ).confidence_interval
    # The ends of both are quantiles of 10,000 resamples, with a standard error of 0.0008.
    assert found == pytest.approx((known.low, known.high), abs=0.005)


def test_the_bootstrap_over_seeds_and_questions_is_every_resample_of_few() -> None:
    first = {"a": [1.0, 0.0], "b": [0.0, 0.5], "c": [1.0, 1.0]}
    second = {"a": [1.0, 1.0], "b": [1.0, 1 / 3], "c": [0.0, 1.0]}
    means = [
        statistics.fmean(second[item][seed] - first[item][seed] for item in items for seed in seeds)
        for items in itertools.product(first, repeat=3)
        for seeds in itertools.product(range(2), repeat=2)
    ]

    found = interval_of(first, second, same_seeds=True, resamples=100_000)

    assert found == pytest.approx(tuple(numpy.quantile(means, [0.025, 0.975])), abs=0.01)


def test_seeds_that_differ_are_drawn_apart() -> None:
    first, second = scored(1, 200, 0.1, 0.9), scored(1, 200, 0.1, 0.9)

    together = interval_of(first, second, same_seeds=True)
    apart = interval_of(first, second, same_seeds=False)

    assert together == (0.0, 0.0)
    assert apart[0] < -0.5
    assert apart[1] > 0.5


def test_the_bootstrap_is_the_same_each_time() -> None:
    first, second = scored(1, 50, 0.4, 0.5), scored(2, 50, 0.6, 0.5)
    found = [interval_of(first, second, same_seeds=True) for _ in range(2)]

    assert found[0] == found[1]


def test_benchmarks_whose_differences_are_averaged_are_drawn_apart() -> None:
    first, second = scored(1, 300, 0.4), scored(2, 300, 0.5)
    several = [
        comparison.differences(first, second, same_seeds=True, stream=number) for number in range(4)
    ]

    widths = [
        high - low for low, high in (interval_of(first, second, True), comparison.interval(several))
    ]

    # The mean of four independent differences has half the standard error of one.
    assert widths[1] / widths[0] == pytest.approx(0.5, abs=0.03)


def test_seeds_are_drawn_alike_for_benchmarks_that_are_averaged() -> None:
    first, second = scored(1, 300, 0.5, 0.5), {f"q{item}": [0.0, 1.0] for item in range(300)}
    several = [
        comparison.differences(first, second, same_seeds=True, stream=number) for number in range(9)
    ]

    low, high = comparison.interval(several)

    # Both seeds are the first, or the second, in every benchmark of a resample at once.
    assert low < -0.4
    assert high > 0.4
