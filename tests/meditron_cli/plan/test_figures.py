"""Figures in short."""

from __future__ import annotations

import pytest

from meditron_cli.plan import figures


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1000, "1.0K"), (48.2e9, "48.2B"), (2.1e12, "2.1T"), (3.3e6, "3.3M")],
)
def test_counts_are_short(value: float, text: str) -> None:
    assert figures.count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(512, "0.5 KiB"), (2**20, "1.0 MiB"), (19.4 * 2**30, "19.4 GiB"), (3 * 2**40, "3.0 TiB")],
)
def test_sizes_are_in_binary_units(value: float, text: str) -> None:
    assert figures.size(value) == text
