"""Exclusive locks on files, freed by the kernel when their process dies. Standard library only."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

LOCK_POLL_SECONDS = 0.2


class Locked(Exception):
    """Another process holds the lock."""


@contextmanager
def locked(path: Path, holder: str = "") -> Iterator[None]:
    """Hold an exclusive lock on a file; the kernel frees it when the process dies.

    Args:
        holder: a word that ``holder_of`` tells those who find it held.

    Raises:
        Locked: somebody else holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Locked(str(path)) from error
        with suppress(OSError):  # a full disk must keep nobody from the lock
            file.truncate(0)
            if holder:
                file.write(holder.encode())
                file.flush()
                os.fsync(file.fileno())  # seen on other nodes while it is held
        yield


@contextmanager
def locked_within(
    path: Path,
    seconds: float,
    holder: str = "",
    give_up: Callable[[], object] = lambda: False,
) -> Iterator[None]:
    """The same, once whoever holds it lets it go.

    Args:
        seconds: to wait at most.
        give_up: asked after each failure; whether not to wait any longer.

    Raises:
        Locked: somebody else still holds it.
    """
    deadline = time.monotonic() + seconds
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(locked(path, holder))
                break
            except Locked:
                if time.monotonic() > deadline or give_up():
                    raise
            time.sleep(LOCK_POLL_SECONDS)
        yield


def holder_of(path: Path) -> str:
    """The word that whoever holds a lock has left, or who held it last; empty without one."""
    try:
        return path.read_text()
    except OSError:
        return ""
