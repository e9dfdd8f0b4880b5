"""``meditron notify``: show a run's receivers, and send a test."""

from __future__ import annotations

import getpass
import socket
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meditron_cli.commands.options import (
    find_run,
    json_option,
    load_target,
    optional_run_argument,
    optional_target_options,
    runs_dir_option,
)
from meditron_cli.errors import ConfigError, MeditronError
from meditron_cli.services import Services

if TYPE_CHECKING:
    from jobs.contract.notification import NotifySettings
    from jobs.contract.rundir import RunDir

HINT_NONE = "`meditron explain notify` shows the keys of a receiver"
HINT_FAILED = "correct the address, or allow this machine to reach the service"


@click.command("notify", short_help="Show the receivers of notifications; send a test.")
@optional_run_argument
@optional_target_options
@click.option("test", "--test", is_flag=True, help="Send a message to each receiver now.")
@runs_dir_option
@json_option
@click.pass_obj
def command(
    services: Services,
    name: str | None,
    cluster: str | None,
    size: str | None,
    config: Path | None,
    overrides: tuple[str, ...],
    test: bool,
    runs_dir: Path | None,
    as_json: bool,
) -> None:
    """List the receivers of RUN's notifications, or those of an experiment with --cluster and
    --size; --test sends each a message from this machine.

    Addresses come from the profile's environment.secrets_file and are never printed. Jobs send from
    their nodes, which must reach the services too.
    """
    from meditron_cli import console

    if any((cluster, size, config, overrides)) if name else not (cluster and size):
        raise ConfigError(
            "name a run, or an experiment by --cluster and --size",
            hint="`meditron status` lists runs, `meditron clusters` profiles",
        )
    run = find_run(services, runs_dir, name) if name else None
    settings = of_run(run) if run else of_experiment(str(cluster), str(size), config, overrides)
    if not settings.targets:
        whose = f"run {run.name}" if run else "the experiment"
        raise ConfigError(f"{whose} has no receivers of notifications", hint=HINT_NONE)
    rows = receivers(settings, run)
    if test:
        send_test(settings, rows)
    if as_json:
        console.json_out({"receivers": rows})
    else:
        console.table(
            ("receiver", "by", "events", "state"),
            [(row["to"], row["by"], ", ".join(row["events"]), state(row)) for row in rows],
        )
    if failed := [row for row in rows if row["error"]] if test else []:
        lines = (f"{row['to']}: not delivered: {row['error']}" for row in failed)
        raise MeditronError("\n".join(lines), hint=HINT_FAILED)


def of_run(run: RunDir) -> NotifySettings:
    """Return the receivers of a run.

    Raises:
        ConfigError: their file is damaged.
    """
    from jobs.contract import notification
    from jobs.contract.errors import TaskError

    try:
        return notification.read(run)
    except TaskError as error:
        raise ConfigError(error.message, hint=error.hint) from error


def of_experiment(
    cluster: str, size: str, config: Path | None, overrides: tuple[str, ...]
) -> NotifySettings:
    """Return the receivers of an experiment.

    Raises:
        ConfigError: the configuration is wrong, or an address is missing or has no known form.
    """
    from jobs.contract.notification import NotifySettings, NotifyTarget
    from meditron_cli.inputs.receivers import problems

    loaded = load_target(cluster, size, config, overrides)
    if sentences := list(problems(loaded.experiment, loaded.cluster)):
        key = f"meditron explain cluster.environment.secrets_file --cluster {cluster}"
        raise ConfigError("\n".join(sentences), hint=f"`{key}` shows the file of addresses")
    targets = (NotifyTarget(item.to, item.events) for item in loaded.experiment.notify)
    return NotifySettings(tuple(targets), str(loaded.cluster.environment.secrets_file))


def receivers(settings: NotifySettings, run: RunDir | None) -> list[dict[str, Any]]:
    """Return each receiver as JSON; of a run, with what waits and why the last message failed.

    Raises:
        ConfigError: the secrets file cannot be read.
    """
    from jobs.contract.files import read_small
    from jobs.contract.notification import kind_of
    from jobs.notification.outbox import Outbox, Receiver

    known = Outbox.from_json(read_small(run.notify_state) if run else {}).receivers
    addresses = read_addresses(settings)
    rows = []
    for target in settings.targets:
        receiver = known.get(target.to, Receiver())
        rows.append(
            {
                "to": target.to,
                "by": kind_of(addresses.get(target.to, "")) or None,
                "events": list(target.events),
                "waiting": sum(item.count for item in receiver.items.values()),
                "last_sent": max(receiver.sent.values(), default=None),
                "tested": False,
                "error": receiver.error,
            }
        )
    return rows


def read_addresses(settings: NotifySettings) -> dict[str, str]:
    """Return the addresses of receivers by name; raises like ``receivers``."""
    from jobs.contract.errors import TaskError
    from jobs.runtime import secrets_file

    try:
        return secrets_file.read(settings.secrets_file)
    except TaskError as error:
        raise ConfigError(error.message, hint=error.hint) from error


def send_test(settings: NotifySettings, rows: list[dict[str, Any]]) -> None:
    """Send a test to each receiver, and note in its row why it was not delivered."""
    from jobs.notification import delivery
    from jobs.notification.message import Message

    addresses = read_addresses(settings)
    known = {row["to"]: addresses[row["to"]] for row in rows if row["by"]}
    sender = f"{getpass.getuser()} on {socket.gethostname()}"
    messages = {
        to: Message(
            "test", "", f"meditron: test of {to}", f"A test by {sender}, `meditron notify`."
        )
        for to in known
    }
    errors = delivery.deliver(known, messages)
    missing = f"{settings.secrets_file} has no usable address of this name"
    for row in rows:
        row["tested"], row["error"] = True, errors.get(row["to"], missing)


def state(row: dict[str, Any]) -> str:
    """Return what is known of a receiver, in few words."""
    if row["tested"]:
        return "not delivered" if row["error"] else "delivered"
    waiting = f"{row['waiting']} waiting" if row["waiting"] else ""
    sent = row["last_sent"] and f"sent {datetime.fromtimestamp(row['last_sent']):%Y-%m-%d %H:%M}"
    return "; ".join(filter(None, (waiting, row["error"] or sent)))
