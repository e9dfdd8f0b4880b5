"""Read ahead in a thread, in the order in which results are taken. Standard library only."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")

DEPTH = 2
"""Results that are read ahead at most: one ready, one in reading."""


class Prefetcher(Generic[T]):
    """One thread that reads the results after the one that was taken last."""

    def __init__(self, read: Callable[[int], T], following: Callable[[int], int | None]) -> None:
        """Start nothing yet: the first ``take`` does.

        Args:
            read: returns the result of a key; called in the thread alone, one key at a time.
            following: returns the key that is taken after a key, if nothing else is; None for none.
        """
        self._read = read
        self._following = following
        self._pending: deque[tuple[int, Future[T]]] = deque()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")

    def take(self, key: int) -> T:
        """Return the result of a key, and let the thread read those that follow.

        What was read for another key than this one is dropped.

        Raises:
            Exception: as ``read`` raised it for this key.
        """
        if not self._pending or self._pending[0][0] != key:
            self._drop()
            self._submit(key)
        _, result = self._pending.popleft()
        after = self._following(self._pending[-1][0] if self._pending else key)
        while after is not None and len(self._pending) < DEPTH:
            self._submit(after)
            after = self._following(after)
        return result.result()

    def close(self) -> None:
        """End the thread, once it has finished the read in progress."""
        self._drop()
        self._executor.shutdown()

    def _submit(self, key: int) -> None:
        self._pending.append((key, self._executor.submit(self._read, key)))

    def _drop(self) -> None:
        for _, result in self._pending:
            result.cancel()
        self._pending.clear()
