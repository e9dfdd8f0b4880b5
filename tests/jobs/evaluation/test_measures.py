"""Measures of a score against scikit-learn and definitions."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from jobs.evaluation import measures

ITEMS = st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 4)), min_size=1, max_size=60)
"""The right choice of each item, and that which was given; -1 for none."""


@given(ITEMS)
def test_precision_recall_and_f1_are_those_of_scikit_learn(items: list[tuple[int, int]]) -> None:
    right, said = [item[0] for item in items], [item[1] for item in items]

    found = measures.classification(right, [() if one < 0 else (one,) for one in said])

    labels = sorted(set(right))
    known = {
        average: metrics.precision_recall_fscore_support(
            right, said, labels=labels, average=average, zero_division=0
        )
        for average in ("weighted", "macro")
    }
    assert (found.weighted_precision, found.weighted_recall, found.weighted_f1) == pytest.approx(
        known["weighted"][:3]
    )
    assert found.macro_f1 == pytest.approx(known["macro"][2])


def test_pubmedqas_constant_answer_has_the_published_measures() -> None:
    right = [0] * 276 + [1] * 169 + [2] * 55

    found = measures.fields(right, [(0,)] * 500, [1.0] * 276 + [0.0] * 224)

    assert found["weighted_recall"] == 0.552
    assert round(found["macro_f1"], 3) == 0.237


def test_choices_that_tie_share_an_answer() -> None:
    found = measures.classification([0, 1], [(0, 1), (1,)])

    # Choice 0 is given half of one answer, which is right; choice 1 one and a half, one of them.
    assert found.weighted_precision == pytest.approx((1 + 1 / 1.5) / 2)
    assert found.weighted_recall == pytest.approx((0.5 + 1) / 2)


def test_an_item_without_an_answer_is_not_valid() -> None:
    found = measures.fields([0, 1, 2, 0], [(0,), (), (1,), ()], [1.0, 0.0, 0.0, 0.0])

    assert (found["valid"], found["accuracy_valid"]) == (0.5, 0.5)
    assert measures.fields([0], [()], [0.0])["accuracy_valid"] is None


def by_definition(probabilities: list[list[float]], points: list[float]) -> float:
    """Return the error bin by bin, with edges at tenths."""
    sure = [max(each) for each in probabilities]
    error = 0.0
    for lowest in range(10):
        inside = [
            place
            for place, value in enumerate(sure)
            if lowest / 10 <= value < (lowest + 1) / 10 or (lowest == 9 and value == 1)
        ]
        if inside:
            gap = statistics.fmean(points[p] for p in inside) - statistics.fmean(
                sure[p] for p in inside
            )
            error += len(inside) / len(points) * abs(gap)
    return error


def test_the_calibration_error_is_that_of_its_definition() -> None:
    draw = random.Random(0)
    likelihoods = [[draw.gauss(-5, 2) for _ in range(draw.choice((3, 4, 5)))] for _ in range(500)]
    points = [draw.choice((0.0, 0.5, 1.0)) for _ in likelihoods]
    weights = [[math.exp(value) for value in values] for values in likelihoods]
    probabilities = [[value / sum(each) for value in each] for each in weights]

    found = measures.calibration_error(likelihoods, points)

    assert found == pytest.approx(by_definition(probabilities, points))


@pytest.mark.parametrize(
    ("likelihoods", "points", "error"),
    [
        ([[0.0, -1e9]] * 4, [1.0] * 4, 0.0),
        ([[0.0, -1e9]] * 4, [0.0] * 4, 1.0),
        ([[-2000.0, -2000.0]] * 4, [1.0, 0.0, 1.0, 0.0], 0.0),
    ],
)
def test_the_calibration_error_of_answers_that_are_certain_and_of_guesses(
    likelihoods: list[list[float]], points: list[float], error: float
) -> None:
    assert measures.calibration_error(likelihoods, points) == pytest.approx(error)


def test_the_spread_over_seeds_is_that_of_a_sample() -> None:
    found = measures.spread([0.40, 0.42, 0.47])

    assert found == pytest.approx({"mean": 0.43, "sd": 0.0360555, "variance": 0.0013}, rel=1e-5)
    assert measures.spread([0.4]) == {"mean": 0.4, "sd": None, "variance": None}


def test_accuracy_by_group_and_by_what_a_corpus_contained() -> None:
    groups = measures.by_group(["b", "a", "b"], [1.0, 0.5, 0.0])
    found = measures.matched({"q1": 1.0, "q2": 0.0, "q3": 1.0}, {"q2", "q3", "elsewhere"})

    assert [(name, one["n"], one["accuracy"]) for name, one in groups.items()] == [
        ("b", 2, 0.5),
        ("a", 1, 0.5),
    ]
    assert (found["matched"]["n"], found["matched"]["accuracy"]) == (2, 0.5)
    assert (found["not_matched"]["n"], found["not_matched"]["accuracy"]) == (1, 1.0)
    assert measures.matched({"q1": 1.0}, set())["matched"] is None
