"""``meditron nodes``: show, clear and report the nodes of a cluster that failed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meditron_cli.commands import options
from meditron_cli.errors import ConfigError
from meditron_cli.runs import store
from meditron_cli.services import Services

if TYPE_CHECKING:
    from jobs.contract.outcomes import NodeEntry


@dataclasses.dataclass(frozen=True)
class NodeLedgerView:
    """The node ledger of a cluster, as it is now."""

    cluster: str
    path: Path
    entries: tuple[NodeEntry, ...]
    now: float

    @property
    def standing(self) -> tuple[NodeEntry, ...]:
        """Return the unexpired entries, single suspicions included."""
        from jobs.health import node_ledger

        return node_ledger.standing(self.entries, self.now)

    @property
    def active(self) -> tuple[NodeEntry, ...]:
        """Return the entries for which jobs exclude a node."""
        from jobs.health import node_ledger

        return node_ledger.active(self.entries, self.now)

    def of(self, node: str) -> tuple[NodeEntry, ...]:
        """Return the entries against one node.

        Raises:
            ConfigError: there are none.
        """
        entries = tuple(entry for entry in self.standing if entry.node == node)
        if not entries:
            names = ", ".join(dict.fromkeys(entry.node for entry in self.standing)) or "no node"
            message = f"{self.path} has no entry against {node!r}; it has {names}"
            command = store.command_below(
                self.path.parent, "nodes", "--cluster", self.cluster, "--all"
            )
            hint = f"`{command}` shows what has expired"
            raise ConfigError(message, hint=hint)
        return entries


@click.command("nodes", short_help="Show nodes that failed; clear or report them.")
@options.cluster_option("Cluster whose nodes to show.")
@click.option("--clear", metavar="NODE", help="Use NODE again: clear its entries.")
@click.option("--ticket", metavar="NODE", help="Print a message about NODE to its administrators.")
@click.option("show_all", "--all", is_flag=True, help="Show expired and cleared entries too.")
@options.runs_dir_option
@options.json_option
@click.pass_obj
def command(
    services: Services,
    cluster: str,
    clear: str | None,
    ticket: str | None,
    show_all: bool,
    runs_dir: Path | None,
    as_json: bool,
) -> None:
    """Show the nodes that failed runs in this runs directory, and until when jobs exclude them.

    A suspicion excludes a node once there is a second one, from another attempt.
    """
    from jobs.health import node_ledger
    from meditron_cli import console

    ledger = read_ledger(services, cluster, runs_dir)
    if clear is not None and ticket is not None:
        root = ledger.path.parent
        first = store.command_below(root, "nodes", "--cluster", cluster, "--ticket", ticket)
        raise ConfigError(
            "--clear and --ticket cannot be combined",
            hint=f"`{first}` first",
        )
    if clear is not None:
        forget(ledger, clear)
        console.note(f"{clear}: cleared, jobs may use it again")
    elif ticket is not None:
        console.data(node_ledger.ticket(ledger.of(ticket), ticket, cluster))
    else:
        show(ledger, ledger.entries if show_all else ledger.standing, as_json)


def read_ledger(services: Services, cluster: str, runs_dir: Path | None) -> NodeLedgerView:
    """Read the ledger of a cluster's runs.

    Raises:
        ConfigError: no such cluster, or its profile is invalid.
    """
    from jobs.health import node_ledger
    from meditron_cli.config.load import load_cluster

    profile = load_cluster(cluster)
    root = store.runs_root(runs_dir, services.environ, profile.runs_dir)
    path = node_ledger.ledger(root, profile.name)
    return NodeLedgerView(profile.name, path, node_ledger.read(path), services.clock.now())


def forget(ledger: NodeLedgerView, node: str) -> None:
    """Clear the entries against a node.

    Raises:
        ConfigError: there are none.
    """
    from jobs.health import node_ledger

    ledger.of(node)
    evidence = "cleared with `meditron nodes --clear`"
    entry = node_ledger.strike(node, node_ledger.CLEARED, "CLEARED", evidence, ledger.now)
    node_ledger.append(ledger.path, [entry])


def show(ledger: NodeLedgerView, entries: Sequence[NodeEntry], as_json: bool) -> None:
    """Print entries, the newest last."""
    from meditron_cli import console

    if as_json:
        counted = set(ledger.active)
        rows = [entry_json(entry, entry in counted) for entry in entries]
        file = str(ledger.path)
        console.json_out({"cluster": ledger.cluster, "file": file, "entries": rows})
        return
    if not entries:
        console.note(f"no entry against a node of {ledger.cluster} ({ledger.path})")
        return
    columns = ("node", "verdict", "code", "since", "excluded until", "run", "evidence")
    console.table(columns, [row(ledger, entry) for entry in entries])


def row(ledger: NodeLedgerView, entry: NodeEntry) -> tuple[str | None, ...]:
    """Return an entry's row; an entry that excludes no node has no end."""
    until = day(entry.expires) if entry in ledger.active else None
    run = f"{entry.run} attempt {entry.attempt}" if entry.run else None
    return entry.node, entry.verdict, entry.code, day(entry.time), until, run, entry.evidence


def day(moment: float) -> str:
    """Format a time in the local time zone."""
    import time

    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))


def entry_json(entry: NodeEntry, counts: bool) -> dict[str, Any]:
    """Return an entry as JSON values, with whether it excludes the node."""
    return {**dataclasses.asdict(entry), "active": counts}
