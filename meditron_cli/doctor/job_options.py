"""The jobs of a plan as sbatch's options: to ask about them, and to look from one of them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from meditron_cli.plan.model import Plan, Resources
from meditron_cli.scheduler import slurm

PROBE_MINUTES = 10
"""More than the probe's own patience; short jobs fill gaps, so they start early."""


def of_plan(plan: Plan) -> Iterator[tuple[str, list[str]]]:
    """Each stage's jobs: words for people, and sbatch's options."""
    for stage in plan.stages:
        resources = stage.resources
        nodes = f"{resources.nodes} node{'s' if resources.nodes > 1 else ''}"
        label = f"{stage.stage} ({nodes} of {resources.partition})"
        yield label, options(plan, resources)


def options(plan: Plan, resources: Resources) -> list[str]:
    """A job's options, as ``submit`` would have them written."""
    given = slurm.parameters(plan, resources, Path())
    named = {name.replace("_", "-"): value for name, value in given.items() if is_plain(value)}
    return [
        option(name, value) for name, value in {**named, **given["additional_parameters"]}.items()
    ]


def is_plain(value: object) -> bool:
    """Whether a parameter is an option of sbatch; the lines of the script and such are not."""
    return isinstance(value, str | int)


def option(name: str, value: Any) -> str:
    """One option."""
    return f"--{name}" if value is True else f"--{name}={value}"


def probe_resources(plan: Plan) -> Resources:
    """A job like training's, on two of its nodes where it has them, with one process each."""
    asked = plan.stage("pretrain").resources
    return replace(asked, nodes=min(2, asked.nodes), ranks_per_node=1, time_minutes=PROBE_MINUTES)


def step(plan: Plan, resources: Resources, words: Mapping[str, str]) -> list[str]:
    """The command that starts one Python a node, as ranks are started.

    Args:
        plan: with a training stage, whose way to start Python this is.
        resources: of the probe.
        words: what stands in the place of marks, such as the run directory's.
    """
    task = plan.stage("pretrain").tasks[0]
    command = [
        "srun",
        f"--nodes={resources.nodes}",
        f"--ntasks={resources.nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={resources.cpus_per_rank}",
        "--kill-on-bad-exit=0",
        *task.srun_args,
        *task.python,
    ]
    for mark, word in words.items():
        command = [part.replace(mark, word) for part in command]
    return command


def on_every_node(resources: Resources) -> list[str]:
    """What a command begins with to run once on each node as the pre-flight of a training does
    (``jobs.supervision.preflight_step``): on the host, without what the profile gives to ranks.
    """
    if resources.nodes == 1:
        return []
    per_node = [f"--ntasks={resources.nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=0"]
    return ["srun", "--job-name=check", *per_node, "--distribution=block"]
