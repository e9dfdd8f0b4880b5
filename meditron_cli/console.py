"""Print data to stdout and everything else to stderr.

Colour only on a terminal, and not under ``NO_COLOR``; rich is imported only where it draws
something, so that ``status`` in a pipe starts fast. The streams are read at each call, as tests
replace them.
"""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress

FORMAT = 1

STYLES = {
    "succeeded": "green",
    "running": "cyan",
    "failed": "red",
    "unknown": "yellow",
    "stopped": "yellow",
    "cancelled": "yellow",
    "OK": "green",
    "WARN": "yellow",
    "DRAIN": "red",
    "FATAL": "red",
    "UNKNOWN": "yellow",
}
"""Words that have a colour when they fill a table's cell."""


DROPPED = {"jobs"}
"""Columns that a narrow terminal does not show."""
GAP = "  "
"""The separator of a table's columns."""
WORD_WIDTH = 24
"""Words up to this length are not broken where a table is wider than the terminal."""


_unread: set[int] = set()
"""The descriptors of streams whose reader has closed them."""


def data(text: str) -> None:
    """Print the output of a command to stdout; a missing last line break is added."""
    part(text if text.endswith("\n") else text + "\n")


def part(text: str) -> None:
    """Print a part of the output to stdout, unchanged."""
    _write(sys.stdout, text)


def note(text: str) -> None:
    """Print a note to stderr."""
    _write(sys.stderr, text + "\n")


def _write(stream: IO[str], text: str) -> None:
    """Write to a stream, and nothing more once its reader has closed it (``| head -1``): a command
    that has submitted jobs must not end there, and its exit code is its own.
    """
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        discard(stream)


def discard(stream: IO[str]) -> None:
    """Write what a stream holds, and all that follows, to the null device."""
    _unread.add(stream.fileno())
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def has_reader() -> bool:
    """Return whether what is printed to stdout can reach a reader; it cannot after the other end of
    a pipe was closed.
    """
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # a test's stream
        return True
    poll = select.poll()
    poll.register(descriptor, 0)
    is_closed = any(event & select.POLLERR for _, event in poll.poll(0))
    return descriptor not in _unread and not is_closed


def warning(text: str) -> None:
    """Print a warning to stderr."""
    note(f"warning: {text}")


def json_out(value: Mapping[str, Any]) -> None:
    """Print one JSON object to stdout, ``"format": 1`` first."""
    data(json.dumps({"format": FORMAT, **value}, indent=1))


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table to stdout: drawn to fit on a terminal, complete and in plain columns elsewhere.

    ``None`` is printed as ``-``.
    """
    cells = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    if fancy(sys.stdout):
        draw(columns, cells)
    else:
        data("\n".join(plain_table(columns, cells)))


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table, columns padded to their widest cell and two blanks apart."""
    lines = [list(columns), *(list(row) for row in rows)]
    widths = [max(len(line[number]) for line in lines) for number in range(len(columns))]
    return [
        GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def fancy(stream: IO[str]) -> bool:
    """Return whether a stream is a terminal with cursor control."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def clear() -> None:
    """Clear the screen when stdout is a terminal."""
    if fancy(sys.stdout):
        sys.stdout.write("\x1b[2J\x1b[H")


def progress() -> Progress:
    """Return progress bars on stderr (rich): description, bar, amount done, time left."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
    )


def draw(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to a terminal, cells wrapped to fit; where the words are too wide for that, in
    whole lines, which the terminal wraps.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = Console(file=sys.stdout)
    columns, rows = narrowed(columns, rows, terminal.width)
    widths = fitting_widths(columns, rows, terminal.width)
    if widths is None:
        data("\n".join(plain_table(columns, rows)))
        return
    # rich takes NO_COLOR as a ban on colours alone.
    drawn = Table(box=None, pad_edge=False, header_style="" if terminal.no_color else "bold")
    for column, width in zip(columns, widths, strict=True):
        drawn.add_column(column, overflow="fold", width=width)
    for row in rows:
        drawn.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    terminal.print(drawn)


def fitting_widths(
    columns: Sequence[str], rows: Sequence[Sequence[str]], width: int
) -> list[int] | None:
    """Return the width of each column in a table of at most ``width``, the widest ones narrowed
    first, no word of up to ``WORD_WIDTH`` broken; None where the words do not fit.
    """
    cells = [[column, *(row[number] for row in rows)] for number, column in enumerate(columns)]
    widths = [max(1, *map(len, column)) for column in cells]
    longest = [
        max(len(word) for cell in column for word in (cell.split() or [""])) for column in cells
    ]
    least = [min(max(1, length), WORD_WIDTH) for length in longest]
    room = width - len(GAP) * (len(columns) - 1)
    if sum(least) > room:
        return None
    while sum(widths) > room:
        spare = [number for number in range(len(widths)) if widths[number] > least[number]]
        widths[max(spare, key=widths.__getitem__)] -= 1
    return widths


def narrowed(
    columns: Sequence[str], rows: Sequence[Sequence[str]], width: int
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Return a table without its columns of job ids when it is wider than the terminal."""
    lines = plain_table(columns, rows)
    kept = [number for number, column in enumerate(columns) if column not in DROPPED]
    if max(map(len, lines)) <= width or len(kept) == len(columns):
        return columns, rows
    note("the terminal is narrow; columns left out: " + ", ".join(DROPPED & set(columns)))
    return [columns[number] for number in kept], [[row[number] for number in kept] for row in rows]
