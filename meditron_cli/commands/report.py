"""``meditron report``: the results of a run."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.contract import metrics_log
from jobs.contract.files import write_bytes
from jobs.contract.rundir import RunDir
from jobs.contract.units import GIB, ranges_text
from meditron_cli import console
from meditron_cli.commands import options
from meditron_cli.errors import ConfigError
from meditron_cli.reporting import finetuned, funnel, judged, score_tables, token_statistics
from meditron_cli.runs import store
from meditron_cli.services import Services

if TYPE_CHECKING:
    from meditron_cli.reporting.report import RunReport


@click.command()
@click.argument("names", metavar="[RUN]...", nargs=-1, shell_complete=options.complete_run)
@options.runs_dir_option
@click.option("--scores", is_flag=True, help="Show the tables of scores alone.")
@click.option(
    "page",
    "--html",
    is_flag=False,
    flag_value="",
    metavar="[FILE]",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a page for a browser, of all RUNs side by side; default: RUN.html in this folder.",
)
@click.option("--published", is_flag=True, help="Show the published results alone, of no run.")
@click.option(
    "--answers", is_flag=True, help="Show answers to questions without choices alone, as Markdown."
)
@options.json_option
@click.pass_obj
def command(
    services: Services,
    names: tuple[str, ...],
    runs_dir: Path | None,
    scores: bool,
    page: Path | None,
    published: bool,
    answers: bool,
    as_json: bool,
) -> None:
    """Show the results of a run.

    Tokens, losses, accuracy before and after training with its 95 % interval and beside published
    results, time and throughput, and the paths of its files. Without RUN it is the run last worked
    on. An unfinished run is reported as far as it is. With a second RUN, the paired tests compare
    its scores with those of the first.
    """
    if page is not None and (scores or published or answers):
        raise click.UsageError("--html shows all; leave --scores, --published and --answers out")
    if published:
        if names:
            raise click.UsageError("--published is of no run; leave RUN out")
        show_published(as_json)
        return
    runs = [options.find_run(services, runs_dir, name) for name in names] or [
        store.latest(store.existing_root(runs_dir, services.environ))
    ]
    if answers:
        show_answers(runs)
    elif page is not None:
        write_page(services, runs, page, as_json)
    else:
        found = compared(services, runs)
        console.json_out(found.results) if as_json else show(found, scores)


def compared(services: Services, runs: Sequence[RunDir]) -> RunReport:
    """Return the report of a run, compared with a second one.

    Raises:
        ConfigError: there are more runs.
    """
    if len(runs) > 2:
        raise ConfigError(
            f"report compares two runs, not {len(runs)}",
            hint="`--html` shows any number of runs side by side",
        )
    [found], _ = gather(services, runs[:1], runs[1] if runs[1:] else None)
    return found


def show(found: RunReport, scores_alone: bool) -> None:
    """Print the tables of a run's report, or those of scores."""
    for sentence in finetuned.notes(found.results["finetuned"]):
        console.warning(sentence)
    console.data(f"run {found.name}: {found.results['state']}")
    for title, columns, rows in (
        score_sections(found.results) if scores_alone else all_sections(found)
    ):
        if rows:
            console.data(f"\n{title}")
            console.table(columns, rows)


def gather(
    services: Services, runs: Sequence[RunDir], other: RunDir | None = None
) -> tuple[list[RunReport], float]:
    """Return the reports of runs, and the time that they are of.

    Args:
        other: a run whose scores are compared with those of each.
    """
    from meditron_cli.reporting import report, run_times
    from meditron_cli.reporting.reasons import task_errors
    from meditron_cli.runs import query, state

    found, now = [], services.clock.now()
    for run, (record, infos, now) in zip(
        runs, query.evidence(services, runs, in_full=True), strict=True
    ):
        record.require_readable()
        view = state.derive_view(record, infos, now)
        times = run_times.measure(run, record, view, now)
        errors = task_errors.of_run(run, record, infos, now)
        results = report.gather(run, record, view, times, errors, other)
        found.append(report.RunReport(run, record, view, times, results))
    return found, now


def write_page(services: Services, runs: Sequence[RunDir], file: Path, as_json: bool) -> None:
    """Write the page of runs, and print its path.

    Raises:
        ConfigError: a run is named twice, or the file has another name than pages have.
    """
    from meditron_cli.reporting.html_report import render

    file = file if file.name else Path(f"{runs[0].name}.html")
    if file.suffix != ".html":
        hint = "name runs before --html; without a file the page is named after the first one"
        raise ConfigError(f"--html: {file} does not end in .html", hint=hint)
    if not file.absolute().parent.is_dir():
        raise ConfigError(
            f"there is no folder {file.parent}", hint="make it, or name a file in another folder"
        )
    if len({run.root for run in runs}) < len(runs):
        raise ConfigError("a run is named twice", hint="name each run once")
    reports, now = gather(services, runs)
    text = render.page(reports, [all_sections(found) for found in reports], now).encode()
    write_bytes(file.absolute(), text)
    console.json_out({"file": str(file), "bytes": len(text)}) if as_json else console.data(
        str(file)
    )


def all_sections(found: RunReport) -> Iterable[Section]:
    """Yield all tables of a run's report."""
    from meditron_cli.reporting import tables

    yield from sections(found.results)
    yield tables.training_table(found.times)
    yield tables.interruption_table(found.times)
    yield from last_sections(found.results)


def show_published(as_json: bool) -> None:
    """Print the published results, each table with what is known of it."""
    from meditron_cli.reporting import published

    if as_json:
        console.json_out(published.content())
        return
    for (title, columns, rows), notes in published.tables():
        console.data(title)
        console.table(columns, rows)
        for note in notes:
            console.data(textwrap.fill(f"- {note}", 100, subsequent_indent="  "))
        console.data("")


def show_answers(runs: Sequence[RunDir]) -> None:
    """Print the answers of models to the questions without choices, side by side."""
    from jobs.evaluation import safety
    from meditron_cli.reporting import scores

    found: dict[str, list[safety.SafetyAnswer]] = {}
    for run in runs:
        for name, answers in scores.answers(run, len(runs) > 1):
            found.setdefault(name, []).extend(answers)
    if not found:
        raise ConfigError(
            f"{runs[0].name}: no model has answered questions of kind safety or healthbench",
            hint="add them to evaluate.benchmarks (docs/evaluation.md), then `meditron submit "
            "generate`",
        )
    console.data(safety.side_by_side(found))


SPIKES = 20
"""Most spikes that are shown, the newest."""

Section = tuple[str, tuple[str, ...], list[tuple[object, ...]]]


def sections(results: Mapping[str, Any]) -> Iterable[Section]:
    """Yield the report's tables: title, columns, rows."""
    yield "corpus", ("what", "count"), corpus_rows(results["corpus"])
    yield "sources", funnel.COLUMNS, list(funnel.rows(results["corpus"]["sources"]))
    yield (
        "tokenization",
        token_statistics.COLUMNS,
        token_statistics.rows(results["corpus"]["tokenization"]),
    )
    yield "pretraining", ("what", "first", "last"), pretraining_rows(results["pretrain"])
    yield "finetuned models", finetuned.COLUMNS, finetuned.rows(results["finetuned"])
    yield (
        "spikes",
        ("step", "observed", "action"),
        [tuple(item.values()) for item in results["spikes"][-SPIKES:]],
    )
    yield (
        "verification",
        ("stage", "step", "largest difference", "mean", "same token", "result"),
        [verification_row(item) for item in results["verifications"]],
    )
    yield (
        "generation",
        ("stage", "step", "model", "repeated 4-grams", "4-grams of the prompt", "ended early"),
        [row for item in results["verifications"] for row in rate_rows(item)],
    )
    yield from score_sections(results)
    yield "time", ("stage", "wall", "work", "queued"), time_rows(results)


def score_sections(results: Mapping[str, Any]) -> Iterable[Section]:
    """Yield the tables of scores, and those of judged answers."""
    yield from score_tables.tables(results)
    yield from judged.tables(results["judged"])


def last_sections(results: Mapping[str, Any]) -> Iterable[Section]:
    """Yield the report's last tables: errors, and the paths of results."""
    yield (
        "errors",
        ("stage", "task", "message"),
        [(item["stage"], item["task"], item["message"]) for item in results["errors"]],
    )
    yield "where", ("what", "path"), list(results["paths"].items())


def corpus_rows(corpus: Mapping[str, Any]) -> list[tuple[object, ...]]:
    """Return the rows of documents and tokens."""
    return [(key, f"{corpus[key]:,}") for key in ("documents", "tokens") if corpus[key] is not None]


def pretraining_rows(pretrain: Mapping[str, Any]) -> list[tuple[object, ...]]:
    """Return the rows of weights, of losses in nats per token, and of steps, tokens and speed."""
    if pretrain["tokens"] is None:
        return []
    return [
        ("weights", weights_text(pretrain), None),
        ("loss", number(pretrain["loss_first"]), number(pretrain["loss_last"])),
        ("perplexity", *perplexities(pretrain, "loss")),
        (
            "validation loss",
            number(pretrain["validation_first"]),
            number(pretrain["validation_last"]),
        ),
        ("validation perplexity", *perplexities(pretrain, "validation")),
        *validation_rows(pretrain["validation_corpora"]),
        ("step", 1, pretrain["steps"]),
        *(
            [("steps skipped", None, skips_text(pretrain["skipped"]))]
            if pretrain["skipped"]
            else []
        ),
        ("tokens", None, f"{pretrain['tokens']:,}"),
        *(
            (f"epochs of {corpus['name']}", None, f"{corpus['epochs']:.2f}")
            for corpus in pretrain["corpora"]
        ),
        ("tokens/s", None, f"{pretrain['tokens_per_s']:,.0f}"),
        *speed_rows(pretrain["speed"]),
    ]


def speed_rows(speed: Mapping[str, Any] | None) -> Iterable[tuple[object, ...]]:
    """Yield the rows of speed, utilisation, seconds of a step, and memory."""
    if speed is None:
        return
    yield "tokens/s per rank", None, f"{speed['tokens_per_s_per_rank']:,.0f}"
    if speed["mfu"] is not None:
        yield "MFU", None, f"{speed['mfu']:.1%}"
        yield "MFU without attention", None, f"{speed['mfu_without_attention']:.1%}"
    yield "step, median", None, f"{speed['step_p50']:.3g} s"
    yield "step, 95th percentile", None, f"{speed['step_p95']:.3g} s"
    yield "steps waiting for data", None, f"{speed['data']:.1%}"
    yield "steps reducing gradients", None, f"{speed['communication']:.1%}"
    yield "memory of a rank", None, f"{speed['memory_bytes'] / GIB:,.2f} GiB"


def perplexities(pretrain: Mapping[str, Any], what: str) -> tuple[str | None, ...]:
    """Return the perplexities of the first and the last loss."""
    losses = (pretrain[f"{what}_first"], pretrain[f"{what}_last"])
    return tuple(
        None if loss is None else f"{metrics_log.perplexity(loss):,.4g}" for loss in losses
    )


def validation_rows(found: Sequence[Mapping[str, Any]]) -> Iterable[tuple[object, ...]]:
    """Yield the rows of loss and perplexity of each of several corpora that are validated on."""
    for item in found if len(found) > 1 else ():
        first, last = item["first"], item["last"]
        losses = [None if part is None else f"{part['loss']:.4f}" for part in (first, last)]
        each = [None if part is None else f"{part['perplexity']:,.4g}" for part in (first, last)]
        yield (f"validation loss of {item['name']}", *losses)
        yield (f"validation perplexity of {item['name']}", *each)


def skips_text(skipped: Sequence[Mapping[str, Any]]) -> str:
    """Return the steps whose batches were skipped, by reason: ``7, 9-12 (pretrain.skip_steps)``."""
    by_reason: dict[str, list[int]] = {}
    for item in skipped:
        by_reason.setdefault(item["reason"], []).append(item["step"])
    return "; ".join(f"{ranges_text(steps)} ({reason})" for reason, steps in by_reason.items())


def verification_row(item: Mapping[str, Any]) -> tuple[object, ...]:
    """Return the row of one comparison of weights with a checkpoint."""
    return (
        item["stage"],
        item["step"],
        f"{item['max']:.2g}",
        f"{item['mean']:.2g}",
        f"{item['agreement']:.1%}",
        "; ".join(item["problems"]) or "both compute the same",
    )


def rate_rows(item: Mapping[str, Any]) -> Iterable[tuple[object, ...]]:
    """Yield the rows of how each model of a comparison continues prompts."""
    found = item["rates"] or {}
    for side in (name for name in ("weights", "checkpoint", "base") if name in found):
        rates = found[side]
        shares = [f"{rates[name]:.1%}" for name in ("repetition", "prompt_echo", "early_eos")]
        yield (item["stage"], item["step"], side, *shares)


def weights_text(pretrain: Mapping[str, Any]) -> str | None:
    """Return the weights that training started from, with their commit on the hub where known."""
    commit = (pretrain["origin"] or {}).get("commit")
    return f"{pretrain['weights']}, commit {commit[:12]}" if commit else pretrain["weights"]


def time_rows(results: Mapping[str, Any]) -> list[tuple[object, ...]]:
    """Return the rows of seconds per stage and of the whole run."""
    rows: list[tuple[object, ...]] = [
        (name, seconds(item["wall_s"]), seconds(item["busy_s"]), seconds(item["queued_s"]))
        for name, item in results["time"]["stages"].items()
    ]
    times = results["time"]
    if times["total_s"] is not None:
        rows.append(("in all", seconds(times["total_s"]), None, seconds(times["queued_s"])))
    if times["node_hours"]:
        rows.append(("node-hours", f"{times['node_hours']:,.2f}", None, None))
    if times["gpu_hours"]:
        rows.append(("GPU-hours", f"{times['gpu_hours']:,.2f}", None, None))
    usage = results["usage"]
    for label, key, unit in (
        ("energy", "kwh", "kWh"),
        ("emissions", "kg_co2", "kg CO2"),
        ("cost", "price", usage["currency"] or ""),
    ):
        if usage[key] is not None:
            rows.append((label, f"{usage[key]:,.2f} {unit}".rstrip(), None, None))
    return rows


def seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:,.1f} s"


def number(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"
