"""Write kept documents into training and validation shards."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.contract.atomic_file import AtomicFile
from jobs.contract.corpus.rules import CorpusRules
from jobs.contract.errors import TaskError
from jobs.contract.files import fsync_folder
from jobs.corpus import marked_text
from jobs.data.cleaning import SPANS_KEY, document_id, length_problem, normalise, text_digest
from jobs.runtime.open_files import OTHER_FILES, raise_soft_limit

if TYPE_CHECKING:
    from jobs.data.readers import SourceRecord

OUTCOMES = ("kept", "empty", "short", "duplicate", "bad")
"""Outcomes of a record; each record counts under exactly one."""

SOURCE_KEY = "source"
"""Key of a record's origin, copied when it is a string."""

REJECTED_BYTES = 10_000
"""Bytes of a bad record that ``rejected.jsonl`` holds."""


class Shard:
    """One JSONL file of the corpus, being written."""

    def __init__(self, path: Path) -> None:
        self.part = AtomicFile(path)
        self.documents = 0

    def add(self, line: bytes) -> None:
        self.part.write(line)
        self.documents += 1


class CorpusWriter:
    """The shards of a corpus, all under temporary names until ``publish``."""

    def __init__(self, folder: Path, rules: CorpusRules) -> None:
        self.source = rules.sources[0]
        """Of the records that are taken now."""
        self.shards: list[Shard] = []
        self.repairs: Counter[str] = Counter()
        """Documents in which something was repaired, and how often for each kind of repair."""
        self._folder = folder
        self._rules = rules
        self._seen: set[bytes] = set()
        self._rejected: AtomicFile | None = None

    def open(self) -> None:
        """Create every file; call ``discard`` in a ``finally`` after it.

        Raises:
            TaskError: this node does not allow that many open files.
        """
        allow_open_files(self._rules.shards)
        for number in range(self._rules.shards):
            self.shards.append(Shard(self._folder / "train" / f"{number:05d}.jsonl"))
        self.shards.append(Shard(self._folder / "validation" / "00000.jsonl"))
        if self._rules.on_bad_record == "skip":
            self._rejected = AtomicFile(self._folder / "rejected.jsonl")

    @property
    def keys(self) -> tuple[str, ...]:
        """Return the keys of records that are read."""
        return self.source.text_key, self.source.id_key, SOURCE_KEY

    @property
    def train(self) -> list[Shard]:
        return self.shards[:-1]

    @property
    def validation(self) -> Shard:
        return self.shards[-1]

    @property
    def documents(self) -> int:
        """Return the number of documents kept so far."""
        return len(self._seen)

    def take(self, path: Path, record: SourceRecord) -> str:
        """Write a record's document unless it has to be dropped; return one of OUTCOMES.

        Raises:
            TaskError: the record is bad and ``on_bad_record`` is ``fail``.
        """
        if record.problem:
            return self._reject(path, record)
        text, spans, repairs = clean(record, self.source.text_key)
        self.repairs.update({"documents": any(repairs.values()), **repairs})
        if not text:
            return "empty"
        if len(text) < self.source.min_chars:
            return "short"
        if problem := length_problem(text):
            raw = text[:REJECTED_BYTES].encode()
            return self._reject(path, record._replace(problem=problem, raw=raw))
        digest = text_digest(text)
        if digest in self._seen:
            return "duplicate"
        self._seen.add(digest)
        self._keep(text, spans, digest, record)
        return "kept"

    def _keep(
        self, text: str, spans: Sequence[tuple[int, int]], digest: bytes, record: SourceRecord
    ) -> None:
        import orjson

        value = record.value
        document: dict[str, Any] = {
            "id": document_id(value.get(self.source.id_key), digest),
            "text": text,
        }
        if isinstance(value.get(SOURCE_KEY), str):
            document[SOURCE_KEY] = value[SOURCE_KEY]
        if record.is_marked:
            document |= {SPANS_KEY: spans, **record.facts}
        held_out = is_validation(document["id"], self.source.validation_fraction)
        shard = self.validation if held_out else self.train[shard_of(digest, self._rules.shards)]
        shard.add(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE))

    def _reject(self, path: Path, record: SourceRecord) -> str:
        import orjson

        if self._rejected is None:
            require_intact(path, self.keys)
            hint = "correct the record, or set curate.on_bad_record to skip to leave such ones out"
            raise TaskError(f"{path}:{record.line}: {record.problem}", hint)
        aside = {
            "file": str(path),
            "line": record.line,
            "reason": record.problem,
            "record": record.raw[:REJECTED_BYTES].decode(errors="replace"),
        }
        self._rejected.write(orjson.dumps(aside, option=orjson.OPT_APPEND_NEWLINE))
        return "bad"

    def publish(self) -> None:
        """Rename every file to its final name, once all are flushed to the disk."""
        for part in self._parts():
            part.seal()
        for part in self._parts():
            part.publish()
        for folder in {part.path.parent for part in self._parts()}:
            fsync_folder(folder)

    def discard(self) -> None:
        """Remove the files that were not published."""
        for part in self._parts():
            part.discard()

    def describe(self, root: Path) -> list[dict[str, Any]]:
        """Return path (relative to the run), documents, bytes and SHA-256 of every shard."""
        return [
            {
                "path": str(shard.part.path.relative_to(root)),
                "documents": shard.documents,
                "bytes": shard.part.bytes,
                "sha256": shard.part.sha256,
            }
            for shard in self.shards
        ]

    def _parts(self) -> list[AtomicFile]:
        parts = [shard.part for shard in self.shards]
        return parts if self._rejected is None else [*parts, self._rejected]


def clean(
    record: SourceRecord, text_key: str
) -> tuple[str, Sequence[tuple[int, int]], dict[str, int]]:
    """Return a record's text, the places of its markup tokens, and what was repaired in it."""
    if record.is_marked:
        return marked_text.finish(record.value[text_key])
    text, repairs = normalise(record.value[text_key])
    return text, (), repairs


def require_intact(path: Path, keys: Sequence[str]) -> None:
    """Read a compressed file to its end: damage to it explains a bad record better.

    Raises:
        TaskError: the file is truncated or corrupt.
    """
    from jobs.corpus import source_files
    from jobs.corpus.formats.files import is_compressed

    if is_compressed(path):
        for _ in source_files.read_records(path, keys):
            pass


def allow_open_files(shards: int) -> None:
    """Raise this process's soft limit of open files to what writing so many shards needs.

    Raises:
        TaskError: the hard limit is lower.
    """
    count = shards + OTHER_FILES
    hard = raise_soft_limit()
    if hard < count:
        fitting = hard - OTHER_FILES
        hint = f"raise the hard limit of open files on the nodes to {count} or more (`ulimit -n`)"
        raise TaskError(
            f"{count} open files are needed, one per shard and {OTHER_FILES} others, and this node "
            f"allows {hard}",
            f"set curate.shards to {fitting} or less" if fitting > 0 else hint,
        )


def is_validation(identity: str, fraction: float) -> bool:
    """Return whether a document is held out: its id, hashed to [0, 1), is below the fraction.

    The split of an id does not depend on the other documents, and a document that is held out
    stays so when the fraction grows.
    """
    hashed = hashlib.blake2b(identity.encode(), digest_size=8).digest()
    return int.from_bytes(hashed, "big") < fraction * 2.0**64


def shard_of(digest: bytes, shards: int) -> int:
    """Return the number of the training shard of a text, from its digest."""
    return int.from_bytes(digest, "big") % shards
