"""Exclusive file locks (flock(2)), which the kernel releases when their process ends.

Standard library only.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

LOCK_POLL_SECONDS = 0.2


class Locked(Exception):
    """Another process holds the lock."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, created if missing.

    A missing folder is an error: a run that was removed must not reappear.

    Raises:
        Locked: another process holds it.
        OSError: the file cannot be opened, or the storage has no locks.
    """
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Locked(str(path)) from error
        yield


@contextmanager
def locked_within(
    path: Path,
    seconds: float,
    give_up: Callable[[], object] = lambda: False,
) -> Iterator[None]:
    """Hold an exclusive lock on a file, and wait for its holder to release it.

    Args:
        seconds: longest wait.
        give_up: called after each failed try; a true result ends the wait.

    Raises:
        Locked: another process still holds it.
    """
    deadline = time.monotonic() + seconds
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(locked(path))
                break
            except Locked:
                if time.monotonic() > deadline or give_up():
                    raise
            time.sleep(LOCK_POLL_SECONDS)
        yield
