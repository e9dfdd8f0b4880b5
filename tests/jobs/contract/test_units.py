"""Counts with their nouns."""

from __future__ import annotations

import pytest

from jobs.contract.units import plural


@pytest.mark.parametrize(("count", "text"), [(0, "0 tasks"), (1, "1 task"), (2, "2 tasks")])
def test_one_thing_has_a_singular_noun(count: int, text: str) -> None:
    assert plural(count, "task") == text
