"""Divide a screen among sections, the most important first. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.text import Text

from meditron_cli.reporting.live.drawing import ASCII, Glyphs, line

TWO_COLUMNS = 140
"""Width from which sections stand in two columns."""
GAP = 3
PLAIN = str.maketrans({"…": "~", "°": " "})


@dataclass(frozen=True)
class Section:
    """A part of a page below its own title."""

    title: str
    draw: Callable[[int, int], list[Text]]
    """Returns its lines for a width and a height."""
    least: int
    """Lines without which it is left out."""
    most: int
    """Lines that it can use."""
    rank: int
    """The lowest gets its lines first."""
    right: bool = False
    """Whether it stands in the right one of two columns."""


def screen(
    head: Sequence[Text], sections: Sequence[Section], foot: Text, size: tuple[int, int],
    glyphs: Glyphs,
) -> list[Text]:  # fmt: skip
    """Return the lines of a screen, at most ``size`` in width and height."""
    width, height = size
    room = max(0, height - len(head) - 1)
    sections = [section for section in sections if section.most]
    half = column_width(width)
    if half < width and len({section.right for section in sections}) == 2:
        columns = [
            column([item for item in sections if item.right is right], half, room, glyphs)
            for right in (False, True)
        ]
        body = beside(columns[0], columns[1], half)
    else:
        body = column(sections, width, room, glyphs)
    lines = [*head, *body]
    blank = [line()] * max(0, height - 1 - len(lines))
    lines = [*lines[: max(0, height - 1)], *blank, foot]
    return fitted(lines, width, glyphs)


def column_width(width: int) -> int:
    """Return the width of a column, where both are used."""
    return (width - GAP) // 2 if width >= TWO_COLUMNS else width


def fitted(lines: Sequence[Text], width: int, glyphs: Glyphs) -> list[Text]:
    """Return lines cut to a width, of ASCII alone where the glyphs are."""
    for item in lines:
        item.truncate(width, overflow="ellipsis")
        if glyphs is ASCII:
            item.plain = item.plain.translate(PLAIN).encode("ascii", "replace").decode()
    return list(lines)


def column(sections: Sequence[Section], width: int, height: int, glyphs: Glyphs) -> list[Text]:
    """Return the lines of sections below each other."""
    lines: list[Text] = []
    for section, given in zip(sections, heights(sections, height), strict=True):
        if given:
            lines += [title(section.title, width, glyphs), *section.draw(width, given)[:given]]
    return lines


def heights(sections: Sequence[Section], height: int) -> list[int]:
    """Return the lines of each section without its title: first what each needs, then the rest, in
    the order of their ranks.
    """
    given = [0] * len(sections)
    order = sorted(range(len(sections)), key=lambda place: sections[place].rank)
    for place in order:
        need = sections[place].least + 1
        if need <= height:
            given[place], height = sections[place].least, height - need
    for place in order:
        if given[place]:
            more = min(height, sections[place].most - given[place])
            given[place], height = given[place] + more, height - more
    return given


def title(text: str, width: int, glyphs: Glyphs) -> Text:
    """Return the line above a section."""
    return line((f"{glyphs.rule}{glyphs.rule} ", "dim"), (text, "bold"), " ").append(
        glyphs.rule * max(0, width - len(text) - 4), "dim"
    )


def beside(left: Sequence[Text], right: Sequence[Text], width: int) -> list[Text]:
    """Return two columns as lines."""
    rows = []
    for number in range(max(len(left), len(right))):
        row = left[number].copy() if number < len(left) else line()
        row.truncate(width, overflow="ellipsis", pad=True)
        row.append(" " * GAP)
        rows.append(row.append_text(right[number]) if number < len(right) else row)
    return rows
