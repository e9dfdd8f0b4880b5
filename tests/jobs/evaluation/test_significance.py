"""Intervals and tests against published values and exact rational arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.evaluation import significance

# Newcombe 1998, table I, method 3 (score, no continuity correction).
PUBLISHED_INTERVALS = [
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0000, 0.1611),
    (1, 29, 0.0061, 0.1718),
]


@pytest.mark.parametrize(("correct", "n", "low", "high"), PUBLISHED_INTERVALS)
def test_the_interval_is_the_published_wilson_interval(correct, n, low, high):
    assert significance.wilson_interval(correct, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_solves_the_score_equation_and_holds_the_proportion(pair):
    correct, n = pair

    low, high = significance.wilson_interval(correct, n)

    proportion = correct / n
    assert 0 <= low <= proportion + 1e-12
    assert proportion - 1e-12 <= high <= 1
    for bound in (low, high):
        if 1e-9 < bound < 1 - 1e-9:
            score = abs(proportion - bound) / math.sqrt(bound * (1 - bound) / n)
            assert score == pytest.approx(1.959963984540054, rel=1e-6)


def exact_tail(correct: int, chances: list[Fraction]) -> Fraction:
    """Return P(at least ``correct`` successes), one question at a time in rational numbers."""
    mass = [Fraction(1)]
    for chance in chances:
        stay = [value * (1 - chance) for value in mass] + [Fraction(0)]
        step = [Fraction(0)] + [value * chance for value in mass]
        mass = [a + b for a, b in zip(stay, step, strict=True)]
    return sum(mass[correct:], Fraction(0))


@settings(max_examples=60)
@given(st.lists(st.integers(2, 6), min_size=1, max_size=40), st.data())
def test_the_p_value_is_the_exact_poisson_binomial_tail(choices, data):
    correct = data.draw(st.integers(0, len(choices)))

    found = significance.p_value_above_chance(correct, [1 / count for count in choices])

    exact = exact_tail(correct, [Fraction(1, count) for count in choices])
    assert found == pytest.approx(float(exact), rel=1e-9)


def test_equal_choices_give_the_binomial_tail():
    found = significance.p_value_above_chance(140, [0.25] * 400)

    tail = sum(math.comb(400, k) * 3 ** (400 - k) for k in range(140, 401))
    assert found == pytest.approx(tail / 4**400, rel=1e-9)


def test_a_perfect_score_keeps_its_tiny_p_value():
    assert significance.p_value_above_chance(500, [0.25] * 500) == pytest.approx(
        0.25**500, rel=1e-9
    )


def test_no_right_answer_has_p_value_one():
    assert significance.p_value_above_chance(0, [0.25] * 30 + [0.5] * 7) == pytest.approx(1.0)


def test_a_fraction_of_a_point_counts_in_the_interval():
    low, high = significance.wilson_interval(10.5, 40)

    assert significance.wilson_interval(10, 40)[0] < low < significance.wilson_interval(11, 40)[0]
    assert significance.wilson_interval(10, 40)[1] < high < significance.wilson_interval(11, 40)[1]


def test_always_giving_the_commonest_answer_is_no_evidence():
    """200 times A on a sample of MedMCQA, of which A is right 71 times."""
    assert significance.p_value_above_majority(71, 71 / 200, 200) > 0.4
    assert significance.p_value_above_chance(71, [0.25] * 200) < 0.001


@settings(max_examples=60)
@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.data())
def test_the_p_value_above_the_majority_is_the_exact_binomial_tail(pair, data):
    correct, n = pair
    commonest = data.draw(st.integers(1, n))

    found = significance.p_value_above_majority(correct, commonest / n, n)

    exact = exact_tail(correct, [Fraction(commonest, n)] * n)
    assert found == pytest.approx(float(exact), rel=1e-9)


def test_a_fraction_of_a_point_makes_no_score_more_significant():
    assert significance.p_value_above_majority(
        10.5, 0.4, 20
    ) == significance.p_value_above_majority(10, 0.4, 20)
    assert significance.p_value_above_chance(10.5, [0.5] * 20) == significance.p_value_above_chance(
        10, [0.5] * 20
    )


def test_parts_of_points_that_add_up_to_a_whole_one_count_as_one():
    points = sum([0.1] * 10)

    assert points < 1
    assert significance.p_value_above_majority(
        points, 0.4, 20
    ) == significance.p_value_above_majority(1, 0.4, 20)


# Newcombe 1998, Statistics in Medicine 17, 873-890, table II, method 10: contrasts (a) to (h).
PUBLISHED_DIFFERENCES = [
    ((56, 70), (48, 80), 0.0524, 0.3339),
    ((9, 10), (3, 10), 0.1705, 0.8090),
    ((6, 7), (2, 7), 0.0582, 0.8062),
    ((5, 56), (0, 29), -0.0381, 0.1926),
    ((0, 10), (0, 20), -0.1611, 0.2775),
    ((0, 10), (0, 10), -0.2775, 0.2775),
    ((10, 10), (0, 20), 0.6791, 1.0000),
    ((10, 10), (0, 10), 0.6075, 1.0000),
]


@pytest.mark.parametrize(("second", "first", "low", "high"), PUBLISHED_DIFFERENCES)
def test_the_interval_of_a_difference_is_the_published_one(second, first, low, high):
    assert significance.difference_interval(first, second) == pytest.approx((low, high), abs=6e-5)
