"""The settings of a run's notifications: ``notify.json`` in the run directory, written by the login
node with each submission, read on nodes. It has names of addresses, never an address: these are in
the profile's secrets file. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from jobs.contract.errors import TaskError
from jobs.contract.files import FormatError, read_json, write_json
from jobs.contract.rundir import RunDir

Event = Literal[
    "started",
    "preempted",
    "resumed",
    "stopped",
    "failed",
    "finished",
    "node_excluded",
    "alarm",
]
EVENTS: tuple[Event, ...] = get_args(Event)
"""The events of a run that a notification is about."""
DEFAULT_EVENTS: tuple[Event, ...] = ("stopped", "failed", "finished", "node_excluded", "alarm")

MAIL, COMMAND = "mailto:", "command:"
"""Beginnings of addresses for the program ``sendmail`` and for a command. Any other address is that
of a service, ``scheme://…``."""

FORMS = (
    "mailto:NAME@HOST, command:PROGRAM or the URL of a service (mailtos://…, slack://…, ntfy://…)"
)
"""The forms of an address, for people."""
HINT_DAMAGED = "{meditron resume} writes it again"


@dataclass(frozen=True)
class NotifyTarget:
    """A receiver of notifications."""

    to: str
    """Name of its address in the secrets file."""
    events: tuple[str, ...]


@dataclass(frozen=True)
class NotifySettings:
    """The receivers of a run's notifications, and the file with their addresses."""

    targets: tuple[NotifyTarget, ...] = ()
    secrets_file: str = ""


def kind_of(address: str) -> str:
    """Return the form of an address: ``sendmail``, ``command`` or ``service``; empty for none."""
    scheme, _, rest = address.partition(":")
    if rest.startswith("//"):
        return "service" if scheme.isalnum() and rest.strip("/") else ""
    if address.startswith(MAIL) and "@" in rest:
        return "sendmail"
    return "command" if address.startswith(COMMAND) and rest.strip() else ""


def write(run: RunDir, settings: NotifySettings) -> None:
    """Write the settings of a run; a run without receivers has no such file."""
    if settings.targets:
        write_json(run.notify, asdict(settings))
        return
    with suppress(FileNotFoundError):
        run.notify.unlink()


def read(run: RunDir) -> NotifySettings:
    """Return the settings of a run; without receivers where there is no file.

    Raises:
        TaskError: the file is damaged, of another version, or cannot be read.
    """
    try:
        value = read_json(run.notify)
        targets = tuple(
            NotifyTarget(str(item["to"]), tuple(map(str, item["events"])))
            for item in value["targets"]
        )
        return NotifySettings(targets, str(value["secrets_file"]))
    except FileNotFoundError:
        return NotifySettings()
    except OSError as error:
        raise TaskError(f"{run.notify}: {error.strerror}") from error
    except FormatError as error:
        raise TaskError(str(error), run.hint(HINT_DAMAGED)) from error
    except (LookupError, TypeError) as error:
        hint = run.hint(HINT_DAMAGED)
        raise TaskError(f"{run.notify}: the file is damaged", hint) from error


def without_addresses(settings: NotifySettings, secrets: Mapping[str, str]) -> dict[str, str]:
    """Return secrets without the addresses of receivers, which no rank needs."""
    names = {target.to for target in settings.targets}
    return {name: value for name, value in secrets.items() if name not in names}
