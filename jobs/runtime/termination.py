"""Run cleanup when a signal ends the process. Standard library only."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

TERMINATION_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
"""Sent by a shutdown, a batch system, or a terminal that closes."""


@contextmanager
def deferred_signals() -> Iterator[Callable[[], None]]:
    """Defer SIGTERM, SIGHUP and SIGINT inside the block, until the function that it yields is
    called: between starting a job and the code that cancels it, a signal would leave the job.

    Programs started inside the block inherit that (sigprocmask(2)).
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (*TERMINATION_SIGNALS, signal.SIGINT))

    def deliver() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    try:
        yield deliver
    finally:
        deliver()


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Raise SystemExit inside the block on SIGTERM and SIGHUP, with exit code 128 + signal.

    The first signal makes the process ignore the others, so that cleanup can finish. A signal that
    the caller ignores (nohup) stays ignored. Call it from the main thread (signal.signal).
    """
    previous = {number: signal.getsignal(number) for number in TERMINATION_SIGNALS}
    handled = [number for number, handler in previous.items() if handler != signal.SIG_IGN]

    def leave(received: int, _: FrameType | None) -> None:
        for number in handled:
            signal.signal(number, signal.SIG_IGN)
        raise SystemExit(128 + received)

    for number in handled:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, previous[number])
