"""``meditron doctor``: what a site's Slurm is like, and what that means for runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meditron_cli import console
from meditron_cli.commands import options
from meditron_cli.errors import Unhealthy
from meditron_cli.runs import store
from meditron_cli.services import Services

if TYPE_CHECKING:
    from meditron_cli.doctor.examine import DoctorReport

DEFAULT_SIZE = "tiny"
"""The recipe whose jobs are asked about where none is named; any site can run it."""
WAIT_SECONDS = 120


@click.command("doctor", short_help="Ask a cluster what it is like, and say what that means.")
@click.option("cluster", "--cluster", required=True, metavar="NAME", help="Cluster profile.")
@click.option("size", "--size", metavar="NAME", help="Recipe whose jobs to ask about.")
@click.option(
    "config",
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Experiment file; default: experiment.yaml, where there is one.",
)
@options.runs_dir_option
@click.option("--no-probe", is_flag=True, help="Submit no job that looks from compute nodes.")
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=WAIT_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for that job.",
)
@options.json_option
@click.pass_obj
def command(
    services: Services,
    cluster: str,
    size: str | None,
    config: Path | None,
    runs_dir: Path | None,
    no_probe: bool,
    wait: float,
    as_json: bool,
) -> None:
    """Ask the Slurm of a cluster what it is like, say what each fact means for a run, and keep what
    plans are made with.

    A small job looks from one or two compute nodes. The exit code is 5 when training cannot work.
    """
    from meditron_cli.doctor import examine

    loaded = examine.load_target(cluster, size or DEFAULT_SIZE, config)
    if loaded.cluster.scheduler != "slurm":
        tell_local(loaded.cluster.name, as_json)
        return
    root = store.runs_root(runs_dir, services.environ, loaded.cluster.runs_dir)
    patient = examine.ExaminedCluster(
        loaded, root, size, services.environ, services.clock, tell=console.note
    )
    found = examine.examine(patient, None if no_probe else wait)
    tell(found, as_json)
    if found.is_fatal:
        raise Unhealthy(f"training cannot work on cluster {cluster} as it is; see FATAL above")


def tell_local(name: str, as_json: bool) -> None:
    """Say what there is to say of a cluster without Slurm."""
    strategy = "the supervisor starts ranks again on this machine as long as they get further"
    if as_json:
        console.json_out({"cluster": name, "strategy": strategy, "works": True, "findings": []})
    else:
        console.data(f"cluster {name} is this machine, without Slurm: {strategy}")


def tell(found: DoctorReport, as_json: bool) -> None:
    """Print the findings, the strategy, and what was kept where."""
    if as_json:
        console.json_out(as_dict(found))
    else:
        rows = [(item.fact, item.value, item.verdict, item.meaning) for item in found.findings]
        console.table(("FACT", "VALUE", "VERDICT", "MEANING"), rows)
        console.data(f"\nstrategy: {found.strategy}")
    console.note(f"kept for `plan` and `submit` in {found.file}")


def as_dict(found: DoctorReport) -> dict[str, Any]:
    """The same for programs."""
    facts = asdict(found.facts)
    probe = facts.pop("probe")
    return {
        "cluster": facts.pop("cluster"),
        "time": facts.pop("time"),
        "works": not found.is_fatal,
        "strategy": found.strategy,
        "findings": [asdict(item) for item in found.findings],
        "facts": facts,
        "probe": probe,
        "cache": str(found.file),
    }
