"""Measures of a score beside its accuracy. Standard library only.

An item's answer is the collection of choices that were given: one, several where the best ones tie,
none where a text could not be parsed. Of k choices that tie, each counts as 1/k of an answer.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jobs.evaluation.significance import wilson_interval

BINS = 10
"""Of confidence, equally wide, of the expected calibration error."""


@dataclass(frozen=True)
class Classification:
    """Precision, recall and F1 by choices, of which an answer without one counts to none."""

    weighted_precision: float
    """Weighted by how often each choice is right, as the next two."""
    weighted_recall: float
    weighted_f1: float
    macro_f1: float
    """The mean of all choices that are right at least once (PubMedQA's second measure)."""


def classification(right: Sequence[int], given: Sequence[Collection[int]]) -> Classification:
    """Return precision, recall and F1; 0 of a choice that is never given.

    Args:
        right: the right choice of each item.
        given: the choices that each item was answered with.
    """
    answers: defaultdict[int, float] = defaultdict(float)
    hits: defaultdict[int, float] = defaultdict(float)
    support: defaultdict[int, int] = defaultdict(int)
    for choice, chosen in zip(right, given, strict=True):
        support[choice] += 1
        for each in chosen:
            answers[each] += 1 / len(chosen)
        if choice in chosen:
            hits[choice] += 1 / len(chosen)
    rows = []
    for choice, count in sorted(support.items()):
        hit, said = hits[choice], answers[choice]
        rows.append((count, hit / said if said else 0.0, hit / count, 2 * hit / (said + count)))
    precision, recall, f1 = (
        math.fsum(row[0] * row[column] for row in rows) / len(right) for column in (1, 2, 3)
    )
    return Classification(precision, recall, f1, statistics.fmean(row[3] for row in rows))


def calibration_error(
    likelihoods: Sequence[Sequence[float]], points: Sequence[float], bins: int = BINS
) -> float:
    """Return the expected calibration error of answers chosen by likelihood.

    The confidence of an answer is the probability of the best choice when those of its choices are
    normalised to 1. Answers are put into ``bins`` equally wide ranges of it; the error is the mean,
    over answers, of the difference of accuracy and mean confidence of their range. C. Guo et al.,
    ICML 2017.

    Args:
        likelihoods: log-likelihoods (nats) of the choices of each item.
        points: of each item; of tied choices a fraction.
    """
    ranges: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
    for values, scored in zip(likelihoods, points, strict=True):
        best = max(values)
        confidence = 1 / math.fsum(math.exp(value - best) for value in values)
        ranges[min(int(confidence * bins), bins - 1)].append((confidence, scored))
    gaps = [abs(math.fsum(scored - sure for sure, scored in items)) for items in ranges.values()]
    return math.fsum(gaps) / len(points)


def fields(
    right: Sequence[int], given: Sequence[Collection[int]], points: Sequence[float]
) -> dict[str, Any]:
    """Return the measures of a score as fields of its results: those of ``Classification``, the
    share of valid answers, and the accuracy among these (None without any).
    """
    valid = sum(bool(chosen) for chosen in given)
    return {
        "valid": valid / len(given),
        "accuracy_valid": math.fsum(points) / valid if valid else None,
        **asdict(classification(right, given)),
    }


def spread(accuracies: Sequence[float]) -> dict[str, float | None]:
    """Return mean, sample standard deviation and sample variance over seeds; None of one seed."""
    several = len(accuracies) > 1
    return {
        "mean": statistics.fmean(accuracies),
        "sd": statistics.stdev(accuracies) if several else None,
        "variance": statistics.variance(accuracies) if several else None,
    }


def by_group(groups: Sequence[str], points: Sequence[float]) -> dict[str, dict[str, Any]]:
    """Return questions, accuracy and its 95 % interval of each group (a subject, a category), in
    the order of their first questions.
    """
    found: dict[str, list[float]] = {}
    for group, scored in zip(groups, points, strict=True):
        found.setdefault(group, []).append(scored)
    return {group: accuracy(scored) for group, scored in found.items()}


def accuracy(points: Sequence[float]) -> dict[str, Any]:
    """Return questions, accuracy and its 95 % interval."""
    total = math.fsum(points)
    interval = wilson_interval(total, len(points))
    return {"n": len(points), "accuracy": total / len(points), "ci95": list(interval)}


def matched(points: Mapping[str, float], found: Collection[str]) -> dict[str, Any]:
    """Return the accuracy on the questions that a training corpus contained, and on the others;
    None without such questions.

    Args:
        points: of each question, by its id.
        found: ids of the questions that were found in the corpus.
    """
    parts: tuple[list[float], list[float]] = ([], [])
    for name, scored in points.items():
        parts[name not in found].append(scored)
    inside, outside = (accuracy(part) if part else None for part in parts)
    return {"matched": inside, "not_matched": outside}
