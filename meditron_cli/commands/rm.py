"""``meditron rm``: remove runs."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from jobs.contract.units import plural
from meditron_cli import console
from meditron_cli.commands import options
from meditron_cli.errors import ConfigError
from meditron_cli.runs import store
from meditron_cli.services import Services


@click.command("rm", short_help="Remove runs that nothing uses.")
@click.argument(
    "names", metavar="RUN…", nargs=-1, required=True, shell_complete=options.complete_run
)
@click.option("--yes", is_flag=True, help="Remove without asking.")
@options.runs_dir_option
@options.json_option
@click.pass_obj
def command(
    services: Services, names: tuple[str, ...], yes: bool, runs_dir: Path | None, as_json: bool
) -> None:
    """Remove each RUN with its tokens, checkpoints, logs and results, after asking.

    Refuses all of them if one has jobs that may be alive, has a leased checkpoint, or belongs to
    another user.
    """
    from meditron_cli.runs import remove
    from meditron_cli.runs.record import RecordReader
    from meditron_cli.runs.views import bytes_text

    root = store.runs_root(runs_dir, services.environ, None)
    finished = remove.finish_removals(root)
    for name in finished:
        console.note(f"run {name}: an interrupted removal is finished")
    remaining = [name for name in names if name not in finished or (root / name).exists()]
    named = [store.find(root, name, destructive=True) for name in remaining]
    readers = [RecordReader(run) for run in dict.fromkeys(named)]
    for reader in readers:
        remove.require_unused(services, reader)
    sizes = {reader.run.name: remove.disk_usage(reader.run.root) for reader in readers}
    for name, size in sizes.items():
        console.note(f"{root / name}: {bytes_text(size)}")
    if readers and not yes:
        question = f"remove {plural(len(readers), 'run')}, {bytes_text(sum(sizes.values()))}?"
        confirm(question, store.command_below(root, "rm", "--yes", *sizes))
    for reader in readers:
        remove.remove(services, reader)
    if as_json:
        rows = [{"run": name, "bytes": size} for name, size in sizes.items()]
        console.json_out({"removed": rows, "finished": finished})
        return
    for name, size in sizes.items():
        console.data(f"run {name} removed, {bytes_text(size)} freed")


def confirm(question: str, command: str) -> None:
    """Request a confirmation on stderr, and refuse unless the answer is yes.

    Args:
        question: to ask.
        command: the command that asks, for the hint.

    Raises:
        ConfigError: the answer is no, or there is none.
    """
    try:
        if click.confirm(question, err=True):
            return
    except click.Abort:
        console.note("")
        if sys.stdin.isatty():  # Ctrl-C
            raise
    raise ConfigError("nothing was removed", hint=f"`{command}` removes without asking")
