"""Bars, curves and strips of the live view, and text that is safe to draw."""

from __future__ import annotations

import pytest

from meditron_cli.reporting.live.drawing import (
    ASCII,
    UNICODE,
    Stretch,
    bar,
    clean,
    curve,
    flow,
    level,
    line,
    means,
    shortened,
    timeline,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;a title\x07text", "text"),
        ("\x1b[2J\x1b[Hgone", "gone"),
        ("10 %\r20 %\r", "20 %"),
        ("a\tb\x00c\x9b31m", "a b c 31m"),
        ("plain\r\n", "plain"),
    ],
)
def test_text_of_a_log_cannot_move_the_cursor(text: str, shown: str) -> None:
    assert clean(text) == shown


@pytest.mark.parametrize(
    ("share", "shown"), [(0.0, "----"), (0.5, "##--"), (1.5, "####"), (-1, "----")]
)
def test_a_bar_is_as_full_as_its_share(share: float, shown: str) -> None:
    assert line(*bar(share, 4, "", ASCII)).plain == shown


def test_a_falling_curve_falls_on_the_chart() -> None:
    rows = curve([4.0, 3.0, 2.0, 1.0], 11, 4, ASCII)

    assert [row[:6].strip() for row in rows] == ["4.0000", "", "", "1.0000"]
    assert [row[7:].find("*") for row in rows] == [0, 1, 2, 3]


def test_the_fall_of_a_first_loss_does_not_flatten_the_rest() -> None:
    rows = curve([100.0] * 5 + [2.0] * 50 + [1.0] * 45, 27, 3, ASCII)

    assert rows[0].strip().startswith("2.0000 ")
    assert rows[0].count("*") == 10
    assert rows[2].count("*") >= 9


def test_braille_has_two_by_four_dots_in_a_letter() -> None:
    assert curve([1.0, 1.0, 4.0, 4.0], 9, 1, UNICODE) == ["1.0000 ⣀⠏"]
    assert curve([1, 2, 3, 4, 4, 3, 2, 1], 11, 2, UNICODE) == ["4.0000 ⠀⡜⠱⡀", "1.0000 ⡰⠁⠀⢣"]


def test_a_constant_curve_and_a_single_value_are_drawn() -> None:
    assert "*" in curve([2.0], 20, 4, ASCII)[0]
    assert curve([2.0, 2.0], 20, 4, ASCII)[0].count("*") == 13


def test_means_use_every_value_once_or_repeat_a_short_series() -> None:
    assert means([1.0, 3.0, 5.0, 7.0], 2) == [2.0, 6.0]
    assert means([1.0, 2.0], 4) == [1.0, 1.0, 2.0, 2.0]


def test_ends_that_broke_off_stay_visible_in_a_strip() -> None:
    """The next attempt begins in the same cell."""
    stretches = [Stretch(0, 50, "red", True), Stretch(51, 100, "green", False)]

    assert line(*timeline(stretches, 0, 100, 10, ASCII)).plain == "#####x####"
    assert line(*timeline([Stretch(20, 40, "", False)], 0, 100, 10, ASCII)).plain == "..###....."


def test_a_strip_holds_times_outside_its_range() -> None:
    strip = timeline([Stretch(-50, 500, "", False)], 0, 100, 5, ASCII)

    assert line(*strip).plain == "#####"
    assert line(*timeline([Stretch(7, 7, "", True)], 7, 7, 3, ASCII)).plain == "x.."


@pytest.mark.parametrize(
    ("percent", "glyph"),
    [(None, "?"), (0, "▁"), (12, "▁"), (50, "▅"), (100, "█"), (300, "█"), (-1, "▁")],
)
def test_levels_go_from_low_to_high(percent: float | None, glyph: str) -> None:
    assert level(percent, UNICODE) == glyph


def test_names_keep_both_ends() -> None:
    assert shortened("med-70b-long-7a5942cb", 12, UNICODE) == "med-70…942cb"
    assert shortened("short", 12, UNICODE) == "short"


def test_items_flow_into_lines() -> None:
    lines = flow([line("loss 2"), line("MFU 40%"), line("goodput 90%")], 16)

    assert [item.plain for item in lines] == ["loss 2  MFU 40%", "goodput 90%"]
