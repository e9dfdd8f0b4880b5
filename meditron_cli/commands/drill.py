"""``meditron drill``: prove on the user's own site that a run survives what may befall it."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meditron_cli import console
from meditron_cli.commands import options
from meditron_cli.drill import faults, settings
from meditron_cli.errors import ConfigError, MeditronError, RunFailed
from meditron_cli.runs import store
from meditron_cli.services import Clock, Services

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meditron_cli.config.load import Loaded
    from meditron_cli.drill.verdict import FaultRow, Result

REMOVE_TRIES = 20
REMOVE_SECONDS = 1.0
COLUMNS = ("fault", "at step", "cause on record", "detected s", "resumed s", "redone", "verdict")


@click.command()
@click.option(
    "cluster",
    "--cluster",
    required=True,
    metavar="NAME",
    help="Cluster profile; `meditron clusters` lists them.",
)
@click.option(
    "chosen",
    "--faults",
    default="",
    metavar="NAMES",
    help=f"Comma-separated: {', '.join(faults.FAULTS)}; default: all that the scheduler has.",
)
@click.option(
    "nodes",
    "--nodes",
    type=click.IntRange(min=1),
    metavar="N",
    help="Nodes to train on; default: two where there are two.",
)
@click.option(
    "config",
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Experiment whose data to train on; default: the sample corpus.",
)
@click.option(
    "overrides",
    "--set",
    metavar="KEY=VALUE",
    multiple=True,
    help="Set a configuration value of both trainings; may be repeated.",
)
@options.runs_dir_option
@click.option("--keep", is_flag=True, help="Keep the drill's runs even when all went well.")
@options.json_option
@click.pass_obj
def command(
    services: Services,
    cluster: str,
    chosen: str,
    nodes: int | None,
    config: Path | None,
    overrides: tuple[str, ...],
    runs_dir: Path | None,
    keep: bool,
    as_json: bool,
) -> None:
    """Prove on a cluster that training survives faults.

    Trains the tiny model on real nodes twice, with your own rights: once undisturbed, and once hit
    by faults. Exit code 4 when the second did not come out bit for bit like the first.
    """
    from meditron_cli.config.load import load_cluster
    from meditron_cli.drill.procedure import Drill
    from meditron_cli.scheduler.fault_injection import make_injector

    profile = load_cluster(cluster)
    wanted = faults.choose(chosen, profile.scheduler)
    root = folder_of(store.runs_root(runs_dir, services.environ, profile.runs_dir))
    own = settings.settings(profile, nodes, wanted)

    def loaded(more: Sequence[str]) -> Loaded:
        experiment = config or root / "experiment.yaml"
        return options.load_target(cluster, settings.SIZE, experiment, (*own, *overrides, *more))

    write_sample(root)
    try:
        first = checked(loaded([]))
    except MeditronError:
        shutil.rmtree(root)
        raise
    console.note(settings.announcement(profile, first.experiment, wanted))
    python = profile.environment.python or sys.executable
    hands = make_injector(profile.scheduler, python, services.environ)
    course = Drill(services, hands, root, loaded)
    try:
        result = course.run(wanted)
    except (KeyboardInterrupt, click.Abort, MeditronError):
        course.cancel()
        console.note(f"the drill's jobs are cancelled; its runs are kept in {root}")
        raise
    show(result, as_json)
    if not result.held:
        raise RunFailed(result.sentence, hint=f"the drill's runs are kept in {root}")
    if keep:
        console.note(f"the drill's runs are kept in {root}")
        return
    course.cancel()
    remove(root, services.clock)


def checked(loaded: Loaded) -> Loaded:
    """What was loaded, fit to be submitted.

    Raises:
        ConfigError: a placeholder is left in the profile, or an input is missing; all of them.
    """
    if loaded.placeholders:
        hint = "put your own values into the profile"
        raise ConfigError("\n".join(loaded.placeholders), hint=hint)
    missing = [item.sentence for item in loaded.missing if set(settings.STAGES) & set(item.stages)]
    if missing:
        raise ConfigError("\n".join(missing), hint="nothing was submitted")
    return loaded


def folder_of(root: Path) -> Path:
    """A runs directory of this drill's own, below the one of all runs."""
    return root / f"drill-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"


def write_sample(root: Path) -> None:
    """Put the sample corpus and an experiment that names it where all nodes see them.

    Raises:
        ConfigError: the runs directory cannot be written.
    """
    from jobs.contract.files import write_bytes
    from meditron_cli.sample import generate

    try:
        generate.write(root / "sample")
        write_bytes(root / "experiment.yaml", settings.EXPERIMENT.encode())
    except OSError as error:
        raise ConfigError(
            f"{root} cannot be written: {error.strerror}",
            hint=f"name another place with --runs-dir or {store.VARIABLE}",
        ) from error


def show(result: Result, as_json: bool) -> None:
    """Print what came out."""
    if as_json:
        console.json_out(result.as_json())
        return
    console.table(COLUMNS, [cells(row) for row in result.rows])
    console.data(result.sentence)


def cells(row: FaultRow) -> tuple[object, ...]:
    """A line of the table."""
    return (
        row.fault, row.step, row.cause or None, row.detect_s, row.resume_s, row.redone, row.verdict,
    )  # fmt: skip


def remove(root: Path, clock: Clock) -> None:
    """Remove the drill's runs, into which jobs that have just ended may still write."""
    for _ in range(REMOVE_TRIES):
        shutil.rmtree(root, ignore_errors=True)
        if not root.exists():
            return
        clock.sleep(REMOVE_SECONDS)
    console.warning(f"not all of {root} could be removed")
