"""How far an accuracy can be trusted: a confidence interval, and a test against guessing.

Not named ``statistics``: the standard library has a module of that name (STYLE T2).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy
from scipy import stats


def wilson_interval(correct: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a proportion by Wilson's score method, without continuity correction.

    E. B. Wilson, JASA 22 (1927) 209-212; method 3 of R. G. Newcombe, Statistics in Medicine 17
    (1998) 857-872. Unlike the normal approximation it stays inside [0, 1] and is usable at 0 and n.
    """
    found = stats.binomtest(correct, n).proportion_ci(level, method="wilson")
    return float(found.low), float(found.high)


def p_value_above_chance(correct: int, chances: Sequence[float]) -> float:
    """Probability of ``correct`` right answers or more by guessing, question i with ``chances[i]``.

    Exact and one-sided. The number of right guesses is Poisson-binomial; where all questions have
    the same number of choices this is the exact binomial test. Computed as the convolution of one
    binomial a distinct chance: only positive terms are added, so that small values keep digits.
    """
    mass = numpy.ones(1)
    for chance, count in Counter(chances).items():
        mass = numpy.convolve(mass, stats.binom.pmf(numpy.arange(count + 1), count, chance))
    return min(1.0, float(mass[correct:].sum()))
