"""Expand Slurm's host lists and number ranges."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product

NAME_PART = re.compile(r"\[([\d,-]+)\]|([^\[\]]+)")
"""A plain part of a node name, or a bracket of numbers."""


def node_names(text: str) -> tuple[str, ...]:
    """Return the nodes of ``gpu[01-03,07],login1``; none for ``(null)`` and ``None assigned``."""
    if not text or text.startswith(("(", "None")):
        return ()
    return tuple(name for part in re.split(r",(?![^\[]*\])", text) for name in _names(part))


def _names(part: str) -> Iterator[str]:
    pieces = [
        list(_padded(match[1])) if match[1] else [match[2]] for match in NAME_PART.finditer(part)
    ]
    return ("".join(words) for words in product(*pieces))


def _padded(text: str) -> Iterator[str]:
    """Yield ``01``, ``02``, ``07`` for ``01-02,07``: leading zeros stay."""
    for part in text.split(","):
        width = len(part.partition("-")[0])
        yield from (f"{number:0{width}d}" for number in numbers(part))


def numbers(text: str) -> Iterator[int]:
    """Yield the numbers of ``0,4-7`` and ``0-8:2``."""
    for part in text.split(","):
        ends, _, step = part.partition(":")
        first, _, last = ends.partition("-")
        yield from range(int(first), int(last or first) + 1, int(step or 1))
