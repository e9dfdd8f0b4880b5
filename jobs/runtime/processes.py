"""What the kernel says of a process. Standard library only."""

from __future__ import annotations

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
    """The process of a pid, be it a zombie; None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    return Process(state=fields[0], session=int(fields[3]), started=int(fields[19]))
