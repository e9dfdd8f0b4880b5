"""The run's event log: append one event, read all. Standard library only."""

from __future__ import annotations

import fcntl
import json
import os
import time
from typing import Any

from jobs.contract.files import FORMAT, read_lines
from jobs.contract.rundir import RunDir


def append_event(run: RunDir, kind: str, **fields: Any) -> None:
    """Append one event: ``{"format", "time", "event", …}`` on one line, under a file lock."""
    line = json.dumps(
        {"format": FORMAT, "time": time.time(), "event": kind, **fields}, sort_keys=True
    )
    with open(run.events, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # cut short by a crash: it must not swallow this one too
                file.write(b"\n")
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_events(run: RunDir) -> list[dict[str, Any]]:
    """All events, oldest first; a last line cut short by a crash is left out."""
    return list(read_lines(run.events))
