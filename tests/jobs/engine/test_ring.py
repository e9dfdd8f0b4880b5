"""Places in a piece of memory, taken in turn: apart while they are used, within the size."""

from __future__ import annotations

from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.engine.saving.ring import Ring


@given(st.integers(1, 40).flatmap(lambda size: st.tuples(st.just(size), sizes_up_to(size))))
def test_places_lie_within_the_memory_and_apart_from_those_not_written(
    drawn: tuple[int, list[int]],
) -> None:
    size, counts = drawn
    ring = Ring(size)
    held: list[tuple[int, int, Event]] = []

    def write_oldest() -> None:
        held.pop(0)[2].set()

    for count in counts:
        written = Event()
        start = ring.take(count, written, write_oldest)
        assert 0 <= start <= start + count <= size
        assert all(start + count <= first or end <= start for first, end, _ in held)
        if count:
            held.append((start, start + count, written))


def sizes_up_to(size: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, size), max_size=30)


@pytest.mark.parametrize(
    ("size", "counts", "waits"),
    [
        pytest.param(10, [4, 4, 2], 0, id="all fits"),
        pytest.param(10, [4, 4, 4], 1, id="waits for the oldest alone"),
        pytest.param(10, [4, 4, 4, 4], 2, id="the second round fits behind itself"),
        pytest.param(10, [1, 1, 1, 10], 3, id="waits for all that lies there"),
        pytest.param(0, [0, 0], 0, id="empty tensors"),
    ],
)
def test_only_what_is_too_much_is_waited_for(size: int, counts: list[int], waits: int) -> None:
    ring, held, waited = Ring(size), list[Event](), list[int]()

    def write_oldest() -> None:
        held[len(waited)].set()
        waited.append(1)

    for count in counts:
        held.append(Event())
        ring.take(count, held[-1], write_oldest)

    assert len(waited) == waits
