"""Exit records of a run, for assertions."""

from __future__ import annotations

from typing import Any

from jobs.contract.events import read_events
from jobs.contract.rundir import RunDir


def exits(run: RunDir, stage: str, attempt: int, index: int = 0) -> list[dict[str, Any]]:
    """Exit records of one attempt as the event log has them, what was only observed too."""
    wanted = {"stage": stage, "attempt": attempt, "index": index}
    return [
        event
        for event in read_events(run, ("exit", "observed"))
        if {key: event[key] for key in wanted} == wanted
    ]


def exit_of(run: RunDir, stage: str, attempt: int, index: int = 0) -> dict[str, Any]:
    """Return the one exit record of an attempt."""
    (record,) = exits(run, stage, attempt, index)
    return record
