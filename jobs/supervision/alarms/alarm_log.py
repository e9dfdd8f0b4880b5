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

    def add(self, alarm: Alarm) -> None:
        """Log and record an alarm that is new, or worse than before."""
        key = (alarm.code, alarm.node, alarm.key)
        if self._raised.get(key) == alarm.verdict:
            return
        self._raised[key] = alarm.verdict
        log(f"{alarm.verdict} {alarm.sentence}")
        attempt = self._attempt
        try:
            events.append(
                attempt.run,
                AlarmEvent(
                    time.time(),
                    attempt.stage,
                    attempt.index,
                    attempt.number,
                    alarm.code,
                    alarm.verdict,
                    alarm.message,
                    alarm.node,
                ),
            )
        except OSError as error:
            log(f"the alarm could not be recorded: {error.strerror}")
            return
        self._sender.send()
