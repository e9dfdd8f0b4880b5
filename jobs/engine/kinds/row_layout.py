"""Division of the rows of a global batch among micro-batches: side by side, or packed. Pure.

Both give every rank the same number of micro-batches, and each micro-batch at least one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

ROUND = 16
"""The tokens of a micro-batch are a multiple, as in MEDITRON (epfLLM/Megatron-LLM:finetune.py)."""


class Grid(NamedTuple):
    """The division of the rows of a global batch."""

    size: int
    """Rows of a micro-batch that lie side by side."""
    data: int
    """Ranks that divide a global batch."""
    even: int = 1
    """The micro-batches of a rank are a multiple, as interleaved pipeline stages need it."""


Division = list[list[list[int]]]
"""By rank and micro-batch, the places of its rows in the global batch."""


def side_by_side(lengths: Sequence[int], grid: Grid, *, by_length: bool) -> Division:
    """Divide rows that lie side by side, as many in each micro-batch.

    Args:
        lengths: of the rows, by their places.
        grid: how they are divided.
        by_length: rows of about the same length are in a micro-batch, the longest in the first:
            less padding, and the most memory at once. Otherwise rows stay in their order.
    """
    places = list(range(len(lengths)))
    if by_length:
        places.sort(key=lambda place: -lengths[place])
    size, stride = grid.size, grid.size * grid.data
    return [
        [places[at : at + size] for at in range(rank * size, len(places), stride)]
        for rank in range(grid.data)
    ]


def packed(lengths: Sequence[int], grid: Grid, capacity: int) -> Division:
    """Divide rows that lie one behind another, among as few micro-batches as hold them, so that all
    have about as many tokens: each row, from the longest on, goes where the fewest are.

    Args:
        lengths: of the rows, by their places.
        grid: how they are divided; the rows are a multiple of ``data * even``.
        capacity: tokens of a micro-batch; no row has more.
    """
    unit = grid.data * grid.even
    count = max(unit, -(-sum(lengths) // capacity))
    while True:
        count = min(-(-count // unit) * unit, len(lengths))
        bins: list[list[int]] = [[] for _ in range(count)]
        loads = [0] * count
        for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
            emptiest = min(range(count), key=loads.__getitem__)
            bins[emptiest].append(place)
            loads[emptiest] += lengths[place]
        if max(loads) <= capacity or count == len(lengths):
            break
        count += 1
    return [[sorted(rows) for rows in bins[rank :: grid.data]] for rank in range(grid.data)]


def rounded(tokens: int, multiple: int) -> int:
    """Return the tokens of a micro-batch with padding."""
    return -(-tokens // multiple) * multiple
