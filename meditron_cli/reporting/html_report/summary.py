"""The summary of a run: a paragraph, and the figures that matter most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jobs.contract.stage_specs import PRETRAIN
from jobs.contract.units import GIB, JOULES_PER_KWH, plural
from meditron_cli.reporting import score_tables, tables
from meditron_cli.reporting.report import RunReport


class Figure(NamedTuple):
    """A figure of ``report --json`` as the page shows it."""

    label: str
    key: str
    """Its place in the JSON, with dots."""
    value: Any
    text: str


def figures(results: Mapping[str, Any]) -> Iterator[Figure]:
    """Yield the figures of a run that exist."""
    for label, key, form in FIGURES:
        value = find(results, key)
        if value not in (None, 0.0):
            yield Figure(label, key, value, form(value) if callable(form) else format(value, form))


def count(items: list[Any]) -> str:
    """Return the number of items."""
    return f"{len(items):,}"


def seconds(value: float) -> str:
    """Return seconds with three digits."""
    return f"{value:.3g} s"


def gib(value: int) -> str:
    """Return bytes in GiB."""
    return f"{value / GIB:,.1f} GiB"


FIGURES: tuple[tuple[str, str, Any], ...] = (
    ("state", "state", str),
    ("tokens trained", "pretrain.tokens", ","),
    ("steps", "pretrain.steps", ","),
    ("loss, first", "pretrain.loss_first", ".4f"),
    ("loss, last", "pretrain.loss_last", ".4f"),
    ("validation loss, first", "pretrain.validation_first", ".4f"),
    ("validation loss, last", "pretrain.validation_last", ".4f"),
    ("tokens/s", "pretrain.tokens_per_s", ",.0f"),
    ("tokens/s per rank", "pretrain.speed.tokens_per_s_per_rank", ",.0f"),
    ("MFU", "pretrain.speed.mfu", ".1%"),
    ("step, median", "pretrain.speed.step_p50", seconds),
    ("memory of a rank", "pretrain.speed.memory_bytes", gib),
    ("goodput", "goodput", ".1%"),
    ("ETTR", "time.training.ettr", ".1%"),
    ("attempts", "attempts", count),
    ("interruptions", "interruptions", count),
    ("wall-clock", "time.total_s", tables.clock),
    ("node-hours", "time.node_hours", ",.2f"),
    ("GPU-hours", "time.gpu_hours", ",.2f"),
    ("energy, kWh", "usage.kwh", ",.2f"),
    ("emissions, kg CO2", "usage.kg_co2", ",.2f"),
    ("cost", "usage.price", ",.2f"),
    ("documents", "corpus.documents", ","),
    ("tokens of the corpus", "corpus.tokens", ","),
)
"""Label, place in ``report --json``, form."""


def find(value: Any, key: str) -> Any:
    """Return what stands at a place of a JSON object; None where there is nothing."""
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def sentences(report: RunReport, size: str) -> Iterator[str]:
    """Yield what happened in a run, in few sentences."""
    results = report.results
    yield f"{report.name}, size {size} on {report.record.cluster}, {state(report)}."
    if results[PRETRAIN]["tokens"]:
        yield training(results[PRETRAIN])
    models = [item["model"] for item in results["finetuned"] if item["loss_last"] is not None]
    if models:
        yield f"It finetuned {plural(len(models), 'model')}: {', '.join(models)}."
    if results["attempts"]:
        yield from effort(report)
    yield from best_scores(results["evaluations"])
    if results["errors"]:
        yield f"Error: {results['errors'][0]['message']}."


def state(report: RunReport) -> str:
    """Return when a run was submitted and what has become of it."""
    verb = VERBS.get(report.view.state, f"is {report.view.state_text}")
    if report.record.submitted_at is None:
        return verb
    total = report.times.total_s
    after = f" after {long(total)}" if total is not None else ""
    return f"was submitted on {tables.moment(report.record.submitted_at)[:16]} and {verb}{after}"


VERBS = {"succeeded": "succeeded", "failed": "failed", "running": "is running"}


def training(pretrain: Mapping[str, Any]) -> str:
    """Return the sentence about losses and tokens of pretraining."""
    start = pretrain["weights"]
    begin = "random weights" if start == "random" else start or "its weights"
    seen = f"{si(pretrain['tokens'])} tokens in {pretrain['steps']:,} steps"
    losses = f"its loss went from {pretrain['loss_first']:.3f} to {pretrain['loss_last']:.3f}"
    if pretrain["validation_last"] is not None:
        first, last = pretrain["validation_first"], pretrain["validation_last"]
        losses += f", that of validation from {first:.3f} to {last:.3f}"
    return f"Training from {begin} has seen {seen}; {losses}."


def effort(report: RunReport) -> Iterator[str]:
    """Yield the sentences about hours, goodput and interruptions."""
    times = report.times
    if hours := tables.hours_text(times):
        share = "" if times.goodput is None else f"; goodput was {times.goodput:.1%}"
        yield f"It took {hours} in {len(times.attempts):,} attempts{share}."
    if times.interruptions:
        causes = Counter(item.attempt.cause.replace("_", " ") for item in times.interruptions)
        named = ", ".join(f"{cause} ({number:,})" for cause, number in causes.most_common(3))
        more = " and others" if len(causes) > 3 else ""
        redone = sum(item.steps_redone or 0 for item in times.interruptions)
        again = f" {redone:,} steps were redone." if redone else ""
        yield f"Interruptions: {len(times.interruptions):,}, by {named}{more}.{again}"


def best_scores(evaluations: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the sentence about the best score of each benchmark, of three at most."""
    best: dict[str, Mapping[str, Any]] = {}
    for item in evaluations:
        if item["accuracy"] > best.get(item["benchmark"], {"accuracy": -1.0})["accuracy"]:
            best[item["benchmark"]] = item
    parts = [
        f"{item['accuracy']:.1%} on {name} (95 %: {score_tables.interval(item['ci95'])})"
        for name, item in list(best.items())[:3]
    ]
    if parts:
        yield f"Best accuracy: {', '.join(parts)}."


def si(value: float) -> str:
    """Return a large number in words: ``48.1 B``."""
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.0f}"


def long(seconds: float) -> str:
    """Return a time in the largest units that suit it: ``11 d 3 h``."""
    units = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
    for unit, name, smaller, less in units:
        if seconds >= unit:
            return f"{seconds // unit:.0f} {name} {seconds % unit // smaller:.0f} {less}"
    return f"{seconds:.0f} s"


def energy_rows(results: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield what a run used: figure, value, how it is known."""
    usage = results["usage"]
    joules, hours = usage["gpu_energy_j"], usage["gpu_hours"]
    if joules is not None:
        how = "counters of the GPUs" if usage["energy_source"] == "counter" else "power over time"
        measured = f"in {usage['measured_attempts']:,} of {usage['gpu_attempts']:,} attempts"
        yield "energy of the GPUs", f"{joules / JOULES_PER_KWH:,.2f} kWh", f"{how}, {measured}"
        at = f"at a PUE of {usage['pue']:g}" if usage["pue"] else "no PUE is known"
        yield "energy at the wall", f"{usage['kwh']:,.2f} kWh", at
        is_whole = usage["measured_attempts"] == usage["gpu_attempts"]
        if is_whole and (tokens := results[PRETRAIN]["tokens"]):
            each = usage["kwh"] / tokens * 1e9
            yield (
                "energy of a billion tokens",
                f"{each:,.2f} kWh",
                "of all stages, per pretraining's",
            )
    if usage["kg_co2"] is not None:
        yield "emissions", f"{usage['kg_co2']:,.2f} kg CO2", "by the grid factor of the profile"
    if usage["price"] is not None:
        price = f"{usage['price']:,.2f} {usage['currency'] or ''}".rstrip()
        yield "cost", price, f"{hours:,.2f} GPU-hours at the price of the profile"
