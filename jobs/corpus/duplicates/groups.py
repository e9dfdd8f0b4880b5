"""Groups of equal values in sorted arrays, and sets of positions that are joined."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jobs.corpus.words import Rows

CHUNK = 1 << 20
"""Rows of a consecutive part."""


def group_starts(values: Rows) -> Rows:
    """Return where each run of equal values begins."""
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    return np.concatenate([np.zeros(min(len(values), 1), changes.dtype), changes])


def repeated(values: Rows) -> Rows:
    """Return which values occur more than once."""
    order = np.argsort(values)
    equal = values[order[1:]] == values[order[:-1]]
    found = np.zeros(len(values), np.bool_)
    found[order[1:][equal]] = True
    found[order[:-1][equal]] = True
    return found


def sizes(begins: Rows, total: int) -> Rows:
    """Return the sizes of the groups that begin there."""
    return np.diff(np.append(begins, total))


def chunks(total: int, size: int = CHUNK) -> Iterator[tuple[int, int]]:
    """Yield the bounds of consecutive parts, so that temporary arrays stay small."""
    for begin in range(0, total, size):
        yield begin, min(begin + size, total)


def unite(parents: Rows, left: Rows, right: Rows) -> None:
    """Join the sets of each pair; the smallest member of a set is its root."""
    while len(left):
        left, right = roots_of(parents, left), roots_of(parents, right)
        low, high = np.minimum(left, right), np.maximum(left, right)
        differ = low != high
        left, right = low[differ], high[differ]
        np.minimum.at(parents, right, left)


def roots_of(parents: Rows, members: Rows) -> Rows:
    """Return the roots of members, and make the members point to them."""
    roots = parents[members]
    while not np.array_equal(above := parents[roots], roots):
        roots = above
    parents[members] = roots
    return roots
