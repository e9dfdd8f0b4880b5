"""``meditron doctor``: check a cluster's Slurm settings and compute nodes."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.runtime.termination import exit_on_signals
from meditron_cli import console
from meditron_cli.commands import options
from meditron_cli.errors import Unhealthy
from meditron_cli.runs import store
from meditron_cli.services import Services

if TYPE_CHECKING:
    from meditron_cli.doctor.examine import DoctorReport

DEFAULT_SIZE = "tiny"
"""The default recipe for the jobs to check; any site can run it."""
WAIT_SECONDS = 120


@click.command("doctor", short_help="Check a cluster's Slurm settings and compute nodes.")
@options.cluster_option()
@options.size_option("Recipe whose jobs to check.")
@options.config_option()
@options.runs_dir_option
@click.option("--no-probe", is_flag=True, help="Submit no job that examines compute nodes.")
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
    """Check a cluster's Slurm settings and compute nodes, explain what each fact means for runs,
    and keep the facts that `plan` and `submit` use.

    A small job examines one or two compute nodes. The exit code is 5 when training cannot work.
    """
    from meditron_cli.doctor import examine

    loaded = examine.load_target(cluster, size or DEFAULT_SIZE, config)
    if loaded.cluster.scheduler != "slurm":
        print_local(loaded.cluster.name, as_json)
        return
    root = store.runs_root(runs_dir, services.environ, loaded.cluster.runs_dir)
    target = examine.ExaminedCluster(
        loaded, root, size, services.environ, services.clock, note=console.note
    )
    with exit_on_signals():
        report = examine.examine(target, None if no_probe else wait)
    print_report(report, as_json)
    if report.is_fatal:
        raise Unhealthy(
            f"training cannot work on cluster {cluster}: see the FATAL findings",
            hint=f"correct the profile, then `meditron doctor --cluster {shlex.quote(cluster)}`",
        )


def print_local(name: str, as_json: bool) -> None:
    """Print the strategy of a cluster without Slurm."""
    strategy = "the supervisor restarts ranks on this machine as long as they make progress"
    if as_json:
        console.json_out({"cluster": name, "strategy": strategy, "works": True, "findings": []})
    else:
        console.data(f"cluster {name} is this machine, without Slurm: {strategy}")


def print_report(report: DoctorReport, as_json: bool) -> None:
    """Print the findings, the strategy, and the name of the facts file."""
    if as_json:
        console.json_out(to_json(report))
    else:
        rows = [(item.fact, item.value, item.verdict, item.meaning) for item in report.findings]
        console.table(("FACT", "VALUE", "VERDICT", "MEANING"), rows)
        console.data(f"\nstrategy: {report.strategy}")
    console.note(f"facts for `plan` and `submit` are in {report.file}")


def to_json(report: DoctorReport) -> dict[str, Any]:
    """Return the report as ``doctor --json`` prints it."""
    facts = asdict(report.facts)
    probe = facts.pop("probe")
    return {
        "cluster": facts.pop("cluster"),
        "time": facts.pop("time"),
        "works": not report.is_fatal,
        "strategy": report.strategy,
        "findings": [asdict(item) for item in report.findings],
        "facts": facts,
        "probe": probe,
        "cache": str(report.file),
    }
