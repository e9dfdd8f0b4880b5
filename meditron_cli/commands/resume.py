"""``meditron resume``: continue a run with its own configuration."""

from __future__ import annotations

from pathlib import Path

import click

from meditron_cli import console
from meditron_cli.commands import options
from meditron_cli.runs.prepare import planned
from meditron_cli.services import Services


@click.command()
@options.run_argument
@options.runs_dir_option
@options.json_option
@click.pass_obj
def command(services: Services, name: str, runs_dir: Path | None, as_json: bool) -> None:
    """Continue a run with its own configuration.

    The configuration is read from the run and cannot be changed. Finished tasks are skipped, queued
    and running ones stay as they are, and one that only waits before its next attempt starts now.
    """
    from meditron_cli.runs.launch import launch
    from meditron_cli.runs.record import RecordReader

    run = options.find_run(services, runs_dir, name)
    reader = RecordReader(run, in_full=True)
    plan = planned(reader)
    before = {job.job_id for stage in reader.read().stages.values() for job in stage.jobs.values()}
    started = launch(plan, services.scheduler(plan.site.scheduler), reader, console.note)
    if as_json:
        console.json_out({"run": run.name, "dir": str(run.root), "jobs": started})
        return
    jobs = {job for ids in started.values() for job in ids}
    if jobs and jobs <= before:  # launch has named them
        return
    for stage, ids in started.items():
        console.data(f"{stage}: {', '.join(ids) or 'finished already'}")
