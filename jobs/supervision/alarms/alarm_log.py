"""Record alarms of a task as ``alarm`` events of the run, each once an attempt. Standard library
only.
"""

from __future__ import annotations

import time

from jobs.contract.events import append_event, read_events
from jobs.contract.outcomes import Alarm
from jobs.notification.sender import Sender
from jobs.runtime.log import log
from jobs.supervision.attempt_records import AttemptRef

KIND = "alarm"


class AlarmLog:
    """The alarms of one attempt."""

    def __init__(self, attempt: AttemptRef) -> None:
        self._attempt = attempt
        self._sender = Sender(attempt.run)
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
            append_event(
                attempt.run,
                KIND,
                stage=attempt.stage,
                index=attempt.index,
                attempt=attempt.number,
                **alarm.to_json(),
            )
        except OSError as error:
            log(f"the alarm could not be recorded: {error.strerror}")
            return
        self._sender.send()

    def was_recorded(self, code: str, seconds: float) -> bool:
        """Return whether an alarm of a code was recorded within a time, by any attempt."""
        since = time.time() - seconds
        events = read_events(self._attempt.run, {KIND})
        return any(event.get("code") == code and event["time"] >= since for event in events)
