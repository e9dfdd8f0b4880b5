"""Record alarms of a task as ``alarm`` events of the run, each once an attempt. Standard library
only.
"""

from __future__ import annotations

import time

from jobs.contract import events
from jobs.contract.events import AlarmEvent
from jobs.contract.outcomes import Alarm
from jobs.notification.sender import Sender
from jobs.runtime.log import log
from jobs.supervision.attempt_records import AttemptRef


class AlarmLog:
    """The alarms of one attempt."""

    def __init__(self, attempt: AttemptRef, sender: Sender) -> None:
        self._attempt = attempt
        self._sender = sender
        self._raised: dict[tuple[str, str, str], str] = {}
        """Verdict by code, node and key."""
        self._waiting: list[AlarmEvent] = []
        """Alarms that are not recorded yet."""
        self._problem = ""

    def add(self, *alarms: Alarm) -> None:
        """Log and record the alarms that are new, or worse than before; and those that could not be
        recorded earlier. Many nodes may have the same trouble at once: they are written together,
        and one process sends them.
        """
        self._waiting += [self._event(alarm) for alarm in alarms if self._is_new(alarm)]
        if not self._waiting:
            return
        try:
            events.append(self._attempt.run, *self._waiting)
        except OSError as error:
            problem = f"alarms could not be recorded: {error.strerror}"
            if problem != self._problem:
                log(problem)
            self._problem = problem
            return
        self._waiting, self._problem = [], ""
        self._sender.send()

    def _is_new(self, alarm: Alarm) -> bool:
        key = (alarm.code, alarm.node, alarm.key)
        is_new = self._raised.get(key) != alarm.verdict
        self._raised[key] = alarm.verdict
        return is_new

    def _event(self, alarm: Alarm) -> AlarmEvent:
        log(f"{alarm.verdict} {alarm.sentence}")
        attempt = self._attempt
        return AlarmEvent(
            time.time(),
            attempt.stage,
            attempt.index,
            attempt.number,
            alarm.code,
            alarm.verdict,
            alarm.message,
            alarm.node,
        )
