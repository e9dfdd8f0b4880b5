"""Take documents out of a finished corpus: its shards, its manifest and the files beside them.

What is to be removed is written first, so that the next takedown completes one that was killed.
Standard library only.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jobs.contract import done_markers
from jobs.contract.atomic_file import AtomicFile, write_blocks
from jobs.contract.corpus.folder import ASIDE, CORPUS, MANIFEST_PATH, SHARD_FIELDS, TAKEN_DOWN
from jobs.contract.errors import RESUME, TaskError
from jobs.contract.files import FormatError, parse_json, read_json, write_json
from jobs.contract.json_fields import to_fields
from jobs.contract.rundir import RunDir
from jobs.corpus.document import IDENTIFIERS, identifiers
from jobs.data import tokenized

INTENT = f"{CORPUS}/takedown.json"
FACTS = ("id", "source", "work_id", "title")


@dataclass(frozen=True)
class Match:
    """A document of a shard."""

    id: str
    source: str
    work_id: str
    title: str
    shard: str
    """Path of the shard in the run."""
    documents: int
    """Its copies in the shard."""
    bytes: int
    """Of all of them."""
    names: tuple[str, ...] = ()
    """Of its work, such as ``pmid:123``."""

    def is_called(self, name: str) -> bool:
        """Return whether a name is its id, or one of its work."""
        return name == self.id or work_name(name) in self.names

    @property
    def split(self) -> str:
        return Path(self.shard).parent.name


def read_manifest(run: RunDir) -> dict[str, Any]:
    """Return the manifest of a run's corpus.

    Raises:
        TaskError: there is none, or it is damaged.
    """
    try:
        found = read_json(run.path(MANIFEST_PATH))
        if not all(shard.keys() >= set(SHARD_FIELDS) for shard in found["shards"]):
            raise FormatError("it describes no shards")
        return found
    except FileNotFoundError as error:
        raise TaskError(
            f"{run.root}: the run has no finished corpus", "`meditron status` shows its stages"
        ) from error
    except (OSError, FormatError, KeyError, TypeError, AttributeError) as error:
        raise TaskError(
            f"{run.path(MANIFEST_PATH)}: {error}", f"remove the file, then {RESUME} makes it again"
        ) from error


def work_name(name: str) -> str:
    """Return a name of a work, such as ``pmcid:PMC12`` or ``doi:10.1/X``, as documents have it;
    empty for another name.
    """
    kind, _, rest = name.partition(":")
    known = identifiers([(kind, rest)]) if kind in IDENTIFIERS else {}
    return f"{kind}:{known[kind]}" if known else ""


def find(run: RunDir, names: Collection[str]) -> list[Match]:
    """Return the documents with these ids, or of works with these names, in the order of the
    shards.

    Raises:
        TaskError: the run has no finished corpus.
        OSError: a shard cannot be read.
    """
    shards = [shard["path"] for shard in read_manifest(run)["shards"]]
    return [match for shard in shards for match in in_shard(run, shard, names)]


def starts_of(ids: Collection[str]) -> tuple[bytes, ...]:
    """Return the beginnings of the lines of documents with these ids."""
    return tuple(f'{{"id":{json.dumps(name, ensure_ascii=False)},'.encode() for name in ids)


def in_shard(run: RunDir, shard: str, names: Collection[str]) -> list[Match]:
    """Return the documents of a shard that are called so; copies are one document."""
    starts, works = starts_of(names), [name for name in map(work_name, names) if name]
    quoted = [json.dumps(name.partition(":")[2], ensure_ascii=False).encode() for name in works]
    found: dict[bytes, Match] = {}
    with run.path(shard).open("rb") as lines:
        for line in lines:
            if not line.startswith(starts) and not any(name in line for name in quoted):
                continue
            value = parse_json(line)
            facts = {name: str(value.get(name, "")) for name in FACTS}
            meta = value.get("meta", {})
            own = tuple(f"{kind}:{meta[kind]}" for kind in IDENTIFIERS if kind in meta)
            new = Match(**facts, shard=shard, documents=0, bytes=0, names=own)
            if not any(map(new.is_called, names)):
                continue
            known = found.get(line, new)
            documents, size = known.documents + 1, known.bytes + len(line)
            found[line] = replace(known, documents=documents, bytes=size)
    return list(found.values())


def unfinished(run: RunDir) -> list[Match]:
    """Return the documents of a takedown that was killed; none without one."""
    try:
        items = read_json(run.path(INTENT))["documents"]
        return [Match(**{**item, "names": tuple(item["names"])}) for item in items]
    except FileNotFoundError:
        return []


def remove(run: RunDir, matches: Sequence[Match]) -> None:
    """Remove documents for good. No job of the run may be alive.

    Raises:
        TaskError: the run has no finished corpus.
        OSError: a file cannot be written; the next takedown completes this one.
    """
    manifest = read_manifest(run)
    write_json(run.path(INTENT), {"documents": [asdict(match) for match in matches]})
    run.path(tokenized.MANIFEST_PATH).unlink(missing_ok=True)  # its tokens are of the old shards
    ids = {match.id for match in matches}
    starts, kept_for = starts_of(ids), {f"{match.id} of {match.source}" for match in matches}
    for path in (run.path(f"{CORPUS}/{name}") for name in ASIDE):
        if path.exists():
            rewrite(path, lambda line: quotes(parse_json(line), ids, kept_for))
    written = {
        shard: rewrite(run.path(shard), lambda line: line.startswith(starts))
        for shard in dict.fromkeys(match.shard for match in matches)
    }
    known = {(item["id"], item["shard"]) for item in manifest.get(TAKEN_DOWN, ())}
    new = [match for match in matches if (match.id, match.shard) not in known]
    write_json(run.path(MANIFEST_PATH), without(manifest, new, written))
    update_markers(run, new, written)
    run.path(INTENT).unlink()


def quotes(value: Mapping[str, Any], ids: Collection[str], kept_for: Collection[str]) -> bool:
    """Return whether a line beside the shards is of a document that is removed, or of one that was
    dropped as its duplicate.
    """
    return value.get("id") in ids or value.get("matched") in kept_for


def rewrite(path: Path, is_removed: Callable[[bytes], bool]) -> AtomicFile:
    """Write a file of lines without some of them; return it with its digest."""
    with path.open("rb") as lines:
        return write_blocks(path, (line for line in lines if not is_removed(line)))


def without(
    manifest: dict[str, Any], matches: Sequence[Match], written: Mapping[str, AtomicFile]
) -> dict[str, Any]:
    """Return a manifest without documents, which it lists as removed."""
    shards = []
    for shard in manifest["shards"]:
        file = written.get(shard["path"])
        fewer = sum(match.documents for match in matches if match.shard == shard["path"])
        changed = {"bytes": file.bytes, "sha256": file.sha256} if file else {}
        shards.append({**shard, "documents": shard["documents"] - fewer, **changed})
    now = time.time()
    return {
        **manifest,
        "shards": shards,
        "counts": fewer_counts(manifest["counts"], matches),
        "sources": [
            fewer_counts(source, [match for match in matches if match.source == source.get("name")])
            for source in manifest["sources"]
        ],
        TAKEN_DOWN: [
            *manifest.get(TAKEN_DOWN, ()),
            *({**asdict(match), "time": now} for match in matches),
        ],
    }


def fewer_counts(counts: Mapping[str, Any], matches: Sequence[Match]) -> dict[str, Any]:
    """Return counts of documents without some that were kept, which are counted as taken down."""
    change: Counter[str] = Counter()
    for match in matches:
        change.update({"kept": -1, "bytes": -match.bytes})
        change.update({"documents": -match.documents, match.split: -match.documents})
    changed = {name: counts[name] + change[name] for name in change if name in counts}
    if "kept" in counts and matches:
        changed[TAKEN_DOWN] = counts.get(TAKEN_DOWN, 0) + len(matches)
    return {**counts, **changed}


def update_markers(
    run: RunDir, matches: Sequence[Match], written: Mapping[str, AtomicFile]
) -> None:
    """Describe the changed files in the done markers of the tasks that made them: the result
    stands.
    """
    for path in sorted(run.done_folder("curate").glob("[0-9]*.json")):
        marker = done_markers.read(path)
        if marker is None:
            continue
        own = [match for match in matches if any(match.shard == o["path"] for o in marker.outputs)]
        outputs = tuple(redescribed(run, item, written) for item in marker.outputs)
        summary = fewer_counts(marker.summary, own)
        write_json(path, to_fields(replace(marker, outputs=outputs, summary=summary)))


def redescribed(
    run: RunDir, item: dict[str, Any], written: Mapping[str, AtomicFile]
) -> dict[str, Any]:
    """Return the description of an output as it is now."""
    name = item["path"]
    if file := written.get(name):
        return file.describe(run)
    if name.startswith(f"{CORPUS}/") and Path(name).parent == Path(CORPUS):
        return done_markers.describe_file(run, name)  # the manifest, and the files beside it
    return item
