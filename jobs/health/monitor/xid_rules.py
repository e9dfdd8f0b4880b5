"""Rules for XID errors that arrive while ranks run. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from jobs.health import xid
from jobs.health.findings import HealthVerdict, Outcome
from jobs.health.monitor.xid_events import XidEvent
from jobs.health.xid import XidAction

CONTAINED = 94
"""A contained memory error: the second one on a GPU condemns it (leptonai/gpud counts reboots)."""
BURST_SECONDS = 5.0
"""The same XID within so many seconds is one error (arXiv 2503.11901)."""

MOST_EVENTS = 100
"""Of one number on one GPU that are counted: a program may cause thousands a second."""

VERDICTS = {
    XidAction.IGNORE: HealthVerdict.OK,
    XidAction.REPORT: HealthVerdict.WARN,
    XidAction.RETRY: HealthVerdict.WARN,
    XidAction.CONFIRM: HealthVerdict.WARN,
    XidAction.EXCLUDE: HealthVerdict.FATAL,
    XidAction.REPAIR: HealthVerdict.FATAL,
}
"""An error of the program ends the ranks by itself; the node must not be blamed for it."""


@dataclass(frozen=True)
class XidOutcome:
    """The outcome of one XID on one GPU, from its first occurrence on."""

    gpu: int | None
    uuid: str
    time: float
    outcome: Outcome


def outcomes(events: Iterable[XidEvent]) -> Iterator[XidOutcome]:
    """Yield one outcome per GPU and number; numbers to ignore are omitted."""
    groups: dict[tuple[int | None, str, int], list[float]] = {}
    for event in events:
        groups.setdefault((event.gpu, event.uuid, event.number), []).append(event.time)
    for (gpu, uuid, number), times in groups.items():
        action = xid.action(number)
        verdict = VERDICTS[action]
        errors = 1 + sum(b - a > BURST_SECONDS for a, b in itertools.pairwise(times))
        if number == CONTAINED and errors > 1:
            verdict = HealthVerdict.FATAL
        if verdict is HealthVerdict.OK:
            continue
        evidence = {"xid": number, "times": len(times), "action": action.value}
        repeated = f", {len(times)} times" if len(times) > 1 else ""
        repeated += " or more" if len(times) == MOST_EVENTS else ""
        message = f"XID {number}: {xid.meaning(number)}{repeated}"
        yield XidOutcome(gpu, uuid, times[0], Outcome(verdict, message, evidence))
