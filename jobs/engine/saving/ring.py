"""Take places in a piece of memory in turn, each free again once what lies there is written.
Standard library only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Event


class Ring:
    """The places of one save. The oldest are free first, so that only as much is waited for as is
    too much for the memory.
    """

    def __init__(self, size: int) -> None:
        """Take nothing yet of ``size`` bytes."""
        self._size = size
        self._end = 0
        """Bytes passed so far, in all rounds."""
        self._taken: deque[tuple[int, Event]] = deque()
        """Where each begins, counted like these, and whether it is written; oldest first."""

    def take(self, count: int, written: Event, before_wait: Callable[[], None]) -> int:
        """Wait until ``count`` contiguous bytes are free, and return their offset.

        Args:
            count: no more than the size.
            written: set once they are free again.
            before_wait: called before each wait; hands over what is to be written.
        """
        if not count:
            return 0
        start = self._end
        if start % self._size + count > self._size:  # does not fit behind the last
            start += self._size - start % self._size
        while self._taken and start + count > self._taken[0][0] + self._size:
            before_wait()
            self._taken.popleft()[1].wait()
        self._taken.append((start, written))
        self._end = start + count
        return start % self._size
