"""Rectangles of a range of a tensor's elements."""

from __future__ import annotations

import itertools
import math

import pytest

from jobs.engine.saving.rectangles import Rectangle, of_range


def elements(shape: tuple[int, ...], rectangle: Rectangle) -> list[int]:
    """Return the flat numbers of a rectangle's elements, in its own order."""
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    ranges = [
        range(start, start + count)
        for start, count in zip(rectangle.offset, rectangle.shape, strict=True)
    ]
    return [
        sum(place * stride for place, stride in zip(places, strides, strict=True))
        for places in itertools.product(*ranges)
    ]


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 4), (1, 5), (5, 1), (2, 3, 4)], ids=str)
def test_rectangles_hold_each_element_of_any_range_once_and_in_order(shape):
    for start, stop in itertools.combinations_with_replacement(range(math.prod(shape) + 1), 2):
        found = of_range(shape, start, stop)

        flat = [number for rectangle in found for number in elements(shape, rectangle)]
        assert flat == list(range(start, stop))
        assert len(found) <= 2 * len(shape) or shape == ()
        assert len({rectangle.offset for rectangle in found}) == len(found)


def test_a_range_of_a_matrix_is_the_rest_of_a_row_whole_rows_and_the_beginning_of_one():
    assert of_range((5, 10), 7, 42) == [
        Rectangle((0, 7), (1, 3)),
        Rectangle((1, 0), (3, 10)),
        Rectangle((4, 0), (1, 2)),
    ]
