"""The manifest of a corpus: counts per source, settings, versions, and the digest of each shard."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import orjson

from jobs.contract.atomic_file import write_blocks
from jobs.contract.corpus.folder import ASIDE, DROPPED, MANIFEST, REJECTED, SHARD_FIELDS, SOURCES
from jobs.contract.corpus.rules import CorpusRules
from jobs.contract.files import FORMAT, FormatError, read_json
from jobs.contract.locks import locked_within
from jobs.corpus import piece_files, shards
from jobs.corpus.deduplicate import ALWAYS
from jobs.corpus.formats.files import shown
from jobs.corpus.piece_files import FinishedPiece, path_of
from jobs.corpus.pieces import FOLDER, SourceFiles
from jobs.data.cleaning import REPAIRS

SHOWN = 100
"""Dropped documents of a source that the corpus keeps per reason."""

NAMED_FILES = 1000
"""Files that are not read, as the manifest names them; more are counted."""

LIBRARIES = ("ftfy", "lxml", "numpy", "orjson", "py3langid", "pyarrow")
"""Those that decide what documents contain."""

LOCK_SECONDS = 600.0

PUBLISHED = {
    name: dict(
        zip(("train", "validation", "train_tokens", "validation_tokens"), counts, strict=True)
    )
    for name, counts in {
        "guidelines": (41_000, 2_284, 107_000_000, 6_000_000),
        "abstracts": (15_700_000, 487_000, 5_480_000_000, 170_000_000),
        "papers": (4_900_000, 142_000, 40_700_000_000, 1_230_000_000),
        "replay": (494_000, 0, 420_000_000, 0),
    }.items()
}
"""Documents and tokens of GAP-Replay by source (arXiv 2311.16079, table 1), rounded as there."""


def read_complete(corpus: Path, key: str) -> dict[int, dict[str, Any]] | None:
    """Return the shards that a manifest of this very corpus names, by number; None where there is
    none, or one of its shards is missing.
    """
    try:
        manifest = read_json(corpus / MANIFEST)
        shards = manifest["shards"] if manifest.get("made_of") == key else []
        sizes = [(corpus.parent / shard["path"]).stat().st_size for shard in shards]
    except (OSError, FormatError, KeyError):
        return None
    whole = sizes == [shard["bytes"] for shard in shards]
    return dict(enumerate(shards)) if shards and whole else None


def forget_other(corpus: Path, key: str) -> None:
    """Remove the manifest of another corpus before its shards are replaced."""
    path = corpus / MANIFEST
    try:
        is_other = read_json(path).get("made_of") != key
    except FileNotFoundError:
        return
    except FormatError:
        is_other = True
    if is_other:
        path.unlink(missing_ok=True)


def finish(lock: Path, corpus: Path, rules: CorpusRules, files: SourceFiles, key: str) -> None:
    """Write the manifest and the files beside it, unless shards of other tasks are missing; remove
    the pieces, which nothing reads any more.

    The task that finishes the last shard does it. Of tasks that finish at once, the lock lets one
    pass after the other.
    """
    folder = corpus / FOLDER
    with locked_within(lock, LOCK_SECONDS):
        is_complete = read_complete(corpus, key) is not None
        if (is_complete or write(corpus, folder, rules, files, key)) and folder.exists():
            shutil.rmtree(folder)


def write(corpus: Path, folder: Path, rules: CorpusRules, files: SourceFiles, key: str) -> bool:
    """Write the manifest and the files beside it; return False where shards are missing."""
    found = [shards.read_record(folder, shard, key) for shard in range(rules.shards + 1)]
    records = [record for record in found if record]
    if len(records) <= rules.shards:
        return False
    finished = [FinishedPiece(folder, piece.number) for piece in files.pieces]
    counted = {name: count_source(rules, name, finished, records) for name in names_of(rules)}
    write_aside(corpus, folder, rules, len(files.pieces))
    listed = write_blocks(corpus / SOURCES, source_files(rules, finished))
    content = {
        "format": FORMAT,
        "made_of": key,
        "counts": totals(counted.values()),
        "repairs": summed(item["repairs"] for item in counted.values()),
        "sources": [described(rules, files, name, counted[name]) for name in counted],
        "shards": [{name: record[name] for name in SHARD_FIELDS} for record in records],
        "questions": finished[0].record["questions"] if finished else {},
        "source_files": {
            "path": f"{corpus.name}/{SOURCES}",
            "bytes": listed.bytes,
            "sha256": listed.sha256,
        },
        "ignored": list(map(shown, files.ignored[:NAMED_FILES])),
        "ignored_files": len(files.ignored),
        "settings": asdict(rules),
        "versions": versions(),
    }
    text = json.dumps(content, indent=1, sort_keys=True, default=str)
    write_blocks(corpus / MANIFEST, [text.encode(), b"\n"])
    return True


def names_of(rules: CorpusRules) -> list[str]:
    """Return the names of the sources, each once."""
    return list(dict.fromkeys(source.name for source in rules.sources))


def count_source(
    rules: CorpusRules,
    name: str,
    finished: Sequence[FinishedPiece],
    records: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the counts of the sources of one name: records by outcome, documents by split."""
    pieces = [piece for piece in finished if rules.sources[piece.source].name == name]
    counts = Counter(dict.fromkeys(("in", *ALWAYS), 0))
    counts.update(summed(piece.record["counts"] for piece in pieces))
    del counts["cleaned"]
    repairs = {"documents": 0, **dict.fromkeys(REPAIRS, 0)}
    result: Counter[str] = Counter({"kept": 0, "documents": 0, "bytes": 0})
    splits = {"train": 0, "validation": 0}
    for record in records:
        written = record["sources"].get(name, {})
        result.update(written)
        splits[record["path"].split("/")[-2]] += written.get("documents", 0)
    return {
        **counts,
        **result,
        **splits,
        "characters_in": sum(piece.record["characters"] for piece in pieces),
        "repairs": {**repairs, **summed(piece.record["repairs"] for piece in pieces)},
    }


def summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the sums of some counts."""
    result: Counter[str] = Counter()
    for one in counts:
        result.update(one)
    return dict(result)


def totals(sources: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return the counts of all sources together."""
    sources = list(sources)
    plain = [{key: value for key, value in one.items() if key != "repairs"} for one in sources]
    return {**summed(plain), "repaired": sum(one["repairs"]["documents"] for one in sources)}


def described(
    rules: CorpusRules, files: SourceFiles, name: str, counts: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the manifest holds of the sources of one name."""
    ranks = [rank for rank, source in enumerate(rules.sources) if source.name == name]
    parts = [part for piece in files.pieces if piece.source in ranks for part in piece.parts]
    published = {"published": PUBLISHED[name]} if name in PUBLISHED else {}
    return {
        "name": name,
        "paths": [rules.sources[rank].path for rank in ranks],
        "licences": sorted({rules.sources[rank].licence for rank in ranks} - {""}),
        "files": len({part.path for part in parts}),
        "file_bytes": sum(part.end - part.begin for part in parts),
        **counts,
        **published,
    }


def source_files(rules: CorpusRules, finished: Iterable[FinishedPiece]) -> Iterator[bytes]:
    """Yield a line for each source file, in the order in which they are read."""
    for piece in finished:
        digests = piece.record["sampled_sha256"]
        for part in piece.record["piece"]["parts"]:
            if part["begin"] == 0:
                described = {"path": shown(part["path"]), "bytes": part["size"]}
                described["sampled_sha256"] = digests[part["path"]]
                yield piece_files.line({"source": rules.sources[piece.source].name, **described})


def versions() -> dict[str, str]:
    """Return the versions of this program and of the libraries that decide a document's text."""
    return {name: importlib.metadata.version(name) for name in ("meditron", *LIBRARIES)}


def write_aside(corpus: Path, folder: Path, rules: CorpusRules, pieces: int) -> None:
    """Write the files beside the manifest: a sample of the dropped documents, the bad records, and
    the questions of benchmarks that were found.
    """
    for name in ASIDE:
        paths = [path_of(folder, number, name) for number in range(pieces)]
        paths += [shards.aside_path(folder, shard, name) for shard in range(rules.shards + 1)]
        present = [path for path in paths if path.exists()]
        always = rules.on_bad_record == "skip" and name == REJECTED
        if present or always:
            lines = chain.from_iterable(map(lines_of, present))
            write_blocks(corpus / name, sampled(lines) if name == DROPPED else lines)
        else:
            (corpus / name).unlink(missing_ok=True)


def lines_of(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file."""
    with path.open("rb") as file:
        yield from file


def sampled(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the first lines of each source and reason."""
    seen: Counter[tuple[str, str]] = Counter()
    for line in lines:
        value = orjson.loads(line)
        key = (value["source"], value["reason"])
        seen[key] += 1
        if seen[key] <= SHOWN:
            yield line


def written(corpus: Path) -> list[Path]:
    """Return the manifest and those of the files beside it that there are."""
    return [corpus / name for name in (MANIFEST, SOURCES, *ASIDE) if (corpus / name).exists()]


def summary(corpus: Path, records: Iterable[Mapping[str, Any]], whole: bool) -> dict[str, Any]:
    """Return the summary of a task: documents by split, and all counts where it did everything."""
    result = {"documents": 0, "train": 0, "validation": 0, "bytes": 0}
    for shard in records:
        result["documents"] += shard["documents"]
        result[shard["path"].split("/")[-2]] += shard["documents"]
        result["bytes"] += shard["bytes"]
    return {**read_json(corpus / MANIFEST)["counts"], **result} if whole else result
