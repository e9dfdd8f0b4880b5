"""``meditron check``: report every error of the files at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meditron_cli.commands.options import (
    cluster_option,
    json_option,
    require_trainable,
    run_of,
    size_option,
)
from meditron_cli.errors import ConfigError
from meditron_cli.services import Services

if TYPE_CHECKING:
    from meditron_cli.config.check import Checked


@click.command("check", short_help="Check experiment files and cluster profiles.")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="FILE...")
@cluster_option("Check experiments on this cluster.", required=False)
@size_option("Check experiments with this recipe.")
@json_option
@click.pass_obj
def command(
    services: Services,
    files: tuple[Path, ...],
    cluster: str | None,
    size: str | None,
    as_json: bool,
) -> None:
    """Check experiment files, recipes and cluster profiles; all errors at once.

    Without FILE, experiment.yaml. A file is checked alone, as the part of a configuration that it
    is; with --cluster and --size, experiments are merged with these and checked as a whole, as
    `meditron plan pipeline` does. Either way those of the inputs are read that this machine has.
    """
    from meditron_cli import console
    from meditron_cli.config.check import check_file
    from meditron_cli.config.files import DEFAULT_CONFIG

    if (cluster is None) != (size is None):
        raise ConfigError("--cluster and --size go together", hint="give both, or neither")
    results = [check_file(path) for path in files or (DEFAULT_CONFIG,)]
    if cluster and size:
        results = [check_merged(services, checked, cluster, size) for checked in results]
    else:
        results = [check_files(checked) for checked in results]
    if as_json:
        valid = not any(checked.errors for checked in results)
        console.json_out({"valid": valid, "files": [row(checked) for checked in results]})
    else:
        fitting = f", which fits cluster {cluster} at size {size}" if cluster else ""
        show(results, fitting)
    if errors := [sentence for checked in results for sentence in checked.errors]:
        hints = dict.fromkeys(hint for checked in results for hint in checked.hints)
        raise ConfigError("\n".join(errors), hint="\n".join(hints))


def check_files(checked: Checked) -> Checked:
    """Check the files that a valid experiment names by itself, as far as this machine has them."""
    from jobs.contract.stage_specs import STAGES
    from meditron_cli.inputs import problems

    if checked.part is None:
        return checked
    errors = problems.data_problems(checked.part, None, STAGES)
    errors += problems.instruction_problems(checked.part.finetune)
    errors += problems.judge_problems(checked.part)
    return replace(checked, errors=tuple(errors))


def check_merged(services: Services, checked: Checked, cluster: str, size: str) -> Checked:
    """Check a valid experiment again, merged with profile and recipe: that it fits both, and its
    inputs.
    """
    from meditron_cli.config.load import load
    from meditron_cli.inputs import problems
    from meditron_cli.runs import prepare

    if checked.errors or checked.kind != "experiment":
        return checked
    absent: tuple[str, ...] = ()
    try:
        loaded = load(cluster, size, Path(checked.file), ())
        stages = prepare.stages_of(prepare.PIPELINE, loaded.experiment)
        run = run_of(services, loaded)
        plan = prepare.plan_of(loaded, stages, run=run)
        absent = tuple(item.sentence for item in problems.missing(loaded, stages))
        if sentences := problems.unusable(loaded, stages):
            raise ConfigError("\n".join(sentences))
        require_trainable(plan, run, prepare.PIPELINE, checked.file, partly=True)
    except ConfigError as error:
        errors, hints = tuple(error.message.splitlines()), tuple(error.hint.splitlines())
        return replace(checked, errors=errors, hints=hints, absent=absent)
    return replace(checked, absent=absent, warnings=plan.warnings)


def show(results: Iterable[Checked], fitting: str) -> None:
    """Print a line for each valid file, and warn of placeholders, absent inputs and the plan's.

    Args:
        fitting: what else was checked of experiments.
    """
    from meditron_cli import console

    for checked in results:
        if not checked.errors:
            more = fitting if checked.kind == "experiment" else ""
            console.data(f"{checked.file}: a valid {NOUNS[checked.kind]}{more}")
        for sentence in checked.placeholders:
            console.warning(sentence)
        for sentence in checked.absent:
            console.warning(f"not checked: {sentence}")
        for sentence in checked.warnings:
            console.warning(sentence)


def row(checked: Checked) -> dict[str, Any]:
    """Return a file as ``check --json`` prints it."""
    return {
        "file": checked.file,
        "kind": checked.kind,
        "errors": checked.errors,
        "placeholders": checked.placeholders,
        "absent": checked.absent,
        "warnings": checked.warnings,
    }


NOUNS = {"experiment": "experiment", "cluster": "cluster profile"}
