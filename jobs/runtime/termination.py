"""Run cleanup when a signal ends the process. Standard library only."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

TERMINATION_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
"""Sent by a shutdown, a batch system, or a terminal that closes."""


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
