"""``meditron nodes``: which nodes of a cluster have failed us."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meditron_cli.commands import options
from meditron_cli.errors import ConfigError
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
        """Entries that count, and single suspicions, which do not yet."""
        from jobs.health import node_ledger

        return node_ledger.standing(self.entries, self.now)

    @property
    def active(self) -> tuple[NodeEntry, ...]:
        """Entries for which jobs leave a node out."""
        from jobs.health import node_ledger

        return node_ledger.active(self.entries, self.now)

    def of(self, node: str) -> tuple[NodeEntry, ...]:
        """What stands against one node.

        Raises:
            ConfigError: nothing does.
        """
        found = tuple(entry for entry in self.standing if entry.node == node)
        if not found:
            told = ", ".join(dict.fromkeys(entry.node for entry in self.standing)) or "no node"
            message = f"nothing stands against {node!r} in {self.path}; it speaks against {told}"
            hint = f"`meditron nodes --cluster {self.cluster} --all` shows what has expired"
            raise ConfigError(message, hint=hint)
        return found


@click.command("nodes", short_help="Show nodes that failed; clear or report them.")
@click.option("--cluster", required=True, metavar="NAME", help="Cluster whose nodes to show.")
@click.option("--clear", metavar="NODE", help="Use NODE again: forget what stands against it.")
@click.option("--ticket", metavar="NODE", help="Print a message about NODE to its administrators.")
@click.option("show_all", "--all", is_flag=True, help="Also what has expired or was cleared.")
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
    """Show the nodes that failed runs in this runs directory, and until when jobs avoid them.

    A suspicion counts once a second one of another attempt stands beside it.
    """
    from jobs.health import node_ledger
    from meditron_cli import console

    if clear is not None and ticket is not None:
        raise ConfigError("--clear and --ticket are two commands", hint="print the ticket first")
    ledger = read_ledger(services, cluster, runs_dir)
    if clear is not None:
        forget(ledger, clear)
        console.note(f"{clear} is used again")
    elif ticket is not None:
        console.data(node_ledger.ticket(ledger.of(ticket), ticket, cluster))
    else:
        show(ledger, ledger.entries if show_all else ledger.standing, as_json)


def read_ledger(services: Services, cluster: str, runs_dir: Path | None) -> NodeLedgerView:
    """The ledger that the runs of a cluster write.

    Raises:
        ConfigError: no such cluster, or its profile is wrong.
    """
    from jobs.health import node_ledger
    from meditron_cli.config.load import load_cluster
    from meditron_cli.runs import store

    profile = load_cluster(cluster)
    root = store.runs_root(runs_dir, services.environ, profile.runs_dir)
    path = node_ledger.ledger(root, profile.name)
    return NodeLedgerView(profile.name, path, node_ledger.read(path), services.clock.now())


def forget(ledger: NodeLedgerView, node: str) -> None:
    """Take back what stands against a node.

    Raises:
        ConfigError: nothing does.
    """
    from jobs.health import node_ledger

    ledger.of(node)
    said = "taken back with `meditron nodes --clear`"
    node_ledger.append(
        ledger.path, [node_ledger.strike(node, node_ledger.CLEARED, "CLEARED", said, ledger.now)]
    )


def show(ledger: NodeLedgerView, entries: Sequence[NodeEntry], as_json: bool) -> None:
    """List entries, the newest last."""
    from meditron_cli import console

    if as_json:
        counted = set(ledger.active)
        found = [entry_json(entry, entry in counted) for entry in entries]
        file = str(ledger.path)
        console.json_out({"cluster": ledger.cluster, "file": file, "entries": found})
        return
    if not entries:
        console.note(f"nothing speaks against a node of {ledger.cluster} ({ledger.path})")
        return
    columns = ("node", "verdict", "code", "since", "avoided until", "run", "evidence")
    console.table(columns, [row(ledger, entry) for entry in entries])


def row(ledger: NodeLedgerView, entry: NodeEntry) -> tuple[str | None, ...]:
    """An entry in one line; one that keeps no job away has no end."""
    until = day(entry.expires) if entry in ledger.active else None
    run = f"{entry.run} attempt {entry.attempt}" if entry.run else None
    return entry.node, entry.verdict, entry.code, day(entry.time), until, run, entry.evidence


def day(moment: float) -> str:
    """A time as people here tell it."""
    import time

    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))


def entry_json(entry: NodeEntry, counts: bool) -> dict[str, Any]:
    """An entry as plain values, and whether jobs avoid the node for it."""
    return {**dataclasses.asdict(entry), "active": counts}
