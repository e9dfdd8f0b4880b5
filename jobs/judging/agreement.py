"""Scores from verdicts, and the agreement of a judge with people."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Hashable, Sequence

from jobs.questions.healthbench import Criterion

RESAMPLES = 10_000


def rubric_score(criteria: Sequence[Criterion], verdicts: Sequence[bool | None]) -> float | None:
    """Return the share of the possible points that a reply has: below 0 where its faults weigh
    more. A criterion without a verdict counts on neither side; None where no points are left.
    """
    judged = [pair for pair in zip(criteria, verdicts, strict=True) if pair[1] is not None]
    possible = math.fsum(each.points for each, _ in judged if each.points > 0)
    if not possible:
        return None
    return math.fsum(each.points for each, is_met in judged if is_met) / possible


def clipped_mean(scores: Sequence[float]) -> float:
    """Return the mean of replies' scores, between 0 and 1: as published, the mean is clipped and
    not each score (openai/simple-evals:healthbench_eval.py).
    """
    return min(1.0, max(0.0, statistics.fmean(scores)))


def bootstrap_interval(scores: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the clipped mean by percentiles of a bootstrap over replies."""
    import numpy

    values = numpy.array(scores, float)
    draw = numpy.random.default_rng(0)
    means = [draw.choice(values, len(values)).mean() for _ in range(RESAMPLES)]
    low, high = numpy.quantile(numpy.clip(means, 0, 1), [0.025, 0.975])
    return float(low), float(high)


def kappa(pairs: Sequence[tuple[Hashable, Hashable]]) -> float | None:
    """Return Cohen's kappa of two raters: their agreement beyond that of chance, which is expected
    from how often each gives each grade (J. Cohen, Educational and Psychological Measurement 20
    (1960) 37-46). None where chance alone agrees always, and without grades.
    """
    n = len(pairs)
    first, second = (Counter(pair[side] for pair in pairs) for side in (0, 1))
    observed = sum(one == other for one, other in pairs) * n
    expected = sum(count * second[grade] for grade, count in first.items())
    if expected == n * n:
        return None
    return (observed - expected) / (n * n - expected)
