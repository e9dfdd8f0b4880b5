"""Published results, held in ``published.json``, and those that a score of ours stands beside."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).with_name("published.json")
FAMILIES = ("Meditron", "Llama-2")
"""Beginnings of the names of models that scores of ours stand beside by default: the paper's, and
what they were trained from.
"""

Table = tuple[str, tuple[str, ...], list[tuple[object, ...]]]
"""Title, columns, rows."""


@dataclass(frozen=True)
class PublishedScore:
    """One published number, with the protocol that it was measured by."""

    table: str
    page: int | None
    source: str
    model: str
    size: float | None
    """Parameters in units of 10^9."""
    benchmark: str
    mode: str
    """``top-token``, ``cot``, ``sc-cot``, ``harness``; ``reported`` where it is not stated."""
    finetuned: bool
    instruction_tuned: bool
    """A model of others that is used as it is."""
    shots: int | None
    seeds: tuple[int, ...]
    split: str
    n: int | None
    """Questions of the benchmark."""
    value: float
    """Per cent."""
    spread: float | None
    """What is printed behind ±; the paper does not say what it means."""
    tokens: float | None
    """Of continued pretraining, in units of 10^9."""
    step: int | None
    beside_ours: bool
    """Whether scores of ours are compared with it; studies of the recipe are only printed."""
    notes: tuple[str, ...]


@functools.cache
def content() -> dict[str, Any]:
    """Return ``published.json``."""
    value: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return value


@functools.cache
def scores() -> tuple[PublishedScore, ...]:
    """Return every published score, in the order of its table."""
    return tuple(
        score
        for table in content()["tables"]
        for row in table["rows"]
        for score in row_scores(table, row)
    )


def row_scores(table: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[PublishedScore]:
    """Yield the scores of one row; what a row does not say is its table's."""
    of = {**table, **row}
    spreads = row.get("spreads", ())
    for name, value, spread in zip_longest(of["columns"], row["values"], spreads):
        if value is None:
            continue
        benchmark = content()["benchmarks"][name]
        yield PublishedScore(
            table=of["table"],
            page=of["page"],
            source=of["source"],
            model=of["model"],
            size=of["size"],
            benchmark=name,
            mode=of["mode"],
            finetuned=of.get("finetuned", False),
            instruction_tuned=of.get("instruction_tuned", False),
            shots=shots(of),
            seeds=tuple(of.get("seeds", ())),
            split=benchmark["split"],
            n=benchmark["n"],
            value=value,
            spread=spread,
            tokens=of.get("tokens"),
            step=of.get("step"),
            beside_ours=of.get("beside_ours", True),
            notes=tuple(of["notes"]),
        )


class Place(NamedTuple):
    """The place of a score of ours among the published ones."""

    benchmark: str
    """As ``published.json`` names it."""
    mode: str
    finetuned: bool
    size: float
    """Parameters in units of 10^9."""
    step: int
    """Of the checkpoint in continued pretraining."""


def beside(place: Place, families: Sequence[str] = FAMILIES) -> list[PublishedScore]:
    """Return the published scores that stand beside one of ours: those of the same benchmark and
    mode, of models of some families, and of the size that is nearest (as a ratio).

    A training's checkpoint is compared with that of the same step where it was published (Table 6).
    """
    same = [
        score
        for score in scores()
        if score.beside_ours
        and score.model.startswith(tuple(families))
        and (score.benchmark, score.mode, score.finetuned) == place[:3]
    ]
    sizes = {score.size for score in same if score.size}
    if not sizes:
        return []
    nearest = min(sizes, key=lambda known: abs(math.log(known / place.size)))
    of_size = [score for score in same if score.size == nearest]
    named = [score for score in of_size if score.step == place.step != 0]
    models = {score.model for score in named}
    return named + [one for one in of_size if one.step is None and one.model not in models]


def tables() -> Iterator[tuple[Table, Sequence[str]]]:
    """Yield the published tables as they were printed, each with its notes."""
    for table in content()["tables"]:
        page = f", p. {table['page']}" if table["page"] else ""
        title = f"{table['table']}{page}: {table['title']}\n{table['source']}"
        names = [content()["benchmarks"][name]["title"] for name in table["columns"]]
        protocols = [protocol(table, row) for row in table["rows"]]
        varies = [name for name in protocols[0] if len({row[name] for row in protocols}) > 1]
        rows: list[tuple[object, ...]] = [
            (model(table, row), *(known[name] for name in varies), *cells(row))
            for known, row in zip(protocols, table["rows"], strict=True)
        ]
        yield (title, ("model", *varies, *names), rows), table["notes"]
    for figure in content()["figures"]:
        title = f"{figure['figure']}, p. {figure['page']}: {figure['title']}\n{figure['source']}"
        columns = ("series", "points", figure["x"], "first", "last")
        yield (title, columns, [series_row(series) for series in figure["series"]]), figure["notes"]


def protocol(table: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, object]:
    """Return what may differ between the rows of a table beside the model."""
    of = {**table, **row}
    step = of.get("step")
    return {
        "mode": of["mode"],
        "shots": shots(of),
        "step": None if step is None else f"{step:,}",
        "tokens": of.get("tokens"),
    }


def shots(of: Mapping[str, Any]) -> int | None:
    """Return the shots of a row; a table may have some for each size of a model."""
    value = of.get("shots")
    return value[f"{of['size']:g}"] if isinstance(value, dict) else value


def model(table: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """Return the model of a row, with a star where it is used as others have tuned it."""
    return f"{row['model']}{'*' if {**table, **row}.get('instruction_tuned') else ''}"


def cells(row: Mapping[str, Any]) -> Iterator[str | None]:
    """Yield the values of a row as they were printed, with what stands behind ±."""
    for value, spread in zip_longest(row["values"], row.get("spreads", ())):
        yield None if value is None else number(value) + (f"±{spread:g}" if spread else "")


def number(value: float) -> str:
    """Return a percentage with one decimal, or as many as it has."""
    return f"{value:.1f}" if round(value, 1) == value else f"{value:g}"


def series_row(series: Mapping[str, Any]) -> tuple[object, ...]:
    """Return the row of a curve: its points, from where to where, and its ends."""
    (first, begin), *_, (last, end) = series["points"]
    count = len(series["points"])
    return series["name"], count, f"{first:g} to {last:g}", f"{begin:.4f}", f"{end:.4f}"
