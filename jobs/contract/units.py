"""Units of measure. Standard library only."""

GIB = 2**30
"""Bytes. Every size named ``_gb`` is in this unit."""


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: ``1 task``, ``3 tasks``. The plural of the noun ends in s."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
