"""The models of notifications."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator

from jobs.contract.notification import DEFAULT_EVENTS, Event
from meditron_cli.config.field_types import VARIABLE, has_form, text
from meditron_cli.config.section import Section


def valid_secret_name(value: str) -> str:
    """Accept the name of a line in a secrets file, but no address."""
    if not has_form(VARIABLE, value):
        raise ValueError(
            "expected the name of a line in the profile's secrets file, such as TEAM_MAIL, which "
            "has the address"
        )
    return value


SecretName = Annotated[str, AfterValidator(valid_secret_name), text(VARIABLE)]


class Notify(Section):
    """A receiver of messages about a run."""

    to: SecretName
    """Name of the line with its address in the profile's ``environment.secrets_file``:
    ``mailto:NAME@HOST``, ``command:PROGRAM`` or the URL of a service."""
    events: tuple[Event, ...] = DEFAULT_EVENTS
    """Events that are sent: ``started``, ``preempted``, ``resumed``, ``stopped``, ``failed``,
    ``finished``, ``node_excluded``, ``alarm``."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Check that an event is listed."""
        if not self.events:
            yield "events", "lists no event; leave the receiver out"


def repeated(receivers: tuple[Notify, ...]) -> Iterator[tuple[str, str]]:
    """Yield the receivers that are listed twice, with their keys."""
    names = [receiver.to for receiver in receivers]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield f"notify.{index}.to", f"{name} is listed twice; give one all of its events"
