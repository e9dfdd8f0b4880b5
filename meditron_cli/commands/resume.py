"""``meditron resume``: continue a run from its own record."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from meditron_cli import console
from meditron_cli.commands import options
from meditron_cli.runs import record, request
from meditron_cli.services import Services

if TYPE_CHECKING:
    from jobs.contract.rundir import RunDir
    from meditron_cli.plan.model import Plan


@click.command()
@options.run_argument
@options.runs_dir_option
@options.json_option
@click.pass_obj
def command(services: Services, name: str, runs_dir: Path | None, as_json: bool) -> None:
    """Continue a run as it was first submitted.

    Its configuration is read from its own record and cannot be changed; what is finished is
    skipped, what is queued or running is left alone.
    """
    from meditron_cli.runs.launch import launch

    run = options.find_run(services, runs_dir, name)
    plan = planned(run)
    started = launch(plan, services.scheduler(plan.site.scheduler), run, console.note)
    if as_json:
        console.json_out({"run": run.name, "dir": str(run.root), "jobs": started})
        return
    for stage, ids in started.items():
        console.data(f"{stage}: {', '.join(ids) or 'finished already'}")


def planned(run: RunDir) -> Plan:
    """The plan of all the run's stages, from the configuration it was last submitted with.

    Raises:
        ConfigError: the record cannot be read, or is one that this version refuses.
    """
    from jobs.contract import metrics_log
    from meditron_cli.config.stored import restore
    from meditron_cli.runs import prepare

    asked = request.last_request(run)
    experiment, cluster = restore(asked)
    stages, pace = list(record.read(run).stages), metrics_log.measured(run)
    return prepare.make_plan(experiment, cluster, asked["size"], stages, pace)
