"""Units of measure. Standard library only."""

from collections.abc import Iterable

GIB = 2**30
"""Bytes. Every size named ``_gb`` is in this unit."""


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: ``1 task``, ``3 tasks``. The plural of the noun ends in s."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def ranges_text(numbers: Iterable[int]) -> str:
    """Return ascending numbers with consecutive ones together: ``7, 9-12``."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)
