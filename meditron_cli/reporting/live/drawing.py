"""Lines of text that the live view is drawn with: bars, curves, strips. Pure."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich.text import Text

ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|.)")
"""A control sequence of a terminal, such as a colour or a title."""

COMMAND = re.compile(r"`[^`]*`")
BOUND = "\0"
"""Stands for a blank at which a line must not be broken."""

DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Bits of a braille character's dots: left and right column, from the top."""
BRAILLE = 0x2800
SETTLED = 0.15
"""Share of a curve, at its beginning, that may exceed the chart: the fall of a first loss would
flatten all that follows."""


@dataclass(frozen=True)
class Glyphs:
    """The characters of bars and strips."""

    full: str
    rest: str
    ended: str
    rule: str
    levels: str
    more: str


UNICODE = Glyphs("━", "─", "✗", "─", "▁▂▃▄▅▆▇█", "…")
ASCII = Glyphs("#", "-", "x", "-", "12345678", "~")
"""For terminals whose encoding lacks the others."""

Part = str | tuple[str, str]
"""A text, or a text and its style."""


def clean(text: str) -> str:
    """Return what a terminal would show of a line, without control characters: what a log contains
    must not move the cursor.
    """
    if text.isprintable():
        return text
    shown = ESCAPE.sub("", text).rstrip("\r\n").rpartition("\r")[2]
    return "".join(letter if letter.isprintable() else " " for letter in shown)


def line(*parts: Part) -> Text:
    """Return a line of parts."""
    pairs = [(part, "") if isinstance(part, str) else part for part in parts]
    return Text.assemble(
        *((clean(text), style) for text, style in pairs), no_wrap=True, overflow="ellipsis"
    )


def wrapped(text: str, width: int) -> list[str]:
    """Return a text in lines. A command between backticks stays in one line where it fits, since a
    line break in it would end it when it is pasted.
    """
    width = max(1, width)

    def keep(command: re.Match[str]) -> str:
        return command[0].replace(" ", BOUND) if len(command[0]) <= width else command[0]

    rows = textwrap.wrap(COMMAND.sub(keep, text), width, break_on_hyphens=False)
    return [row.replace(BOUND, " ") for row in rows]


def flow(items: Iterable[Text], width: int, gap: str = "  ") -> list[Text]:
    """Return items in as few lines as possible."""
    lines: list[Text] = []
    for item in items:
        if lines and lines[-1].cell_len + len(gap) + item.cell_len <= width:
            lines[-1].append(gap).append_text(item)
        else:
            lines.append(item.copy())
    return lines


def bar(share: float, width: int, style: str, glyphs: Glyphs) -> list[Part]:
    """Return a progress bar."""
    full = round(min(max(share, 0.0), 1.0) * width)
    return [(glyphs.full * full, style), (glyphs.rest * (width - full), "dim")]


def means(values: Sequence[float], count: int) -> list[float]:
    """Return the mean of each of ``count`` equal parts of a series; parts of a short one repeat."""
    size = len(values) / count
    parts = [
        values[int(i * size) : max(int((i + 1) * size), int(i * size) + 1)] for i in range(count)
    ]
    return [sum(part) / len(part) for part in parts]


def curve(values: Sequence[float], width: int, height: int, glyphs: Glyphs) -> list[str]:
    """Return the lines of a chart, with the highest and lowest value at their left.

    Args:
        values: one or more.
    """
    labels = 7
    across, down = (1, 1) if glyphs is ASCII else (2, 4)
    columns = means(values, max(1, width - labels) * across)
    settled = columns[int(SETTLED * len(columns)) :]
    low, high = min(columns), max(settled)
    rows = height * down
    scale = (rows - 1) / (high - low) if high > low else 0.0
    levels = [round((high - value) * scale) for value in columns]
    cells = [[0] * (len(columns) // across) for _ in range(height)]
    for place, level in enumerate(levels):
        if level < 0:
            continue  # above the chart
        before = max(0, levels[max(0, place - 1)])
        for row in range(min(level, before + 1), max(level, before - 1) + 1):
            cells[row // down][place // across] |= DOTS[place % across][row % down]
    empty = ord(" ") if glyphs is ASCII else BRAILLE
    names = {0: number(high), height - 1: number(low)} if height > 1 else {0: number(low)}
    return [
        names.get(place, "").rjust(labels - 1)
        + " "
        + "".join("*" if glyphs is ASCII and bits else chr(empty + bits) for bits in row)
        for place, row in enumerate(cells)
    ]


def number(value: float) -> str:
    """Return a number in six letters, for the label of a curve."""
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"


class Stretch(NamedTuple):
    """A stretch of a timeline."""

    began: float
    ended: float
    style: str
    is_broken: bool
    """Whether it ended before its task was done."""


def timeline(
    stretches: Iterable[Stretch], begin: float, end: float, width: int, glyphs: Glyphs
) -> list[Part]:
    """Return stretches of time as a strip from ``begin`` to ``end``; ends that broke off lie above
    what else happened at their time.
    """
    cells: list[tuple[str, str]] = [("·" if glyphs is UNICODE else ".", "dim")] * width
    scale = width / max(end - begin, 1e-9)

    def place(time: float) -> int:
        return min(max(int((time - begin) * scale), 0), width - 1)

    ordered = sorted(stretches)
    for item in ordered:
        first, last = place(item.began), place(item.ended)
        cells[first : last + 1] = [(glyphs.full, item.style)] * (last + 1 - first)
    for item in ordered:
        if item.is_broken:
            cells[place(item.ended)] = glyphs.ended, item.style
    return list(cells)


def level(percent: float | None, glyphs: Glyphs) -> str:
    """Return the glyph of a percentage; ``?`` where it was not read."""
    if percent is None:
        return "?"
    place = int(percent / 100 * len(glyphs.levels))
    return glyphs.levels[min(max(place, 0), len(glyphs.levels) - 1)]


def shortened(text: str, width: int, glyphs: Glyphs) -> str:
    """Return a name of at most ``width`` letters, without some of its middle: names of runs differ
    at both ends.
    """
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return text[: width - 1 - tail] + glyphs.more + text[len(text) - tail :]
