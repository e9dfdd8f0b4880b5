"""What a person or a program reads: data to stdout, everything else to stderr.

Colour only on a terminal, and not under ``NO_COLOR``; rich is imported only where it draws
something, so that ``status`` in a pipe starts as fast as it can. The streams are looked up at each
call, as tests replace them.
"""

from __future__ import annotations

import json
import os
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


def data(text: str) -> None:
    """Print the answer of a command to stdout; a last line break is added where it is missing."""
    part(text if text.endswith("\n") else text + "\n")


def part(text: str) -> None:
    """Print a part of an answer to stdout, as it is."""
    sys.stdout.write(text)
    sys.stdout.flush()


def note(text: str) -> None:
    """Print a remark for people to stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def warning(text: str) -> None:
    """Print a warning to stderr."""
    note(f"warning: {text}")


def json_out(value: Mapping[str, Any]) -> None:
    """Print one JSON object to stdout, ``"format": 1`` first."""
    data(json.dumps({"format": FORMAT, **value}, indent=1))


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table to stdout: drawn to fit on a terminal, whole and in plain columns elsewhere.

    ``None`` stands as ``-``.
    """
    cells = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    if fancy(sys.stdout):
        _draw(columns, cells)
    else:
        data("\n".join(plain_table(columns, cells)))


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, columns padded to their widest cell and two blanks apart."""
    lines = [list(columns), *(list(row) for row in rows)]
    widths = [max(len(line[number]) for line in lines) for number in range(len(columns))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def fancy(stream: IO[str]) -> bool:
    """Whether a stream is a terminal that can draw."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def clear() -> None:
    """Empty the screen when stdout is a terminal; do nothing otherwise."""
    if fancy(sys.stdout):
        sys.stdout.write("\x1b[2J\x1b[H")


def progress() -> Progress:
    """Progress bars on stderr (rich): description, bar, what is done of the total, time left."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
    )


def _draw(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    Console(file=sys.stdout).print(drawn)
