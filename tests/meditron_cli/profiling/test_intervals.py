"""Arithmetic of sets of intervals, compared with sets of the unit intervals that they cover."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meditron_cli.profiling.intervals import Intervals, difference, intersection, length, union

ANY = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=8)


def cells(intervals: Intervals) -> set[int]:
    return {cell for begin, end in intervals for cell in range(int(begin), int(end))}


def are_disjoint(intervals: Intervals) -> bool:
    ends = [end for _, end in intervals]
    return all(end < begin for end, (begin, _) in zip(ends, intervals[1:], strict=False))


@given(ANY, ANY)
def test_sets_of_intervals_are_sets(one: list[tuple[int, int]], other: list[tuple[int, int]]):
    first, second = union(one), union(other)

    assert cells(first) == cells(one)
    assert cells(intersection(first, second)) == cells(first) & cells(second)
    assert cells(difference(first, second)) == cells(first) - cells(second)
    assert length(first) == len(cells(one))
    assert are_disjoint(first)
    assert are_disjoint(union([*first, *second]))
