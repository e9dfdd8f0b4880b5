"""``meditron plan``: show stages, resources and cost without submitting."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meditron_cli.commands.options import json_option, load_target, stage_argument, target_options
from meditron_cli.services import Services

if TYPE_CHECKING:
    from jobs.contract.metrics_log import StepTimes
    from meditron_cli.config.load import Loaded


@click.command("plan", short_help="Show what would run, with what, without submitting.")
@stage_argument
@target_options
@json_option
@click.pass_obj
def command(
    services: Services,
    stage: str,
    cluster: str,
    size: str,
    config: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show resources, layout, memory, time and cost of STAGE, without submitting anything.

    Sizes are computed and times guessed; how long saves take is measured once a run of the same
    training has made some.
    """
    from meditron_cli import console
    from meditron_cli.plan import summary
    from meditron_cli.runs import prepare

    loaded = load_target(cluster, size, config, overrides)
    stages = prepare.stages_of(stage, loaded.experiment)
    plan = prepare.plan_of(loaded, stages, measured_times(services, loaded, stages))
    rows = summary.stage_rows(plan)
    facts = None
    for item in plan.stages:
        for task in item.tasks:
            if task.training and plan.lead:
                facts = summary.training(task.training, loaded.cluster, item.resources, plan.lead)
                facts["weights_folder"] = plan.weights_folder or None
                given = loaded.experiment.supervision.startup_limit_seconds is not None
                facts |= summary.startup(task, plan.lead, given)
    known, now = loaded.known, services.clock.now()
    warnings = prepare.warnings(plan, loaded, now)
    if as_json:
        site = {"file": known.file, "time": known.time} if known else None
        console.json_out({"stages": rows, "training": facts, "warnings": warnings, "facts": site})
        return
    console.table(*summary.table(rows))
    if facts:
        console.data("\n".join(["", *summary.training_lines(facts)]))
    for sentence in warnings:
        console.warning(sentence)
    if known and known.time is not None:
        console.note(known.age(now))


def measured_times(services: Services, loaded: Loaded, stages: Collection[str]) -> StepTimes | None:
    """Return how long saves and steps take in the run that a submission would continue; None
    before it has saved.
    """
    from jobs.contract.rundir import RunDir
    from meditron_cli.runs import moved, prepare, store

    root = store.runs_root(None, services.environ, loaded.cluster.runs_dir)
    newest = moved.newest_run(root, loaded)
    return prepare.measured_times(RunDir(root / newest), stages) if newest else None
