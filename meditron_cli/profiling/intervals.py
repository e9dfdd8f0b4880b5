"""Sets of intervals on a line, sorted and disjoint. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Intervals = Sequence[tuple[float, float]]
"""Begin and end of each, ascending, without overlap."""


def union(intervals: Iterable[tuple[float, float]]) -> Intervals:
    """Return what any of the intervals covers."""
    merged: list[tuple[float, float]] = []
    for begin, end in sorted(intervals):
        if end <= begin:
            continue
        if merged and begin <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        else:
            merged.append((begin, end))
    return merged


def intersection(one: Intervals, other: Intervals) -> Intervals:
    """Return what both cover."""
    found: list[tuple[float, float]] = []
    first = second = 0
    while first < len(one) and second < len(other):
        begin = max(one[first][0], other[second][0])
        end = min(one[first][1], other[second][1])
        if begin < end:
            found.append((begin, end))
        if one[first][1] < other[second][1]:
            first += 1
        else:
            second += 1
    return found


def difference(one: Intervals, other: Intervals) -> Intervals:
    """Return what the first covers and the second does not."""
    left: list[tuple[float, float]] = []
    place = 0
    for begin, end in one:
        while place < len(other) and other[place][1] <= begin:
            place += 1
        at = place
        while at < len(other) and other[at][0] < end:
            if other[at][0] > begin:
                left.append((begin, other[at][0]))
            begin = max(begin, other[at][1])
            at += 1
        if begin < end:
            left.append((begin, end))
    return left


def length(intervals: Intervals) -> float:
    """Return the sum of the lengths."""
    return sum(end - begin for begin, end in intervals)
