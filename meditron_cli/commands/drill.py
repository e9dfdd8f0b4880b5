"""``meditron drill``: prove on a cluster that training survives faults."""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs.contract.rundir import RunDir
from jobs.runtime.termination import exit_on_signals
from meditron_cli import console
from meditron_cli.commands import options
from meditron_cli.drill import faults, settings
from meditron_cli.errors import ConfigError, MeditronError, RunFailed
from meditron_cli.runs import store
from meditron_cli.services import Clock, Services

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meditron_cli.config.load import Loaded
    from meditron_cli.drill.procedure import Drill
    from meditron_cli.drill.verdict import FaultRow, Result

REMOVE_TRIES = 20
REMOVE_SECONDS = 1.0
COLUMNS = ("fault", "at step", "root cause", "detected s", "resumed s", "redone", "verdict")


@click.command()
@options.cluster_option()
@click.option(
    "chosen",
    "--faults",
    default="",
    metavar="NAMES",
    help=f"Comma-separated: {', '.join(faults.FAULTS)}; default: all that the scheduler supports.",
)
@options.nodes_option
@options.config_option("Experiment whose data to train on; default: the sample corpus.")
@options.set_option("Set a configuration value of both trainings; may be repeated.")
@options.runs_dir_option
@click.option("--keep", is_flag=True, help="Keep the drill's runs even if it passes.")
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

    Trains the tiny model on real nodes twice, under your account: once without and once with
    injected faults. Exit code 4 when the losses of both are not equal, bit for bit on CPUs.
    """
    from meditron_cli.config.load import load_cluster
    from meditron_cli.drill.procedure import Drill
    from meditron_cli.runs import prepare
    from meditron_cli.scheduler.fault_injection import make_injector

    profile = load_cluster(cluster)
    selected = faults.choose(chosen, profile.scheduler)
    root = folder_of(store.runs_root(runs_dir, services.environ, profile.runs_dir))
    own = settings.settings(profile, nodes, selected)
    services.scheduler(profile.scheduler).require_answer()

    def load(more: Sequence[str]) -> Loaded:
        experiment = config or root / "experiment.yaml"
        return options.load_target(cluster, settings.SIZE, experiment, (*own, *overrides, *more))

    write_sample(root)
    try:
        first = load([])
        pipeline = prepare.stages_of(prepare.PIPELINE, first.experiment)
        prepare.require_submittable(first, set(pipeline) & set(settings.STAGES))
    except MeditronError:
        shutil.rmtree(root)
        raise
    console.note(settings.announcement(profile, first.experiment, selected))
    python = profile.environment.python or sys.executable
    injector = make_injector(profile.scheduler, python, services.environ)
    drill = Drill(services, injector, root, load)
    with exit_on_signals():
        try:
            result = drill.run(selected)
        except BaseException:
            cancel(drill)
            raise
    show(result, as_json)
    if not result.held:
        raise RunFailed(
            result.sentence, hint=f"`{store.command_below(root, 'status')}` shows the drill's runs"
        )
    if keep:
        console.note(f"the drill's runs are kept in {root}")
        return
    drill.cancel()
    remove(root, services.clock)


def cancel(drill: Drill) -> None:
    """Cancel the jobs of a drill that did not finish, and print what became of them."""
    job_ids, problems = drill.cancel()
    with suppress(OSError):  # the terminal may be gone
        for run, error in problems.items():
            command = RunDir(drill.root / run).command("cancel")
            console.note(f"jobs of {run} were not cancelled: {error.message}")
            console.note(f"hint: `{command}`")
        if job_ids and not problems:
            console.note("the drill's jobs are cancelled")
        console.note(f"the drill's runs are kept in {drill.root}")


def folder_of(root: Path) -> Path:
    """Return a new runs directory for this drill, inside the user's."""
    return root / f"drill-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"


def write_sample(root: Path) -> None:
    """Write the sample corpus, and an experiment that names it, to the drill's runs directory.

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
            hint=f"name another runs directory with --runs-dir or {store.VARIABLE}",
        ) from error


def show(result: Result, as_json: bool) -> None:
    """Print the result."""
    if as_json:
        console.json_out(result.as_json())
        return
    console.table(COLUMNS, [cells(row) for row in result.rows])
    console.data(result.sentence)


def cells(row: FaultRow) -> tuple[object, ...]:
    """Return a row of the table."""
    return (
        row.fault, row.step, row.cause or None, row.detect_s, row.resume_s, row.redone, row.verdict,
    )  # fmt: skip


def remove(root: Path, clock: Clock) -> None:
    """Remove the drill's runs; retry while jobs that are ending still write to them."""
    for _ in range(REMOVE_TRIES):
        shutil.rmtree(root, ignore_errors=True)
        if not root.exists():
            return
        clock.sleep(REMOVE_SECONDS)
    console.warning(f"not all of {root} could be removed")
