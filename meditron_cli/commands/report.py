"""``meditron report``: what a run did and found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from meditron_cli import console
from meditron_cli.commands import options
from meditron_cli.runs import store
from meditron_cli.services import Services


@click.command()
@options.optional_run_argument
@options.runs_dir_option
@options.json_option
@click.pass_obj
def command(services: Services, name: str | None, runs_dir: Path | None, as_json: bool) -> None:
    """Report what a run did and found.

    Tokens, losses, accuracy before and after training with its 95 % interval, time and throughput,
    and where its files lie. Without RUN it is the run last worked on. An unfinished run is
    reported as far as it is.
    """
    from meditron_cli.reporting import report, run_times, tables, task_errors
    from meditron_cli.runs import query, state

    run = (
        options.find_run(services, runs_dir, name)
        if name is not None
        else store.latest(store.existing_root(runs_dir, services.environ))
    )
    record, infos, now = query.evidence(services, [run], in_full=True)[0]
    record.require_readable()
    seen = state.fold(record, infos, now)
    spent = run_times.measure(run, record, seen, now)
    errors = task_errors.of_run(run, record, infos, now)
    found = report.gather(run, record, seen, spent, errors)
    if as_json:
        console.json_out(found)
        return
    console.data(f"run {found['run']}: {found['state']}")
    more = (tables.training_table(spent), tables.interruption_table(spent))
    for title, columns, rows in (*sections(found), *more, *places(found)):
        if rows:
            console.data(f"\n{title}")
            console.table(columns, rows)


Section = tuple[str, tuple[str, ...], list[tuple[object, ...]]]


def sections(found: Mapping[str, Any]) -> Iterable[Section]:
    """The report's tables: title, columns, rows."""
    yield "corpus", ("what", "count"), corpus_rows(found["corpus"])
    yield "pretraining", ("what", "first", "last"), loss_rows(found["pretrain"])
    yield (
        "evaluation",
        ("benchmark", "step", "accuracy", "95 % interval", "chance", "questions", "p"),
        [evaluation_row(item) for item in found["evaluations"]],
    )
    yield "time", ("stage", "wall", "work", "queued"), time_rows(found)


def places(found: Mapping[str, Any]) -> Iterable[Section]:
    """The report's last tables: what went wrong, and where everything lies."""
    yield (
        "errors",
        ("stage", "task", "message"),
        [(item["stage"], item["task"], item["message"]) for item in found["errors"]],
    )
    yield "where", ("what", "path"), list(found["paths"].items())


def corpus_rows(corpus: Mapping[str, Any]) -> list[tuple[object, ...]]:
    """Documents and tokens."""
    return [(key, f"{corpus[key]:,}") for key in ("documents", "tokens") if corpus[key] is not None]


def loss_rows(pretrain: Mapping[str, Any]) -> list[tuple[object, ...]]:
    """Losses in nats per token, with steps, tokens and speed below them."""
    if pretrain["steps"] is None:
        return []
    return [
        ("loss", number(pretrain["loss_first"]), number(pretrain["loss_last"])),
        (
            "validation loss",
            number(pretrain["validation_first"]),
            number(pretrain["validation_last"]),
        ),
        ("step", 1, pretrain["steps"]),
        ("tokens", None, f"{pretrain['tokens']:,}"),
        ("tokens/s", None, f"{pretrain['tokens_per_s']:,.0f}"),
    ]


def evaluation_row(item: Mapping[str, Any]) -> tuple[object, ...]:
    """One benchmark on one checkpoint."""
    low, high = item["ci95"]
    return (
        item["benchmark"],
        item["checkpoint_step"],
        f"{item['accuracy']:.1%}",
        f"{low:.1%} to {high:.1%}",
        f"{item['chance']:.1%}",
        item["n"],
        f"{item['p_value']:.2g}",
    )


def time_rows(found: Mapping[str, Any]) -> list[tuple[object, ...]]:
    """Seconds a stage, and of the whole run."""
    rows: list[tuple[object, ...]] = [
        (name, seconds(item["wall_s"]), seconds(item["busy_s"]), seconds(item["queued_s"]))
        for name, item in found["time"]["stages"].items()
    ]
    spent = found["time"]
    if spent["total_s"] is not None:
        rows.append(("in all", seconds(spent["total_s"]), None, seconds(spent["queued_s"])))
    if spent["node_hours"]:
        rows.append(("node-hours", f"{spent['node_hours']:,.2f}", None, None))
    if spent["gpu_hours"]:
        rows.append(("GPU-hours", f"{spent['gpu_hours']:,.2f}", None, None))
    return rows


def seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:,.1f} s"


def number(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"
