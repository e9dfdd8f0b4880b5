"""Alarms of a run: what the node monitors and the supervisor warned of while ranks ran."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from jobs.contract.attempt_history import RunHistory
from jobs.contract.events import AlarmEvent

COLUMNS = ("time", "alarm", "where", "what")
SHOWN = 10
"""The newest alarms that ``status`` prints."""


def to_json(history: RunHistory) -> list[Mapping[str, Any]]:
    """Return the alarms of a run as ``--json`` prints them, oldest first."""
    return [alarm.to_json() for alarm in history.alarms]


def newest(alarms: Iterable[AlarmEvent]) -> list[AlarmEvent]:
    """Return the newest alarm of each code and node, oldest first."""
    kept: dict[tuple[str, str], AlarmEvent] = {}
    for alarm in alarms:
        kept.pop((alarm.code, alarm.node), None)
        kept[(alarm.code, alarm.node)] = alarm
    return list(kept.values())[-SHOWN:]
