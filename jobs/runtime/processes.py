"""Process states, identities and children from ``/proc``. Standard library only.

The start time in clock ticks since boot identifies a process exactly; psutil computes its start
from the boot time, which a set clock moves.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """From ``/proc/<pid>/stat`` (proc(5))."""

    state: str
    """A letter: R running, S asleep, D in a wait that nothing interrupts, T stopped, Z a zombie."""
    session: int
    started: int
    """Clock ticks since boot: with the pid it names a process beyond doubt."""


def read(pid: int) -> Process | None:
    """Return the process of a pid, also a zombie; None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    return Process(state=fields[0], session=int(fields[3]), started=int(fields[19]))


def running(pid: int, arguments: Sequence[str]) -> int | None:
    """Return the nearest process, among this one and those that it started, whose arguments are
    these; None without any.
    """
    level = [pid]
    while level:
        for each in level:
            if _arguments(each) == list(arguments):
                return each
        level = [child for each in level for child in _children(each)]
    return None


@contextmanager
def ending_children() -> Iterator[None]:
    """Kill, at the end, all that this process started within, and what these started.

    Other children stay: a program that a shell becomes by ``exec`` has those of the shell.
    """
    before = set(_children(os.getpid()))
    try:
        yield
    finally:
        found = [pid for pid in _children(os.getpid()) if pid not in before]
        for pid in found:  # which grows
            found += _children(pid)
        for pid in found:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def _arguments(pid: int) -> list[str]:
    """Return the arguments of a process, without its program."""
    try:
        text = Path(f"/proc/{pid}/cmdline").read_text(errors="surrogateescape")
    except OSError:
        return []
    return text.split("\0")[1:-1]


def _children(pid: int) -> list[int]:
    """Return the processes that the threads of a process started and that have not ended."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, path.read_text().split())
    return found
