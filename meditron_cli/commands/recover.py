"""``meditron recover``: resume interrupted runs from the login node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs.contract.units import plural
from meditron_cli import console
from meditron_cli.commands import options
from meditron_cli.runs import store
from meditron_cli.services import Services

if TYPE_CHECKING:
    from jobs.contract.rundir import RunDir
    from meditron_cli.runs.recover import Notice


@click.command()
@options.optional_run_argument
@options.runs_dir_option
@click.option(
    "--interval",
    type=click.IntRange(min=1),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="Seconds between two passes.",
)
@click.option("--once", is_flag=True, help="Make one pass and exit.")
@click.option("as_json", "--json", is_flag=True, help="Print one JSON object per line.")
@click.pass_obj
def command(
    services: Services,
    name: str | None,
    runs_dir: Path | None,
    interval: int,
    once: bool,
    as_json: bool,
) -> None:
    """Resume interrupted runs where jobs cannot submit jobs.

    Where compute nodes can submit jobs, supervisors and recovery jobs resubmit; elsewhere this
    command does. Runs that a person stopped or cancelled stay stopped. It can be interrupted at any
    time and run twice at once: a task is resubmitted once.
    """
    from meditron_cli.runs.recover import OpenedRuns, RecoveryReport, recover

    previous, opened = RecoveryReport((), unanswered=False, runs=0), OpenedRuns()
    while True:
        report = recover(services, opened.of(chosen(services, runs_dir, name)))
        print_notices([item for item in report.notices if item not in previous.notices], as_json)
        if report.unanswered and not previous.unanswered:
            console.note("the scheduler does not respond; nothing is resubmitted until it does")
        if once:
            if not (report.notices or report.unanswered or as_json):
                console.note(f"{plural(report.runs, 'run')} checked, nothing was resubmitted")
            return
        previous = report
        services.clock.sleep(interval)


def chosen(services: Services, runs_dir: Path | None, name: str | None) -> list[RunDir]:
    """Return the named run, or all current ones."""
    if name is not None:
        return [options.find_run(services, runs_dir, name)]
    return store.runs(store.existing_root(runs_dir, services.environ))


def print_notices(notices: list[Notice], as_json: bool) -> None:
    """Print notices, one per line, or as JSON one object per line."""
    for item in notices:
        if as_json:
            line = {"run": item.run, "stage": item.stage, "message": item.message}
            console.data(json.dumps({"format": console.FORMAT, **line}))
        else:
            console.data(f"{item.run}: {item.message}")
