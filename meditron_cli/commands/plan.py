"""``meditron plan``: what would run, with what, without submitting."""

from __future__ import annotations

from pathlib import Path

import click

from meditron_cli.commands.options import json_option, load_target, target_options


@click.command("plan", short_help="Show what would run, with what, without submitting.")
@click.argument(
    "stage", type=click.Choice(["curate", "tokenize", "pretrain", "evaluate", "pipeline"])
)
@target_options
@json_option
def command(
    stage: str,
    cluster: str,
    size: str,
    config: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show resources, layout, memory, time and cost of STAGE, without submitting anything.

    Sizes are computed and times guessed; nothing is measured here.
    """
    from jobs.specs import STAGES, PretrainSpec
    from meditron_cli import console
    from meditron_cli.inputs import plan_of
    from meditron_cli.plan import summary

    loaded = load_target(cluster, size, config, overrides)
    plan = plan_of(loaded, STAGES if stage == "pipeline" else (stage,))
    rows = summary.stage_rows(plan)
    facts = None
    for item in plan.stages:
        for task in item.tasks:
            if isinstance(task.spec, PretrainSpec) and plan.lead:
                facts = summary.training(task.spec, loaded.cluster, item.resources, plan.lead)
    warnings = [*plan.warnings, *loaded.placeholders]
    if as_json:
        console.json_out({"stages": rows, "training": facts, "warnings": warnings})
        return
    console.table(*summary.table(rows))
    if facts:
        console.data("\n".join(["", *summary.training_lines(facts)]))
    for sentence in warnings:
        console.warning(sentence)
