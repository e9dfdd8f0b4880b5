"""``meditron watch``: go on with runs whose jobs could not see to it themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meditron_cli import console
from meditron_cli.commands import options
from meditron_cli.runs import store
from meditron_cli.services import Services

if TYPE_CHECKING:
    from jobs.contract.rundir import RunDir
    from meditron_cli.runs.recover import Said


@click.command()
@click.argument("name", metavar="[RUN]", required=False)
@options.runs_dir_option
@click.option(
    "--interval",
    type=click.IntRange(min=1),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="Between two looks.",
)
@click.option("--once", is_flag=True, help="Look once, and leave.")
@click.option("as_json", "--json", is_flag=True, help="Print a JSON object a line.")
@click.pass_obj
def command(
    services: Services,
    name: str | None,
    runs_dir: Path | None,
    interval: int,
    once: bool,
    as_json: bool,
) -> None:
    """Continue runs whose jobs are over before their target is reached.

    Supervisors and janitors do so by themselves where compute nodes may submit jobs; where they may
    not, this does. What a person has stopped or cancelled stays so. It can be interrupted at any
    time, and run twice: only one goes on with a task.
    """
    from meditron_cli.runs.recover import Looked, look

    before = Looked((), silent=False)
    while True:
        now = look(services, chosen(services, runs_dir, name))
        tell([item for item in now.said if item not in before.said], as_json)
        if now.silent and not before.silent:
            console.note("the scheduler does not answer; nothing is done until it does")
        if once:
            return
        before = now
        services.clock.sleep(interval)


def chosen(services: Services, runs_dir: Path | None, name: str | None) -> list[RunDir]:
    """The run of a name, or all there are now."""
    from jobs.contract.rundir import RunDir

    if name is not None:
        return [options.find_run(services, runs_dir, name)]
    root = store.runs_root(runs_dir, services.environ, None)
    return [RunDir(root / found) for found in store.names(root)]


def tell(said: list[Said], as_json: bool) -> None:
    """Print what is new, a line each, and as JSON an object a line."""
    for item in said:
        if as_json:
            line = {"run": item.run, "stage": item.stage, "said": item.sentence}
            console.data(json.dumps({"format": console.FORMAT, **line}))
        else:
            console.data(f"{item.run}: {item.sentence}")
