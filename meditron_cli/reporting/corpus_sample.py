"""Some documents of a corpus: kept ones from its shards, dropped ones from the file beside them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from jobs.contract.corpus.folder import DROPPED
from jobs.contract.files import parse_json, read_lines

Place = tuple[Path, int]
"""A shard, and where a line begins in it."""
PROBES = 200
"""Places that are looked at per document before the shards are read from their beginning."""


def dropped(corpus: Path, source: str, reason: str, count: int) -> Iterator[dict[str, Any]]:
    """Yield dropped documents, at most so many of each reason of each source.

    Args:
        corpus: the folder.
        source: name of a source; empty for all.
        reason: one of its reasons; empty for all.
        count: of each.
    """
    seen: Counter[tuple[str, str]] = Counter()
    for document in read_lines(corpus / DROPPED):
        key = (str(document.get("source")), str(document.get("reason")))
        if source not in ("", key[0]) or reason not in ("", key[1]):
            continue
        seen[key] += 1
        if seen[key] <= count:
            yield document


def kept(shards: Sequence[Path], source: str, count: int) -> Iterator[Mapping[str, Any]]:
    """Yield documents from places of the shards that are drawn with a fixed seed; then, where these
    are too few of the source, in the order of the shards. None comes twice.

    Raises:
        OSError: a shard cannot be read.
    """
    found: set[Place] = set()
    for place, document in chain(drawn(shards, PROBES * count), in_order(shards)):
        if len(found) == count:
            return
        if document and place not in found and source in ("", document.get("source")):
            found.add(place)
            yield document


def drawn(shards: Sequence[Path], places: int) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """Yield the documents behind random places; an empty one at the end of a shard."""
    sizes = [path.stat().st_size for path in shards]
    draw = random.Random(0)
    for _ in range(places if sum(sizes) else 0):
        ((path, size),) = draw.choices(list(zip(shards, sizes, strict=True)), sizes)
        with path.open("rb") as file:
            file.seek(draw.randrange(size))
            file.readline()
            yield (path, file.tell()), parse(file.readline())


def in_order(shards: Sequence[Path]) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """Yield every document with its place."""
    for path in shards:
        begin = 0
        with path.open("rb") as file:
            for line in file:
                yield (path, begin), parse(line)
                begin += len(line)


def parse(line: bytes) -> Mapping[str, Any]:
    """Return a line as an object; an empty one where it is none."""
    try:
        value = parse_json(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
