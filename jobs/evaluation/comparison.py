"""Paired comparison of two models, or checkpoints, on the same questions.

The points of a question are 0 or 1, a fraction where the best choices tie, and one number per seed
of the demonstrations. The tests need the standard library only, the bootstrap numpy.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

Points = Mapping[str, Sequence[float]]
"""The points of each question, by its id: one number per seed, in the order of the seeds."""

RESAMPLES = 10_000


@dataclass(frozen=True)
class Comparison:
    """The second of two scores compared with the first."""

    n: int
    """Questions, the same for both."""
    difference: float
    """Accuracy of the second minus that of the first."""
    gained: int
    """Questions on which the second has more points."""
    lost: int
    """Questions on which it has fewer."""
    p_value: float
    """Two-sided, by McNemar's exact test."""


def compare(first: Points, second: Points) -> Comparison:
    """Compare two scores of the same questions.

    A question counts for the score that has more points on it, averaged over seeds; questions of
    equal points say nothing about a difference. With whole points and one seed this is McNemar's
    test, otherwise the sign test, of which it is a case.

    Raises:
        ValueError: the questions are not the same.
    """
    if first.keys() != second.keys():
        raise ValueError("two scores of different questions cannot be paired")
    pairs = [(statistics.fmean(first[name]), statistics.fmean(second[name])) for name in first]
    # Thirds add up to sums that differ in their last digit.
    gained = sum(after > before + 1e-9 for before, after in pairs)
    lost = sum(before > after + 1e-9 for before, after in pairs)
    return Comparison(
        n=len(pairs),
        difference=math.fsum(after - before for before, after in pairs) / len(pairs),
        gained=gained,
        lost=lost,
        p_value=mcnemar(gained, lost),
    )


def mcnemar(gained: int, lost: int) -> float:
    """Return the two-sided p-value of McNemar's exact test: how likely the questions on which two
    models differ are split so unequally, or more, if each were as likely to favour either.

    In whole numbers, so that small values keep their digits.
    """
    n = gained + lost
    splits = tail = 1
    for count in range(min(gained, lost)):
        splits = splits * (n - count) // (count + 1)
        tail += splits
    return min(1.0, 2 * tail / (1 << n))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number by Holm's step-down method, in the given order.

    S. Holm, Scandinavian Journal of Statistics 6 (1979) 65-70.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, p_values[place] * (len(p_values) - rank))
        corrected[place] = min(1.0, largest)
    return corrected


def differences(
    first: Points, second: Points, same_seeds: bool, resamples: int = RESAMPLES, stream: int = 0
) -> NDArray[numpy.float64]:
    """Return the difference of two mean accuracies on the same questions, the second minus the
    first, in each resample of a paired bootstrap over questions and seeds.

    Both models are given the same resampled questions, and the same resampled seeds where they had
    the same ones. A few seeds that are drawn again vary less than new ones would: with three, the
    part of the variance that is theirs is two thirds of what it ought to be.

    Args:
        first: of one model.
        second: of the other.
        same_seeds: whether both had the same seeds.
        resamples: how many.
        stream: of random numbers that draw questions. Two benchmarks whose differences are averaged
            need two; their seeds are drawn alike, as they are the same seeds.
    """
    import numpy

    draw, draw_questions = (numpy.random.default_rng([0, number]) for number in (0, 1 + stream))
    before, after = (
        numpy.array([scores[name] for name in first], float).T for scores in (first, second)
    )
    n, count = before.shape[1], len(before)
    chosen = numpy.sort(draw.integers(count, size=(resamples, count)))
    size = (resamples, len(after))
    others = chosen if same_seeds else numpy.sort(draw.integers(len(after), size=size))
    seeds, places = numpy.unique(numpy.hstack([chosen, others]), axis=0, return_inverse=True)
    means = numpy.empty(resamples)
    for number, row in enumerate(seeds):
        of_seeds = numpy.flatnonzero(places.ravel() == number)
        change = after[row[count:]].mean(axis=0) - before[row[:count]].mean(axis=0)
        # Differences have few values: to draw questions is to draw how many have each of them.
        values, having = numpy.unique(change.round(12), return_counts=True)
        drawn = draw_questions.multinomial(n, having / n, size=len(of_seeds))
        means[of_seeds] = drawn @ values / n
    return means


def interval(samples: Sequence[NDArray[numpy.float64]]) -> tuple[float, float]:
    """Return the 95 % interval, by percentiles, of the mean of several benchmarks' differences."""
    import numpy

    low, high = numpy.quantile(numpy.mean(samples, axis=0), [0.025, 0.975])
    return float(low), float(high)
