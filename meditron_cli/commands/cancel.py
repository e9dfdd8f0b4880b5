"""``meditron cancel``: stop every job of a run."""

from __future__ import annotations

from pathlib import Path

import click

from jobs.contract.units import plural
from meditron_cli import console
from meditron_cli.commands import options
from meditron_cli.services import Services


@click.command()
@options.run_argument
@options.runs_dir_option
@click.option(
    "--save", is_flag=True, help="Checkpoint running training and evaluation before cancelling."
)
@options.json_option
@click.pass_obj
def command(
    services: Services, name: str, runs_dir: Path | None, save: bool, as_json: bool
) -> None:
    """Stop every job of a run.

    Completed work is kept; `meditron resume` continues the run.
    """
    from meditron_cli.runs import cancel

    run = options.find_run(services, runs_dir, name, destructive=True)
    jobs = (cancel.stop if save else cancel.cancel)(run, services.scheduler)
    if as_json:
        console.json_out({"run": run.name, "saving" if save else "cancelled": jobs or []})
    elif jobs is None or not (jobs or save):
        console.data(NOTHING)
    elif save:
        verbs = "saves and exits" if len(jobs) == 1 else "save and exit"
        saving = f"{plural(len(jobs), 'job')} {verbs}"
        console.data(f"run {run.name}: {saving}, the others are cancelled")
    else:
        console.data(f"run {run.name}: {plural(len(jobs), 'job')} cancelled")


NOTHING = "nothing to cancel: the run has no queued or running job"
