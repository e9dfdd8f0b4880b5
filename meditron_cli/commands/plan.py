"""``meditron plan``: show stages, resources and cost without submitting."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.contract.stage_specs import PRETRAIN
from meditron_cli.commands.options import (
    json_option,
    load_target,
    require_trainable,
    run_of,
    stage_argument,
    target_options,
)
from meditron_cli.errors import ConfigError
from meditron_cli.services import Services

if TYPE_CHECKING:
    from jobs.contract.rundir import RunDir
    from jobs.contract.stage_specs import PretrainSpec
    from meditron_cli.config.load import Loaded
    from meditron_cli.plan.model import Plan


@click.command("plan", short_help="Show what would run, with what, without submitting.")
@stage_argument
@target_options
@click.option(
    "search",
    "--search",
    is_flag=True,
    help="Rank the layouts of as many GPUs that fit, by computed step time.",
)
@json_option
@click.pass_obj
def command(
    services: Services,
    stage: str,
    cluster: str,
    size: str,
    config: Path | None,
    overrides: tuple[str, ...],
    search: bool,
    as_json: bool,
) -> None:
    """Show resources, layout, memory, time and cost of STAGE, without submitting anything.

    Sizes and the time of a step are computed; docs/plan.md compares them with published trainings.
    How long saves take is measured once a run of the same training has made some. A training that
    `meditron submit` refuses for its tokens or checkpoints is shown, and refused too.
    """
    from meditron_cli import console
    from meditron_cli.plan import corpus, early, summary
    from meditron_cli.plan.finetuning import stages as finetuning
    from meditron_cli.runs import prepare, space

    loaded = load_target(cluster, size, config, overrides)
    if search:
        if stage != PRETRAIN:
            words = search_words(cluster, size, config, overrides)
            raise ConfigError(
                f"--search ranks layouts of pretraining, not of {stage}",
                hint=f"`{shlex.join(words)}` ranks them",
            )
        show_layouts(loaded, as_json)
        return
    run = run_of(services, loaded)
    planned = prepare.with_corpus_tasks(loaded, run)
    stages = prepare.stages_of(stage, planned.experiment)
    plan = prepare.plan_of(planned, stages, prepare.measured_times(run, stages), run=run)
    rows = summary.stage_rows(plan)
    facts = training_figures(plan, loaded, run)
    known, now = loaded.known, services.clock.now()
    warnings = prepare.warnings(plan, loaded, now)
    if not loaded.placeholders:
        warnings += space.space_warnings(plan, run)
    if as_json:
        site = {"file": known.file, "time": known.time} if known else None
        console.json_out({"stages": rows, "training": facts, "warnings": warnings, "facts": site})
    else:
        console.table(*summary.table(rows))
        lines = [*(summary.training_lines(facts) if facts else ()), *early.lines(plan)]
        lines += finetuning.lines(plan)
        lines += corpus.lines(plan, planned.experiment.curate)
        if lines:
            console.data("\n".join(["", *lines]))
        for sentence in warnings:
            console.warning(sentence)
        if known and known.time is not None:
            console.note(known.age(now))
    require_trainable(plan, run, stage, partly=True)


SHOWN_LAYOUTS = 10


def search_words(
    cluster: str, size: str, config: Path | None, overrides: tuple[str, ...]
) -> list[str]:
    """Return the command that searches a layout of the first stage that trains."""
    words = ["meditron", "plan", PRETRAIN, "--search"]
    words += ["--cluster", cluster, "--size", size]
    words += ["--config", str(config)] if config else []
    return [*words, *(word for value in overrides for word in ("--set", value))]


def show_layouts(loaded: Loaded, as_json: bool) -> None:
    """Print the layouts that fit, fastest first, and the settings of the best."""
    from meditron_cli import console
    from meditron_cli.plan import search, summary

    found = summary.search_rows(search.ranked(loaded.cluster, loaded.experiment))
    if as_json:
        console.json_out({"layouts": found})
        return
    shown = found[:SHOWN_LAYOUTS]
    console.table(*summary.search_table(shown))
    best = " ".join(f"--set {word}" for word in found[0]["set"])
    console.data(
        f"\n{len(shown)} of {len(found)} layouts that fit; times and memory are computed, with "
        f"transformer-engine\nbest: {best}"
    )


def training_figures(plan: Plan, loaded: Loaded, run: RunDir) -> dict[str, Any] | None:
    """Return the figures of the plan's pretraining; None where it has none."""
    from meditron_cli.plan import summary

    if plan.lead is None:
        return None
    stage = plan.stage(PRETRAIN)
    task = stage.tasks[0]
    assert task.pretraining
    facts = summary.training(task.pretraining, loaded.cluster, stage.resources, plan.lead)
    facts |= data_figures(run, task.pretraining, loaded.experiment.pretrain.targets)
    facts["weights_folder"] = plan.weights_folder or None
    given = loaded.experiment.supervision.startup_limit_seconds is not None
    return facts | summary.startup(task, plan.lead, given)


def data_figures(run: RunDir, spec: PretrainSpec, targets: Sequence[int]) -> dict[str, Any]:
    """Return the corpora of a training, their tokens, and how often it reads them, None while that
    is not known; and its phases, with the target step that is known to each.
    """
    from jobs.data import corpora

    found = corpora.sizes(run, spec)
    return {
        "corpora": corpora.rows(spec, found, spec.train_steps) if found else None,
        "phases": [
            {**row, "train_steps": target}
            for row, target in zip(corpora.phase_rows(spec, found), targets, strict=True)
        ],
    }
