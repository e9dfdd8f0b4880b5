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


@pytest.mark.parametrize(
    ("value", "text"), [(482.93, "482.9 s"), (1.0, "1.0 s"), (0.0143, "14.3 ms"), (0, "0 ms")]
)
def test_short_times_are_in_milliseconds(value: float, text: str) -> None:
    assert figures.seconds_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(2e9, "2.0 GB/s"), (35.04e6, "35.0 MB/s"), (1200, "1.2 KB/s")]
)
def test_speeds_show_their_digits(value: float, text: str) -> None:
    assert figures.speed_text(value) == text
