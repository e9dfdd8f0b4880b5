"""Statistics of a run's tokens, for ``report``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.tokenization.counts import merged

COLUMNS = (
    "tokens of", "documents", "skipped", "tokens", "longest", "unknown", "names as text",
    "tokens/word", "bytes/token", "engine",
)  # fmt: skip
SHARDS = 20
"""Most shards that are shown each by itself; ``--json`` has all."""


def tokenization(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the counts of all tokens, of each split, and of each shard; None without any.

    Args:
        summaries: of the tasks of tokenize; a shard may be that of several.
    """
    shards: dict[str, list[Mapping[str, Any]]] = {}
    for summary in summaries:
        for name, counts in summary.get("shards", {}).items():
            entry = {**counts, "engine": summary["engine"], "reason": summary["engine_reason"]}
            shards.setdefault(name, []).append(entry)
    if not shards:
        return None
    splits: dict[str, list[Mapping[str, Any]]] = {}
    for name in sorted(shards):
        splits.setdefault(Path(name).parent.name, []).extend(shards[name])
    return {
        "all": whole(entry for entries in shards.values() for entry in entries),
        "splits": {name: whole(splits[name]) for name in sorted(splits)},
        "shards": {name: whole(shards[name]) for name in sorted(shards)},
    }


def whole(entries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sum of some counts, their engines, and why these were not gigatoken."""
    kept = list(entries)
    engines, reasons = ({entry[key] for entry in kept} for key in ("engine", "reason"))
    return {
        **merged(kept).to_json(),
        "engines": sorted(engines),
        "reasons": sorted(reasons - {""}),
    }


def rows(found: Mapping[str, Any] | None) -> list[tuple[object, ...]]:
    """Return the rows of the report's table: all, splits, and shards where they are few."""
    if found is None:
        return []
    shards = found["shards"] if len(found["shards"]) <= SHARDS else {}
    named = {"all": found["all"], **found["splits"], **shards}
    return [row(name, item) for name, item in named.items()]


def row(name: str, item: Mapping[str, Any]) -> tuple[object, ...]:
    """Return the row of some counts; that of all has the reasons why gigatoken did not encode."""
    counts = ("documents", "skipped", "tokens", "longest", "unknown", "literals")
    ratios = (item["fertility"], item["bytes_per_token"])
    return (
        name,
        *(f"{item[key]:,}" for key in counts),
        *(None if ratio is None else f"{ratio:.2f}" for ratio in ratios),
        "; ".join([", ".join(item["engines"]), *(item["reasons"] if name == "all" else ())]),
    )
