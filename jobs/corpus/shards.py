"""Write the shards of a corpus from its cleaned pieces, without the duplicates among them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import orjson

from jobs.contract import done_markers
from jobs.contract.atomic_file import AtomicFile
from jobs.contract.corpus.folder import DROPPED, REJECTED
from jobs.contract.corpus.rules import CorpusRules
from jobs.contract.files import FormatError, fsync_folder, read_json, write_json
from jobs.contract.rundir import RunDir
from jobs.corpus.clean import REJECTED_BYTES, SHOWN_CHARACTERS
from jobs.corpus.deduplicate import DUPLICATE_ID, duplicates_of
from jobs.corpus.duplicates.find import REASONS
from jobs.corpus.duplicates.keys import NO_DOCUMENT
from jobs.corpus.piece_files import SAMPLED, AsideFiles, FinishedPiece
from jobs.corpus.progress import Progress
from jobs.runtime.context import Context

RECORDS = "shards"
"""Folder of the records of finished shards, beside the pieces."""


def shard_path(rules: CorpusRules, shard: int) -> str:
    """Return the path of a shard within the corpus; the one after the last is for validation."""
    return f"train/{shard:05d}.jsonl" if shard < rules.shards else "validation/00000.jsonl"


def shards_of(rules: CorpusRules, part: int, parts: int) -> range:
    """Return the shards that one task of several writes."""
    return range(part, rules.shards + 1, parts)


class ShardWriter:
    """The writing of shards from the pieces of a corpus."""

    def __init__(
        self, corpus: Path, folder: Path, rules: CorpusRules, finished: Sequence[FinishedPiece]
    ) -> None:
        self._corpus = corpus
        self._folder = folder
        self._rules = rules
        self._finished = finished

    def write_all(
        self, context: Context, shards: Sequence[int], key: str
    ) -> dict[int, dict[str, Any]]:
        """Write those shards that are not finished yet; return the record of each.

        Raises:
            Stopped: a stop was requested; finished shards stay.
        """
        total = sum(piece.count(shard) for shard in shards for piece in self._finished)
        progress = Progress(context, total, "documents")
        return {
            shard: read_record(self._folder, shard, key) or self._write(shard, key, progress)
            for shard in shards
        }

    def _write(self, shard: int, key: str, progress: Progress) -> dict[str, Any]:
        progress.require_run()
        path = shard_path(self._rules, shard)
        file = AtomicFile(self._corpus / path)
        sources: dict[str, Counter[str]] = {}
        kinds = (DROPPED, REJECTED)
        aside = AsideFiles({kind: aside_path(self._folder, shard, kind) for kind in kinds})
        read = 0
        try:
            for piece in self._finished:
                dropped = duplicates_of(piece)
                name = self._rules.sources[piece.source].name
                counts = sources.setdefault(name, Counter())
                for numbers, lines in piece.of_shard(shard):
                    progress.at(read)
                    for row, document in write_kept(file, counts, dropped, numbers, lines):
                        self._set_aside(aside, counts, row, document, name)
                    read += len(lines)
            file.seal()
            file.publish()
            fsync_folder(file.path.parent)
            aside.publish()
        finally:
            file.discard()
            aside.discard()
        progress.finish_part(read, 0)
        record = {
            "key": key,
            "path": f"{self._corpus.name}/{path}",
            "documents": sum(counts["documents"] for counts in sources.values()),
            "bytes": file.bytes,
            "sha256": file.sha256,
            "sources": {name: dict(counts) for name, counts in sources.items() if counts},
        }
        write_json(record_path(self._folder, shard), record)
        return record

    def _set_aside(
        self,
        aside: AsideFiles,
        counts: Counter[str],
        row: numpy.void,
        document: bytes,
        name: str,
    ) -> None:
        """Count a dropped document; keep few for each reason, but every one of a used id."""
        reason = REASONS[int(row["reason"])]
        counts[reason] += 1
        if reason != DUPLICATE_ID and counts[reason] > SAMPLED:
            return
        value = orjson.loads(document)
        described = {"id": value["id"], "source": name}
        if reason == DUPLICATE_ID:
            text = document[:REJECTED_BYTES].decode(errors="replace")
            problem = "another document of the source has the id and a different text"
            aside.add(REJECTED, described | {"reason": problem, "record": text})
        else:
            described |= {"reason": reason, "matched": self._kept_for(row)}
            described |= {"title": value.get("title", ""), "text": value["text"][:SHOWN_CHARACTERS]}
            aside.add(DROPPED, described)

    def _kept_for(self, row: numpy.void) -> str:
        """Return the id and the source of the document that is kept for a dropped one."""
        if row["kept_piece"] == NO_DOCUMENT:
            return ""
        piece = self._finished[int(row["kept_piece"])]
        source = self._rules.sources[piece.source].name
        return f"{piece.id_of(int(row['kept_number']))} of {source}"


def write_kept(
    file: AtomicFile,
    counts: Counter[str],
    dropped: numpy.ndarray,
    numbers: numpy.ndarray,
    lines: list[bytes],
) -> Iterator[tuple[numpy.void, bytes]]:
    """Write the lines of documents that are not dropped; yield the dropped ones, each once."""
    first = numpy.diff(numbers.astype("i8"), prepend=-1) != 0  # of several copies
    places = numpy.searchsorted(dropped["number"], numbers)
    found = numpy.zeros(len(numbers), dtype=bool)
    inside = places < len(dropped)
    found[inside] = dropped["number"][places[inside]] == numbers[inside]
    kept = [line for line, is_dropped in zip(lines, found, strict=True) if not is_dropped]
    file.write(b"".join(kept))
    counts["kept"] += int((first & ~found).sum())
    counts["documents"] += len(kept)
    counts["bytes"] += sum(map(len, kept))
    for index in numpy.flatnonzero(found & first):
        yield dropped[places[index]], lines[index]


def describe(run: RunDir, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a shard as a done marker records it, with the digest of its writing."""
    described = done_markers.describe_file(run, record["path"], with_digest=False)
    return {**described, "sha256": record["sha256"]}


def record_path(folder: Path, shard: int) -> Path:
    return folder / RECORDS / f"{shard:05d}.json"


def aside_path(folder: Path, shard: int, kind: str) -> Path:
    return folder / RECORDS / f"{shard:05d}.{kind}"


def read_record(folder: Path, shard: int, key: str) -> dict[str, Any] | None:
    """Return the record of a shard of this very corpus; None while it is not finished, or where it
    does not have its size any more.
    """
    try:
        record = read_json(record_path(folder, shard))
        if record.get("key") != key:
            return None
        size = (folder.parents[1] / record["path"]).stat().st_size
    except (OSError, FormatError):
        return None
    return record if size == record["bytes"] else None
