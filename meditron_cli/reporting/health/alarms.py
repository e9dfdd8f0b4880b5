"""Alarms of a run: what the node monitors and the supervisor warned of while ranks ran."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from jobs.contract.events import NoteLog
from jobs.contract.rundir import RunDir

COLUMNS = ("time", "alarm", "where", "what")
SHOWN = 10
"""The newest alarms that ``status`` prints."""


@dataclass(frozen=True)
class RaisedAlarm:
    """An alarm of an attempt."""

    time: float
    stage: str
    index: int
    attempt: int
    code: str
    verdict: str
    node: str
    message: str

    def to_json(self) -> dict[str, Any]:
        """Return the alarm as ``--json`` prints it."""
        return asdict(self)


class AlarmLog:
    """Reads the alarms of a run that were raised since the last read."""

    def __init__(self, run: RunDir) -> None:
        self._log = NoteLog(run, {"alarm"})

    def read_new(self) -> list[RaisedAlarm]:
        """Return the new alarms, oldest first; lines that are none are skipped."""
        return [alarm for event in self._log.read_new() if (alarm := _alarm(event))]


def of_run(run: RunDir) -> list[RaisedAlarm]:
    """Return the alarms of a run, oldest first; lines that are none are skipped."""
    return AlarmLog(run).read_new()


def _alarm(event: dict[str, Any]) -> RaisedAlarm | None:
    try:
        return RaisedAlarm(**{name: event[name] for name in RaisedAlarm.__dataclass_fields__})
    except KeyError:
        return None


def newest(alarms: Iterable[RaisedAlarm]) -> list[RaisedAlarm]:
    """Return the newest alarm of each code and node, oldest first."""
    kept: dict[tuple[str, str], RaisedAlarm] = {}
    for alarm in alarms:
        kept.pop((alarm.code, alarm.node), None)
        kept[(alarm.code, alarm.node)] = alarm
    return list(kept.values())[-SHOWN:]
