"""Expand Slurm's host lists and number ranges."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product

NAME_PART = re.compile(r"\[([\d,-]+)\]|([^\[\]]+)")
"""A plain part of a node name, or a bracket of numbers."""


def node_names(text: str) -> tuple[str, ...]:
    """The nodes of ``gpu[01-03,07],login1``, one by one; ``(null)`` and ``None assigned`` are
    none.
    """
    if not text or text.startswith(("(", "None")):
        return ()
    return tuple(name for part in re.split(r",(?![^\[]*\])", text) for name in _names(part))


def _names(part: str) -> Iterator[str]:
    pieces = [
        list(_numbers(match[1])) if match[1] else [match[2]] for match in NAME_PART.finditer(part)
    ]
    return ("".join(words) for words in product(*pieces))


def _numbers(ranges: str) -> Iterator[str]:
    """``01``, ``02``, ``07`` of ``01-02,07``: leading zeros stay."""
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        for number in range(int(first), int(last or first) + 1):
            yield f"{number:0{len(first)}d}"


def _bounds(part: str) -> tuple[int, int, int]:
    """First, last and step of ``7``, ``4-9`` or ``0-8:2``."""
    ends, _, step = part.partition(":")
    first, _, last = ends.partition("-")
    return int(first), int(last or first), int(step or 1)
