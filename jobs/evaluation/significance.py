"""The significance of an accuracy: a confidence interval, and tests against its baselines."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy
from scipy import stats


def wilson_interval(points: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the confidence interval of a proportion by Wilson's score method.

    Without continuity correction. E. B. Wilson, JASA 22 (1927) 209-212; method 3 of
    R. G. Newcombe, Statistics in Medicine 17 (1998) 857-872. Unlike the normal approximation it
    stays inside [0, 1] and is usable at 0 and n.

    Args:
        points: right answers; a tie that includes the right one is a fraction of a point.
        n: questions.
        level: of confidence.
    """
    z = float(stats.norm.ppf((1 + level) / 2))
    share, spread = points / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def p_value_above_majority(points: float, majority: float, n: int) -> float:
    """Return the probability of so many right answers, or more, where each of ``n`` is right with
    the probability of the commonest answer. Exact and one-sided.
    """
    return float(stats.binom.sf(whole(points) - 1, n, majority))


def p_value_above_chance(points: float, chances: Sequence[float]) -> float:
    """Return the probability of so many right answers, or more, by guessing.

    Exact and one-sided; question i is guessed with probability ``chances[i]``. The number of right
    guesses is Poisson-binomial; if all questions have the same number of choices, this is the exact
    binomial test. Computed as the convolution of one binomial per distinct chance: only positive
    terms are added, so that small values keep their digits.
    """
    mass = numpy.ones(1)
    for chance, count in Counter(chances).items():
        mass = numpy.convolve(mass, stats.binom.pmf(numpy.arange(count + 1), count, chance))
    return min(1.0, float(mass[whole(points) :].sum()))


def whole(points: float) -> int:
    """Return the whole points; thirds of a point may add up to a little less than one."""
    return math.floor(points + 1e-9)
