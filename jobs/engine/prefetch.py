"""Read ahead in a thread, in the order in which results are taken. Standard library only."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
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
        self._queue: queue.SimpleQueue[tuple[int, Future[T]] | None] = queue.SimpleQueue()
        """Still to be read; None is the end."""
        self._thread: threading.Thread | None = None

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
        """End the thread after the read in progress, without waiting for it: a rank that fails
        exits at once, also while storage does not answer.
        """
        self._drop()
        self._queue.put(None)

    def _submit(self, key: int) -> None:
        if self._thread is None:
            # A daemon: the process does not wait for it, as it would for an executor's thread.
            self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
            self._thread.start()
        future: Future[T] = Future()
        self._pending.append((key, future))
        self._queue.put((key, future))

    def _run(self) -> None:
        for key, future in iter(self._queue.get, None):
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._read(key))
            except Exception as error:  # whoever takes the result gets it
                future.set_exception(error)

    def _drop(self) -> None:
        for _, result in self._pending:
            result.cancel()
        self._pending.clear()
