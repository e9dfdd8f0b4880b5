"""Choose one answer from several samples. Standard library only."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.evaluation.parser import LegacyRules


@dataclass(frozen=True)
class Vote:
    """The answer of one sample."""

    answer: int | None
    """Index of an option; None where the sample has no answer."""
    logprob: float
    """Of all tokens of the sample, in nats."""


def majority(votes: Sequence[Vote], seed: str) -> int | None:
    """Return the answer of most samples; None where no sample has one.

    Samples without an answer do not vote. Of answers with equally many votes, the one whose samples
    have the largest summed log-probability wins; of those that are equal in that too, one drawn
    with the seed.
    """
    samples: dict[int, list[float]] = {}
    for vote in votes:
        if vote.answer is not None:
            samples.setdefault(vote.answer, []).append(vote.logprob)
    if not samples:
        return None
    ranks = {answer: (len(each), math.fsum(each)) for answer, each in samples.items()}
    best = sorted(answer for answer, rank in ranks.items() if rank == max(ranks.values()))
    return random.Random(seed).choice(best)


def legacy_majority(replies: Sequence[str], rules: LegacyRules) -> str:
    """Return the commonest reply, of several the one that was given first, as released: replies
    without an answer vote with their whole text.
    """
    voting = [reply for reply in replies if rules.invalid_votes or rules.is_valid(reply)]
    return Counter(voting or replies).most_common(1)[0][0]
