"""Write the message about what waits for a receiver. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from jobs.contract.notification import EVENTS
from jobs.contract.rundir import RunDir
from jobs.notification.outbox import Item

URGENCY = ("failed", "stopped", "finished", "node_excluded", "alarm", "preempted", "resumed")
"""The first of these in a message is its subject."""
MOST_LINES, MOST_LETTERS = 25, 600
"""Of a message, and of each line."""
SUBJECTS = {"node_excluded": "node excluded", "alarm": "alarm"}


@dataclass(frozen=True)
class Message:
    """A message to a receiver."""

    event: str
    """The most urgent one."""
    run: str
    title: str
    body: str


def write(run: RunDir, items: Mapping[str, Item]) -> Message:
    """Return the message about things of one run, oldest first."""
    parts = sorted(items.values(), key=lambda item: item.time)
    order = (*URGENCY, *EVENTS)
    first = min(parts, key=lambda item: order.index(item.event))
    parts, left = parts[-MOST_LINES:], len(parts) - MOST_LINES
    lines = [f"{left} earlier ones"] if left > 0 else []
    lines += [f"{datetime.fromtimestamp(item.time):%Y-%m-%d %H:%M} {_line(item)}" for item in parts]
    more = f" (and {len(items) - 1} more)" if len(items) > 1 else ""
    return Message(
        first.event,
        run.name,
        f"meditron: {run.name}: {SUBJECTS.get(first.event, first.event)}{more}",
        "\n".join([*lines, "", run.command("status")]),
    )


def _line(item: Item) -> str:
    """Return a line with characters that any receiver takes: text of a log may have others."""
    more = f" ({item.count} times)" if item.count > 1 else ""
    text = "".join(letter if letter.isprintable() else " " for letter in item.text)
    text = " ".join(text.split())
    return (text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}…") + more
