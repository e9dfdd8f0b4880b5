"""Options that several commands share, and the objects they name."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import PIPELINE_STAGES, FinetuneSpec
from meditron_cli.errors import ConfigError
from meditron_cli.inputs.finetuned import finetunings
from meditron_cli.runs import store
from meditron_cli.runs.prepare import PIPELINE
from meditron_cli.services import Services

if TYPE_CHECKING:
    from meditron_cli.config.load import Loaded
    from meditron_cli.plan.model import Plan

F = TypeVar("F", bound=Callable[..., Any])


def complete_run(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the names of runs that begin so, for a shell's completion."""
    root = store.existing_root(ctx.params.get("runs_dir"), os.environ)
    return [name for name in store.names(root) if name.startswith(incomplete)]


def complete_cluster(
    ctx: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the profiles whose names begin so, or have the shell complete a path."""
    from meditron_cli.config.files import cluster_names, is_path

    if is_path(incomplete) or incomplete.startswith((".", "~")):
        return [CompletionItem(incomplete, type="file")]
    return [CompletionItem(name) for name in cluster_names() if name.startswith(incomplete)]


def complete_size(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the recipes whose names begin so."""
    from meditron_cli.config.files import size_names

    return [name for name in size_names() if name.startswith(incomplete)]


def complete_key(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the keys of experiments and profiles that begin so."""
    from meditron_cli.config.cluster_schema import Cluster
    from meditron_cli.config.error_messages import dotted_keys
    from meditron_cli.config.experiment_schema import Experiment

    keys = [*dotted_keys(Experiment, items=True), *dotted_keys(Cluster, "cluster.", items=True)]
    return [key for key in keys if key.startswith(incomplete)]


def complete_setting(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the keys of experiments that begin so and are no sections, each with its ``=``."""
    from meditron_cli.config.error_messages import dotted_keys
    from meditron_cli.config.experiment_schema import Experiment

    keys = dotted_keys(Experiment)
    sections = {key.rpartition(".")[0] for key in keys}
    return [f"{key}=" for key in keys if key.startswith(incomplete) and key not in sections]


def target_options(function: F) -> F:
    """Add ``--cluster --size --config --set``: which experiment, on which cluster."""
    return _target_options(function, size=True, cluster=True)


def experiment_options(function: F) -> F:
    """Add the same options to a command that needs an experiment, on no cluster in particular."""
    return _target_options(function, size=True, cluster=False)


def optional_target_options(function: F) -> F:
    """Add the same options to a command that can take all of them from a run."""
    return _target_options(function, size=False, cluster=False)


def _target_options(function: F, *, size: bool, cluster: bool) -> F:
    for option in (
        set_option(),
        config_option(),
        size_option("Recipe: tiny, 1b, 7b, 8b, 13b, 70b.", required=size),
        cluster_option(required=cluster),
    ):
        function = option(function)
    return function


def cluster_option(
    text: str = "Cluster profile; `meditron clusters` lists them.", required: bool = True
) -> Callable[[F], F]:
    """Return the option ``--cluster``."""
    return click.option(
        "cluster",
        "--cluster",
        required=required,
        metavar="NAME",
        shell_complete=complete_cluster,
        help=text,
    )


def size_option(text: str, required: bool = False) -> Callable[[F], F]:
    """Return the option ``--size``."""
    return click.option(
        "size",
        "--size",
        required=required,
        metavar="NAME",
        shell_complete=complete_size,
        help=text,
    )


def config_option(
    text: str = "Experiment file; default: experiment.yaml, where there is one.",
) -> Callable[[F], F]:
    """Return the option ``--config``."""
    return click.option(
        "config", "--config", type=click.Path(path_type=Path), metavar="FILE", help=text
    )


def set_option(
    text: str = "Set a configuration value, above every file; may be repeated.",
) -> Callable[[F], F]:
    """Return the option ``--set``."""
    return click.option(
        "overrides",
        "--set",
        metavar="KEY=VALUE",
        multiple=True,
        shell_complete=complete_setting,
        help=text,
    )


nodes_option = click.option(
    "nodes",
    "--nodes",
    type=click.IntRange(min=1),
    metavar="N",
    help="Nodes to run on; default: 2, if the partition has them.",
)

model_option = click.option(
    "--model", metavar="NAME", help="One of its finetuned models, by its name in finetune.models."
)


def finetuning_of(run: RunDir, model: str) -> tuple[int, FinetuneSpec]:
    """Return index and settings of the finetuning of a model of a run.

    Raises:
        ConfigError: the run finetunes no such model.
    """
    found = {spec.name: (index, spec) for index, spec in finetunings(run)}
    if model not in found:
        known, show = (
            f"there are {', '.join(found)}",
            f"`{store.command(run, 'status')}` shows them",
        )
        if not found:
            known, show = "it finetunes none", "`meditron explain finetune.models` shows their keys"
        raise ConfigError(f"run {run.name} has no finetuned model {model!r}; {known}", hint=show)
    return found[model]


stage_argument = click.argument("stage", type=click.Choice([*PIPELINE_STAGES, PIPELINE]))

runs_dir_option = click.option(
    "runs_dir",
    "--runs-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where runs lie; default: MEDITRON_RUNS, the profile's, ./runs.",
)

json_option = click.option("as_json", "--json", is_flag=True, help="Print JSON.")


run_argument = click.argument("name", metavar="RUN", shell_complete=complete_run)
optional_run_argument = click.argument(
    "name", metavar="[RUN]", required=False, shell_complete=complete_run
)


def load_target(cluster: str, size: str, config: Path | None, overrides: tuple[str, ...]) -> Loaded:
    """Read and check what the target options name.

    Raises:
        ConfigError: every error of every file, one a line.
    """
    from meditron_cli.config.load import load

    return load(cluster, size, config, list(overrides))


def run_of(services: Services, loaded: Loaded) -> RunDir:
    """Return the run that a submission would continue, else the one that it would make."""
    from jobs.contract.rundir import RunDir
    from meditron_cli.config.identity import run_name
    from meditron_cli.runs import moved

    root = store.runs_root(None, services.environ, loaded.cluster.runs_dir)
    identity = run_name(loaded.experiment, loaded.size, loaded.cluster.name)
    return RunDir(root / (moved.newest_run(root, loaded) or store.next_of(root, identity)))


def require_trainable(
    plan: Plan, run: RunDir, stage: str, config: str = "", partly: bool = False
) -> None:
    """Refuse a training as ``prepare.require_trainable`` does, with the hint of a command.

    Args:
        stage: with which it is submitted.
        config: the experiment's file, where no option names it.
        partly: some of its inputs are not on this machine, and are left out.

    Raises:
        ConfigError: the first reason.
    """
    from jobs.contract.errors import TaskError
    from jobs.data.corpora import NotAllowed
    from meditron_cli.runs import prepare

    try:
        prepare.require_trainable(plan, run, partly)
    except NotAllowed as error:
        allowing = submit_command(stage, error.setting, config=config)
        hint = f"{error.advice}`{allowing}` allows it"
        raise ConfigError(error.message, hint=hint) from error
    except TaskError as error:
        raise ConfigError(error.message, hint=run.hint(error.hint)) from error


def submit_command(stage: str, *settings: str, config: str = "") -> str:
    """Return the command that submits a stage with the options of this command and more settings,
    quoted for a shell.
    """
    values: dict[str, Any] = {"config": config} | click.get_current_context().params
    options = {"--cluster": "cluster", "--size": "size", "--config": "config"}
    options |= {"--run": "run_name", "--runs-dir": "runs_dir"}
    words = [
        word
        for key, name in options.items()
        if values.get(name)
        for word in (key, str(values[name]))
    ]
    overrides = (*values.get("overrides", ()), *settings)
    sets = [word for override in overrides for word in ("--set", override)]
    return shlex.join(["meditron", "submit", stage, *words, *sets])


def find_run(
    services: Services, runs_dir: Path | None, name: str, destructive: bool = False
) -> RunDir:
    """Find the run that RUN names; raises like ``store.find``, which explains ``destructive``."""
    return store.find(store.existing_root(runs_dir, services.environ), name, destructive)
