"""Counts with their nouns."""

from __future__ import annotations

import pytest

from jobs.contract.units import plural, ranges_text


@pytest.mark.parametrize(("count", "text"), [(0, "0 tasks"), (1, "1 task"), (2, "2 tasks")])
def test_one_thing_has_a_singular_noun(count: int, text: str) -> None:
    assert plural(count, "task") == text


def test_consecutive_numbers_are_a_range():
    assert ranges_text([]) == ""
    assert ranges_text([3]) == "3"
    assert ranges_text([1, 2, 3, 7, 9, 10]) == "1-3, 7, 9-10"
