"""Convert the jobs of a plan, and the probe job, to options of sbatch and srun. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs.contract.specs import TaskSpec
from jobs.slurm.steps import one_per_node
from meditron_cli.plan.model import Plan, Resources
from meditron_cli.scheduler import slurm

PROBE_MINUTES = 10
"""More than the probe's own timeouts add up to; backfill starts short jobs early."""
STAGE_MINUTES = 4
"""More than the timeout of the step of a stage with an environment of its own."""


@dataclass(frozen=True)
class PlannedJob:
    """A job of a plan."""

    label: str
    resources: Resources
    options: list[str]
    """Of sbatch."""


def of_plan(plan: Plan) -> Iterator[PlannedJob]:
    """Yield one job per stage."""
    for stage in plan.stages:
        resources = stage.resources
        nodes = f"{resources.nodes} node{'s' if resources.nodes > 1 else ''}"
        label = f"{stage.stage} ({nodes} of {resources.partition})"
        yield PlannedJob(label, resources, options(plan, resources))


def options(plan: Plan, resources: Resources) -> list[str]:
    """Return the sbatch options that ``submit`` would write for a job."""
    parameters = slurm.parameters(plan, resources, Path())
    named = {name.replace("_", "-"): value for name, value in parameters.items() if is_plain(value)}
    every = {**named, **parameters["additional_parameters"]}
    return [option(name, value) for name, value in every.items()]


def is_plain(value: object) -> bool:
    """Return whether a parameter is an option of sbatch; the script's lines, for one, are not."""
    return isinstance(value, str | int)


def option(name: str, value: Any) -> str:
    """Format one option."""
    return f"--{name}" if value is True else f"--{name}={value}"


def probe_resources(plan: Plan, stages: int = 0) -> Resources:
    """Return the resources of the probe: training's, on at most two nodes, one process per node.

    Args:
        stages: that have an environment of their own.
    """
    training = plan.training.resources
    nodes, minutes = min(2, training.nodes), PROBE_MINUTES + stages * STAGE_MINUTES
    return replace(training, nodes=nodes, ranks_per_node=1, time_minutes=minutes)


def step(task: TaskSpec, resources: Resources, values: Mapping[str, str]) -> list[str]:
    """Return the command that starts one Python process per node, as those of a task are started.

    Args:
        task: of a training.
        resources: of the probe.
        values: replacements for placeholders, such as the run directory's.
    """
    command = [
        *one_per_node(resources.nodes, f"--cpus-per-task={resources.cpus_per_rank}"),
        *task.srun_args,
        *task.python,
    ]
    for placeholder, value in values.items():
        command = [part.replace(placeholder, value) for part in command]
    return command


def on_every_node(resources: Resources) -> list[str]:
    """Return the prefix that runs a command once per node, as a training's preflight check does.

    The command runs on the host, without the profile's container and srun options for ranks
    (``jobs.supervision.preflight_step``).
    """
    if resources.nodes == 1:
        return []
    return one_per_node(resources.nodes, "--job-name=check")
