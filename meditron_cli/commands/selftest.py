"""``meditron selftest``: confirm or refute on a cluster's nodes what is claimed of training."""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.contract.files import make_folder
from jobs.runtime.termination import exit_on_signals
from meditron_cli import console
from meditron_cli.commands import options
from meditron_cli.errors import ConfigError, RunFailed
from meditron_cli.runs import store
from meditron_cli.selftest import claims, settings
from meditron_cli.selftest.judges import REFUTED
from meditron_cli.services import Services

if TYPE_CHECKING:
    from meditron_cli.config.load import Loaded
    from meditron_cli.selftest.judges import Judgement

COLUMNS = ("claim", "measured", "expected", "verdict")


@click.command()
@options.cluster_option()
@options.size_option("Recipe whose width is measured; default: 7b, on CPUs a narrow shape.")
@options.nodes_option
@options.set_option()
@options.runs_dir_option
@click.option("--keep", is_flag=True, help="Keep the selftest's run even if all is confirmed.")
@options.json_option
@click.pass_obj
def command(
    services: Services,
    cluster: str,
    size: str | None,
    nodes: int | None,
    overrides: tuple[str, ...],
    runs_dir: Path | None,
    keep: bool,
    as_json: bool,
) -> None:
    """Confirm or refute what is claimed of training.

    One job on one or two nodes of the cluster, under your account, takes minutes: small trainings
    that must agree, and a training of two layers at full width beside what `plan` computes of it.
    Exit code 4 when a claim is refuted.
    """
    from meditron_cli.drill.procedure import Drill
    from meditron_cli.runs import prepare
    from meditron_cli.scheduler.fault_injection import make_injector
    from meditron_cli.selftest import procedure

    loaded = load_selftest(cluster, size, nodes, overrides)
    profile = loaded.cluster
    prepare.require_submittable(loaded, [settings.STAGE])
    prepare.plan_of(loaded, [settings.STAGE])
    services.scheduler(profile.scheduler).require_answer()
    root = folder_of(store.runs_root(runs_dir, services.environ, profile.runs_dir))
    console.note(settings.announcement(profile, loaded.experiment))
    injector = make_injector(
        profile.scheduler, profile.environment.python or sys.executable, services.environ
    )
    drill = Drill(services, injector, root, lambda sets: loaded)
    with exit_on_signals():
        try:
            record, problem = procedure.run(drill, loaded)
        except BaseException:
            drill.cancel()
            with suppress(OSError):  # the terminal may be gone
                console.note(f"the selftest's run is kept in {root}")
            raise
    rows = claims.judge(record, settings.planned(loaded), problem)
    if kept := keep_speeds(loaded, record, services):
        console.note(kept)
    show(profile.name, record, rows, as_json)
    refuted = [row.claim for row in rows if row.verdict == REFUTED]
    if keep or refuted or problem:
        console.note(f"the selftest's run is kept in {root}")
    else:
        shutil.rmtree(root, ignore_errors=True)
    hint = f"`{store.command_below(root, 'status')}` shows the selftest's run"
    if refuted:
        raise RunFailed(f"cluster {profile.name} refutes: {'; '.join(refuted)}", hint=hint)
    if problem:
        raise RunFailed(problem, hint=hint)


def load_selftest(
    cluster: str, size: str | None, nodes: int | None, overrides: tuple[str, ...]
) -> Loaded:
    """Return the configuration of a selftest.

    Raises:
        ConfigError: every error of every file, or the partition has fewer nodes.
    """
    from meditron_cli.config.load import load_cluster

    profile = load_cluster(cluster)
    named = size or settings.SIZES[profile.device]
    recipe = options.load_target(cluster, named, None, ()).experiment
    is_small = size is None and profile.device == "cpu"
    own = settings.settings(profile, recipe, nodes, is_small=is_small)
    return options.load_target(cluster, named, None, (*own, *overrides))


def keep_speeds(loaded: Loaded, record: dict[str, Any], services: Services) -> str:
    """Add measured speeds to the facts of the cluster; return where they are, empty for none."""
    from meditron_cli.config import facts_file

    measured = record.get("trials", {}).get("speeds", {})
    if measured.get("state") != "done":
        return ""
    cluster, now = loaded.cluster, services.clock.now()
    file = facts_file.path_of(cluster.name, services.environ)
    try:
        before = facts_file.read(file)
    except facts_file.Broken:
        before = None
    speeds = facts_file.Speeds(
        partition=cluster.gpu_partition.name,
        time=now,
        nodes=tuple(record["nodes"]),
        **{key: measured[key] for key in facts_file.SPEEDS},
    )
    facts = before or facts_file.Facts(cluster.name, now)
    facts_file.write(file, replace(facts, speeds=speeds))
    return f"measured speeds for `plan` are in {file}"


def folder_of(root: Path) -> Path:
    """Return a new runs directory for this selftest, inside the user's.

    Raises:
        ConfigError: it cannot be written.
    """
    folder = root / f"selftest-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    try:
        make_folder(folder)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written: {error.strerror}",
            hint=f"name another runs directory with --runs-dir or {store.VARIABLE}",
        ) from error
    return folder


def show(cluster: str, record: dict[str, Any], rows: list[Judgement], as_json: bool) -> None:
    """Print the table of claims, and what ran where."""
    if as_json:
        console.json_out(
            {
                "cluster": cluster,
                "claims": [
                    {
                        "claim": row.claim,
                        "measured": row.measured,
                        "expected": row.expected,
                        "verdict": row.verdict,
                        "reason": row.reason,
                    }
                    for row in rows
                ],
                "record": record,
            }
        )
        return
    console.table(COLUMNS, [row.cells for row in rows])
    if record:
        where = ", ".join(record["nodes"])
        console.data(f"measured with {record['ranks']} {record['device']} ranks on {where}")
