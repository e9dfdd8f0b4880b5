"""The learning rate in the tails of a schedule. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from jobs.contract.stage_specs import LINEAR, TailSpec

Tail = tuple[int, TailSpec]
"""Steps before the tail, and what it does."""


def rate(planned: Callable[[int], float], tails: Sequence[Tail], step: int) -> float:
    """Return the learning rate of a step: the planned one, until a tail begins; then the one
    between that of the last step before the tail and the one that the tail ends with.

    Args:
        planned: returns the rate of a step by the schedule without tails.
        tails: in their order.
        step: from 1.
    """
    begun = [tail for tail in tails if tail[0] < step]
    if not begun:
        return planned(step)
    first, tail = begun[-1]
    before = rate(planned, begun[:-1], first)
    progress = min(1.0, (step - first) / (tail.last_step - first))
    left = 1.0 - progress if tail.shape == LINEAR else 0.5 * (1.0 + math.cos(math.pi * progress))
    return tail.learning_rate + (before - tail.learning_rate) * left
