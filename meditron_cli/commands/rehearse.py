"""``meditron rehearse``: run an experiment's pipeline in miniature on this machine."""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs.contract.files import write_bytes
from jobs.runtime.termination import exit_on_signals
from meditron_cli import console
from meditron_cli.commands import options
from meditron_cli.errors import ConfigError
from meditron_cli.rehearsal import miniature
from meditron_cli.runs import store
from meditron_cli.services import Services

if TYPE_CHECKING:
    from meditron_cli.config.experiment_schema import Experiment
    from meditron_cli.config.load import Loaded
    from meditron_cli.rehearsal.miniature import Layout
    from meditron_cli.rehearsal.procedure import Step

LOCAL = "local"
"""The profile of this machine, on which the miniature runs."""


@click.command()
@options.target_options
@options.runs_dir_option
@click.option("--keep", is_flag=True, help="Keep the miniature's run even if all went well.")
@options.json_option
@click.pass_obj
def command(
    services: Services,
    cluster: str,
    size: str,
    config: Path | None,
    overrides: tuple[str, ...],
    runs_dir: Path | None,
    keep: bool,
    as_json: bool,
) -> None:
    """Run an experiment in miniature on this machine.

    It takes minutes of its CPUs: the same stages and settings of training, with every kind of
    parallelism that the layout has, at toy width. A base model is imported, trained, killed,
    resumed in another layout, evaluated, exported and verified. What this cannot check is listed at
    the end.
    """
    from meditron_cli.drill.procedure import Drill
    from meditron_cli.plan import spec_parts
    from meditron_cli.rehearsal import base_model, tokens
    from meditron_cli.rehearsal.procedure import Rehearsal
    from meditron_cli.runs import prepare
    from meditron_cli.scheduler.fault_injection import make_injector

    real = options.load_target(cluster, size, config, overrides)
    prepare.plan_of(real, prepare.stages_of(prepare.PIPELINE, real.experiment))
    root = folder_of(store.runs_root(runs_dir, services.environ, None))
    first, second = miniature.layouts(real.experiment)

    def load(layout: Layout, trained: int) -> Loaded:
        sets = miniature.settings(real.experiment, layout, trained)
        return options.load_target(LOCAL, size, root / "experiment.yaml", sets)

    console.note(
        f"rehearsal of {size} on {cluster}: {first}, then {second}, as CPU processes here; a few "
        "minutes"
    )
    try:
        write_inputs(root, real.experiment)
        small = load(first, 0).experiment
        built = base_model.write(
            root, spec_parts.model_spec(small), spec_parts.vocabulary_spec(small)
        )
        tokens.write(root, miniature.corpora(real.experiment))
        console.note(f"base model and tokenizer written: {built}")
    except OSError as error:
        shutil.rmtree(root, ignore_errors=True)
        raise ConfigError(
            f"{root} cannot be written: {error.strerror}",
            hint=f"name another runs directory with --runs-dir or {store.VARIABLE}",
        ) from error
    injector = make_injector(LOCAL, sys.executable, services.environ)
    drill = Drill(services, injector, root, lambda sets: load(first, 0))
    rehearsal = Rehearsal(drill, load)
    with exit_on_signals():
        try:
            rehearsal.run(first, second)
        except BaseException:
            drill.cancel()
            with suppress(OSError):  # the terminal may be gone
                console.note(f"the miniature's run is kept in {root}")
            raise
    show(
        rehearsal.steps, miniature.unchecked(real.experiment, cluster, real.cluster.device), as_json
    )
    if keep:
        console.note(f"the miniature's run is kept in {root}")
    else:
        shutil.rmtree(root, ignore_errors=True)


def folder_of(root: Path) -> Path:
    """Return a new runs directory for this rehearsal, inside the user's."""
    return root / f"rehearsal-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"


def write_inputs(root: Path, experiment: Experiment) -> None:
    """Write the sample, and an experiment that names it and the further corpora, which ``tokens``
    writes.
    """
    from meditron_cli.sample import generate

    generate.write(root / "sample")
    write_bytes(root / "experiment.yaml", miniature.document(experiment).encode())


def show(steps: list[Step], unchecked: tuple[str, ...], as_json: bool) -> None:
    """Print what was done, and what was not checked."""
    if as_json:
        rows = [
            {"step": step.name, "result": step.result, "seconds": round(step.seconds, 1)}
            for step in steps
        ]
        console.json_out({"steps": rows, "unchecked": list(unchecked)})
        return
    console.table(
        ("step", "seconds", "result"),
        [(step.name, f"{step.seconds:.0f}", step.result) for step in steps],
    )
    console.data("not checked:")
    for sentence in unchecked:
        console.data(f"  {sentence}")
