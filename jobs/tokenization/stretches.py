"""Cut the shards of a corpus into stretches of whole lines. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

BYTES_PER_TOKEN = 3
"""Of a line: fewer than prose has, so that a stretch seldom holds more tokens than a dataset may.
"""
SCAN_BYTES = 1 << 20


class Stretch(NamedTuple):
    """Whole lines of a shard, by bytes."""

    path: Path
    begin: int
    end: int
    number: int
    """Of the shard's stretches, from 0."""


def stretches(path: Path, tokens: int, part: int = 0, parts: int = 1) -> Iterator[Stretch]:
    """Yield the stretches of a shard that task ``part`` of ``parts`` takes: every ``parts``-th.

    A stretch begins with the first line at or after a multiple of a number of bytes, so that the
    shard alone decides. One without a line is left out, unless the shard is empty.

    Args:
        tokens: that a dataset may have, about.
    """
    size, step = path.stat().st_size, tokens * BYTES_PER_TOKEN
    for number in range(part, max(1, -(-size // step)), parts):
        begin = _line_at(path, number * step, size)
        end = _line_at(path, (number + 1) * step, size)
        if begin < end or not size:
            yield Stretch(path, begin, end, number)


def _line_at(path: Path, place: int, size: int) -> int:
    """Return where the first line at or after a place begins."""
    if place == 0 or place >= size:
        return min(place, size)
    with path.open("rb") as file:
        file.seek(place - 1)
        while block := file.read(SCAN_BYTES):
            if (found := block.find(b"\n")) >= 0:
                return file.tell() - len(block) + found + 1
    return size
