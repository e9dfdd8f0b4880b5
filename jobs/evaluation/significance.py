"""The significance of an accuracy: a confidence interval, and a test against guessing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy
from scipy import stats


def wilson_interval(correct: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the confidence interval of a proportion by Wilson's score method.

    Without continuity correction. E. B. Wilson, JASA 22 (1927) 209-212; method 3 of
    R. G. Newcombe, Statistics in Medicine 17 (1998) 857-872. Unlike the normal approximation it
    stays inside [0, 1] and is usable at 0 and n.
    """
    interval = stats.binomtest(correct, n).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def p_value_above_chance(correct: int, chances: Sequence[float]) -> float:
    """Return the probability of ``correct`` or more right answers by guessing.

    Exact and one-sided; question i is guessed with probability ``chances[i]``. The number of right
    guesses is Poisson-binomial; if all questions have the same number of choices, this is the exact
    binomial test. Computed as the convolution of one binomial per distinct chance: only positive
    terms are added, so that small values keep their digits.
    """
    mass = numpy.ones(1)
    for chance, count in Counter(chances).items():
        mass = numpy.convolve(mass, stats.binom.pmf(numpy.arange(count + 1), count, chance))
    return min(1.0, float(mass[correct:].sum()))
