"""Counts of the records of each source of a corpus, by its manifest: what became of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jobs.contract.corpus.folder import MANIFEST_PATH
from jobs.contract.files import read_small
from jobs.contract.rundir import RunDir

KEPT = ("kept", "documents", "train", "validation", "bytes")
"""Counts of what the shards have: ``kept`` counts a document once, ``documents`` its copies too."""

NOT_DROPPED = {
    *KEPT,
    "in",
    "files",
    "file_bytes",
    "characters_in",
    "deletion",
    "repaired",
}
"""Counts of a source that are no reasons for which records were dropped."""

BAR = 30
"""Characters of all records of a source."""


def of_run(run: RunDir) -> list[dict[str, Any]]:
    """Return the sources of a run's corpus; none before it is complete."""
    found = read_small(run.path(MANIFEST_PATH)).get("sources")
    try:
        return [source(item) for item in found or ()]
    except (KeyError, TypeError, AttributeError):  # that of an earlier version, or damaged
        return []


def source(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return one source of a manifest: its records, the dropped ones by reason, and the rest."""
    counts = {name: value for name, value in item.items() if isinstance(value, int)}
    dropped = {name: value for name, value in counts.items() if value and name not in NOT_DROPPED}
    return {
        "name": str(item["name"]),
        "in": counts["in"],
        "dropped": dict(sorted(dropped.items(), key=lambda pair: (-pair[1], pair[0]))),
        **{name: counts[name] for name in KEPT},
        "licences": list(item.get("licences", ())),
        "published": item.get("published"),
    }


def with_tokens(
    sources: Sequence[dict[str, Any]], tokenization: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """Return sources with the tokens of their training documents; None where they are not known."""
    splits = tokenization["splits"] if tokenization else {}
    counted = splits.get("train", {}).get("sources", {})
    return [{**item, "train_tokens": counted.get(item["name"])} for item in sources]


COLUMNS = ("source", "records", "count", "share", "", "GAP-Replay")


def rows(sources: list[dict[str, Any]]) -> Iterator[tuple[object, ...]]:
    """Yield the rows of a table: what came in, was dropped and kept, beside the published counts of
    a source of that name (arXiv 2311.16079, table 1).
    """
    for item in sources:
        whole = item["in"]
        parts = [("in", whole)]
        parts += [(f"- {reason}", count) for reason, count in item["dropped"].items()]
        parts += [("= kept", item["kept"])]
        for number, (what, count) in enumerate(parts):
            yield (
                item["name"] if not number else "",
                what,
                f"{count:,}",
                *shares(count, whole),
                "",
            )
        published = item["published"] or {}
        for split in ("train", "validation"):
            theirs = f"{published[split]:,}" if split in published else ""
            yield ("", split, f"{item[split]:,}", "", "", theirs)
        if (tokens := item["train_tokens"]) is not None:
            theirs = f"{published['train_tokens']:,}" if published else ""
            yield ("", "tokens of train", f"{tokens:,}", "", "", theirs)


def shares(count: int, whole: int) -> tuple[str, str]:
    """Return the share of all records of a source, as a number and as a bar."""
    share = count / whole if whole else 0.0
    return f"{share:.1%}", "#" * max(round(share * BAR), 1 if count else 0)
