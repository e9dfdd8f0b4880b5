"""Process states and identities from ``/proc``. Standard library only.

The start time in clock ticks since boot identifies a process exactly; psutil computes its start
from the boot time, which a set clock moves.
"""

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
    """Return the process of a pid, also a zombie; None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    return Process(state=fields[0], session=int(fields[3]), started=int(fields[19]))
