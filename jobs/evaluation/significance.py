"""The significance of an accuracy: confidence intervals, and tests against its baselines.

Intervals need the standard library only; the p-values need numpy and scipy.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist

Interval = tuple[float, float]


def wilson_interval(points: float, n: int, level: float = 0.95) -> Interval:
    """Return the confidence interval of a proportion by Wilson's score method.

    Without continuity correction. E. B. Wilson, JASA 22 (1927) 209-212; method 3 of
    R. G. Newcombe, Statistics in Medicine 17 (1998) 857-872. Unlike the normal approximation it
    stays inside [0, 1] and is usable at 0 and n.

    Args:
        points: right answers; a tie that includes the right one is a fraction of a point.
        n: questions.
        level: of confidence.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, spread = points / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def difference_interval(first: tuple[float, int], second: tuple[float, int]) -> Interval:
    """Return the 95 % interval of the difference of two proportions, the second minus the first,
    each given as points and questions.

    Method 10 of R. G. Newcombe, Statistics in Medicine 17 (1998) 873-890: of Wilson's intervals.
    It takes both for independent samples. Two models on the same questions differ less by chance,
    so that the interval is too wide rather than too narrow for them.
    """
    shares = [points / n for points, n in (first, second)]
    (low_1, high_1), (low_2, high_2) = wilson_interval(*first), wilson_interval(*second)
    difference = shares[1] - shares[0]
    return (
        difference - math.hypot(shares[1] - low_2, high_1 - shares[0]),
        difference + math.hypot(high_2 - shares[1], shares[0] - low_1),
    )


def p_value_above_majority(points: float, majority: float, n: int) -> float:
    """Return the probability of so many right answers, or more, where each of ``n`` is right with
    the probability of the commonest answer. Exact and one-sided.
    """
    from scipy import stats

    return float(stats.binom.sf(whole(points) - 1, n, majority))


def p_value_above_chance(points: float, chances: Sequence[float]) -> float:
    """Return the probability of so many right answers, or more, by guessing.

    Exact and one-sided; question i is guessed with probability ``chances[i]``. The number of right
    guesses is Poisson-binomial; if all questions have the same number of choices, this is the exact
    binomial test. Computed as the convolution of one binomial per distinct chance: only positive
    terms are added, so that small values keep their digits.
    """
    import numpy
    from scipy import stats

    mass = numpy.ones(1)
    for chance, count in Counter(chances).items():
        mass = numpy.convolve(mass, stats.binom.pmf(numpy.arange(count + 1), count, chance))
    return min(1.0, float(mass[whole(points) :].sum()))


def whole(points: float) -> int:
    """Return the whole points; thirds of a point may add up to a little less than one."""
    return math.floor(points + 1e-9)
