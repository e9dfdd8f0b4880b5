"""Divide a contiguous range of a tensor's elements into rectangles. Pure; no torch."""

from __future__ import annotations

import math
from typing import NamedTuple


class Rectangle(NamedTuple):
    """A rectangle of a tensor: all elements from an offset on, in a shape."""

    offset: tuple[int, ...]
    shape: tuple[int, ...]


def of_range(shape: tuple[int, ...], start: int, stop: int) -> list[Rectangle]:
    """Return the rectangles that hold the elements ``start`` to ``stop`` of a tensor, in order.

    The elements of each are contiguous, and follow those of the one before it; a matrix has at most
    three: the rest of a row, whole rows, the beginning of a row.

    Args:
        shape: of the tensor, in row-major order.
        start: the first element.
        stop: behind the last one.
    """
    if start >= stop:
        return []
    if len(shape) <= 1:
        return [Rectangle((start,), (stop - start,)) if shape else Rectangle((), ())]
    row = math.prod(shape[1:])
    first, behind = divmod(start, row)
    last, rest = divmod(stop, row)
    if first == last:
        return _in_row(shape, first, behind, rest)
    found = []
    if behind:
        found += _in_row(shape, first, behind, row)
        first += 1
    if first < last:
        found.append(Rectangle((first, *(0 for _ in shape[1:])), (last - first, *shape[1:])))
    return found + _in_row(shape, last, 0, rest)


def _in_row(shape: tuple[int, ...], row: int, start: int, stop: int) -> list[Rectangle]:
    return [
        Rectangle((row, *offset), (1, *size)) for offset, size in of_range(shape[1:], start, stop)
    ]
