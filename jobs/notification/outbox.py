"""Decide what to send to which receiver, and when: each thing once, few messages an hour, nothing
lost. Kept in ``notify-state.json``. No file is read here, no clock. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from jobs.contract.json_fields import from_fields, moment
from jobs.contract.notification import EVENTS, NotifyTarget
from jobs.contract.units import Moment
from jobs.notification.news import News

REPEAT_SECONDS = 600.0
"""Between two messages for the same group of news; other messages include it earlier, and the last
one of a run.
"""
HOUR = 3600.0
TRIES_PER_HOUR = 12
"""Messages to a receiver that no run's end needs; more things wait for the next message."""
LAST_TRIES_PER_HOUR = 24
"""The same with messages about an end (stopped, failed, finished) and the last one of a run."""
LAST = ("stopped", "failed", "finished")
OLDEST_SECONDS = 24 * HOUR
"""Age of news that are still sent: new receivers do not get the whole past of a run."""
MOST_KEYS = 1000
"""Of news that are known, of which the newest are kept."""
MOST_BYTES = 1 << 62
"""Of a log: no file system has longer files."""


@dataclass
class Item:
    """News of one group that wait for a message."""

    event: str
    text: str
    """Of the newest one."""
    time: Moment
    count: int = 1

    def __post_init__(self) -> None:
        if self.event not in EVENTS:
            raise ValueError(f"{self.event!r} is no event")


@dataclass
class Receiver:
    """The news that wait for a receiver, and the messages it got."""

    items: dict[str, Item] = field(default_factory=dict)
    """By group."""
    tries: list[float] = field(default_factory=list)
    """Times of the messages of the last hour, delivered or not."""
    sent: dict[str, float] = field(default_factory=dict)
    """Time of the last message by group."""
    error: str = ""
    """Why the last message was not delivered."""

    def add(self, news: News) -> None:
        """Keep news for the next message."""
        before = self.items.get(news.group)
        count = before.count + 1 if before else 1
        self.items[news.group] = Item(news.event, news.text, news.time, count)

    def is_due(self, now: float, nothing_follows: bool = False) -> bool:
        """Return whether a message is to be sent now.

        Args:
            now: seconds since 1970.
            nothing_follows: whether the run has nothing more to do, so that no later message takes
                along what waits.
        """
        self.tries = [time for time in self.tries if 0 <= now - time < HOUR]
        fresh = [
            item
            for group, item in self.items.items()
            if nothing_follows or not 0 <= now - self.sent.get(group, 0.0) < REPEAT_SECONDS
        ]
        is_last = nothing_follows or any(item.event in LAST for item in fresh)
        most = LAST_TRIES_PER_HOUR if is_last else TRIES_PER_HOUR
        return bool(fresh) and len(self.tries) < most

    def begin(self, now: float) -> None:
        """Note that a message is sent; one whose process is killed counts too."""
        self.tries.append(now)

    def note(self, now: float, error: str) -> bool:
        """Note the result of a message with all that waited; return whether a failure is new."""
        is_new = bool(error) and error != self.error
        self.error = error
        if not error:
            self.sent = {k: t for k, t in self.sent.items() if now - t < REPEAT_SECONDS}
            self.sent |= dict.fromkeys(self.items, now)
            self.items = {}
        return is_new


@dataclass
class Outbox:
    """The part of a run's log that was read, and the receivers by name."""

    offset: int = 0
    """Bytes of the log that were read."""
    keys: dict[str, float] = field(default_factory=dict)
    """When each thing happened that was taken in."""
    receivers: dict[str, Receiver] = field(default_factory=dict)
    problem: str = ""
    """Why nothing can be sent to anybody."""

    def add(self, news: Iterable[News], targets: Iterable[NotifyTarget], now: float) -> None:
        """Take in what is new, for each receiver that asked for its event; forget receivers that
        are gone.
        """
        asked = {target.to: target.events for target in targets}
        self.receivers = {name: self.receivers.get(name) or Receiver() for name in asked}
        for item in news:
            if now - item.time > OLDEST_SECONDS or item.key in self.keys:
                continue
            self.keys[item.key] = item.time
            for name, names in asked.items():
                if item.event in names:
                    self.receivers[name].add(item)
        recent = [entry for entry in self.keys.items() if now - entry[1] <= OLDEST_SECONDS]
        self.keys = dict(recent[-MOST_KEYS:])

    def to_json(self) -> dict[str, Any]:
        """Return the content of the file."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Outbox:
        """Parse what ``to_json`` returned; an empty one of anything else, such as a file that was
        cut short.
        """
        try:
            receivers = {
                str(name): Receiver(
                    {group: from_fields(Item, item) for group, item in entry["items"].items()},
                    [moment(time) for time in entry["tries"]],
                    {group: moment(time) for group, time in entry["sent"].items()},
                    str(entry["error"]),
                )
                for name, entry in value["receivers"].items()
            }
            keys = {str(key): moment(time) for key, time in value["keys"].items()}
            offset = value["offset"]
            if type(offset) is not int or not 0 <= offset < MOST_BYTES:
                raise ValueError("not an offset")
            return cls(offset, keys, receivers, str(value["problem"]))
        except (LookupError, TypeError, ValueError, AttributeError):
            return cls()
