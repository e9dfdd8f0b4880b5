"""Documents of many files → clean, distinct documents in JSONL shards, and a manifest.

One pass, one process. Memory holds the digests of the documents kept (some 100 bytes each) and one
document. Files are read in the order of their paths and of equal documents the first one stays, so
the same files give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import time
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from jobs.contract import done_markers, rundir
from jobs.contract.atomic_file import PartFile
from jobs.contract.errors import Stopped, TaskError
from jobs.contract.files import FORMAT, fsync_folder
from jobs.contract.stage_specs import CurateSpec
from jobs.runtime.context import Context

if TYPE_CHECKING:
    from jobs.data.readers import Record

OUTCOMES = ("kept", "empty", "short", "duplicate", "bad")
"""What becomes of a record; every record counts under exactly one."""
SOURCE_KEY = "source"
"""Key of a record's origin, kept when it is a string."""
DIGESTED_INPUT_BYTES = 64 << 20
"""Larger sources are known by size and modification time, to be read once only."""
REJECTED_BYTES = 10_000
"""How much of a bad record is kept aside."""
OTHER_FILES = 64
"""Files a process has open besides its shards."""

LINE_BREAKS = "\r\x0b\x0c\x85\u2028\u2029"
INVISIBLE = "".join(
    chr(code)
    for code in (*range(0x20), *range(0x7F, 0xA0), 0xAD, 0x200B, 0xFEFF)
    if chr(code) not in f"\t\n{LINE_BREAKS}"
)
"""Control characters but tab and line breaks; soft hyphen, zero-width space, byte order mark."""
REPLACED = {**dict.fromkeys(map(ord, LINE_BREAKS), "\n"), **dict.fromkeys(map(ord, INVISIBLE))}
BLANK_LINES = re.compile("\n{3,}")


def run(context: Context) -> None:
    """Curate the sources of the task's spec into its output folder.

    Raises:
        TaskError: a source that cannot be read, a bad record under ``fail``, or no document left.
        Stopped: asked to stop; nothing is left behind, the next start begins anew.
    """
    from jobs.data import readers

    spec = cast(CurateSpec, context.task.spec)
    refuse_own_run(context.run, spec.sources)
    files, ignored = readers.find_files(spec.sources)
    inputs = [describe_source(context.run, path) for path in files]
    # From here on the outputs are in flux: an earlier marker must not vouch for them.
    done_markers.forget_done(context.run, context.task.stage, context.task.index)
    corpus = Corpus(context.path(spec.output_dir), spec)
    try:
        corpus.open()
        sources = curate_files(context, corpus, files)
        require_documents(corpus, sources)
        corpus.publish()
    finally:
        corpus.discard()
    counts = total_counts(corpus, sources)
    shards = corpus.describe(context.run.root)
    content = {"counts": counts, "sources": sources, "shards": shards, "ignored": ignored}
    manifest = write_manifest(context.path(spec.output_dir) / "manifest.json", content)
    written = [*(shard.part for shard in corpus.shards), manifest]
    context.finish(inputs, [part.describe(context.run) for part in written], counts)


def refuse_own_run(run: rundir.RunDir, sources: Sequence[str]) -> None:
    """Refuse a source folder in which the run itself writes.

    Raises:
        TaskError: the run directory lies in one of the sources.
    """
    for source in sources:
        if run.root.is_relative_to(os.path.realpath(source)):
            message = f"{source}: this folder holds the run directory {run.root}"
            raise TaskError(message, "keep documents and runs in different folders")


def describe_source(run: rundir.RunDir, path: Path) -> dict[str, Any]:
    """A source as the done marker keeps it."""
    small = path.stat().st_size <= DIGESTED_INPUT_BYTES
    return done_markers.describe_file(run, str(path), with_digest=small)


def curate_files(context: Context, corpus: Corpus, files: Sequence[Path]) -> list[dict[str, Any]]:
    """Take every record of every file into the corpus; answers the counts of each file."""
    from jobs.data import readers

    sizes = [path.stat().st_size for path in files]
    counted = []
    due = 0.0
    for number, path in enumerate(files):
        counts: Counter[str] = Counter()
        for record in readers.read_records(path, corpus.keys):
            if context.stop:
                raise Stopped("asked to stop; curation begins anew at the next start")
            counts[corpus.take(path, record)] += 1
            if (now := time.monotonic()) >= due:
                done = sum(sizes[:number]) + record.position
                context.progress(done, sum(sizes), "bytes", documents=corpus.documents)
                due = now + 1.0
        counted.append({"path": str(path), "bytes": sizes[number], **by_outcome(counts)})
    context.progress(sum(sizes), sum(sizes), "bytes", documents=corpus.documents)
    return counted


def by_outcome(counts: Mapping[str, int]) -> dict[str, int]:
    """``in`` and a number for each of OUTCOMES, zeros included."""
    return {"in": sum(counts.values()), **{name: counts.get(name, 0) for name in OUTCOMES}}


def sum_counts(sources: Sequence[dict[str, Any]]) -> dict[str, int]:
    """``in`` and the OUTCOMES over all files."""
    return {name: sum(source[name] for source in sources) for name in ("in", *OUTCOMES)}


def total_counts(corpus: Corpus, sources: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The task's summary: all files' counts, documents of each split, bytes of all shards."""
    return {
        **sum_counts(sources),
        "documents": corpus.documents,
        "train": sum(shard.documents for shard in corpus.train),
        "validation": corpus.validation.documents,
        "bytes": sum(shard.part.bytes for shard in corpus.shards),
    }


def write_manifest(path: Path, content: Mapping[str, Any]) -> PartFile:
    """Write what a reader wants to know of the corpus; ``ignored`` are files of no kind we read."""
    manifest = PartFile(path)
    try:
        value = {"format": FORMAT, **content}
        manifest.write(json.dumps(value, indent=1, sort_keys=True, default=str).encode() + b"\n")
        manifest.seal()
        manifest.publish()
    finally:
        manifest.discard()
    fsync_folder(path.parent)
    return manifest


def require_documents(corpus: Corpus, sources: Sequence[dict[str, Any]]) -> None:
    """Refuse a corpus that nothing can be trained on.

    Raises:
        TaskError: no document was kept, or all fell to validation.
    """
    if not corpus.documents:
        totals = sum_counts(sources)
        message = (
            f"no document left (files: {len(sources)}, records: {totals['in']}, "
            f"bad: {totals['bad']}, empty: {totals['empty']}, "
            f"shorter than {corpus.min_chars} characters: {totals['short']})"
        )
        raise TaskError(message, "see curate.sources, curate.text_key and curate.min_chars")
    if not any(shard.documents for shard in corpus.train):
        message = f"all {corpus.documents} documents fell to validation, none is left to train on"
        raise TaskError(message, "lower curate.validation_fraction or add documents")


class Shard:
    """One JSONL file of the corpus while it is written."""

    def __init__(self, path: Path) -> None:
        self.part = PartFile(path)
        self.documents = 0

    def add(self, line: bytes) -> None:
        self.part.write(line)
        self.documents += 1


class Corpus:
    """What is kept: the shards, all under temporary names until ``publish``."""

    def __init__(self, folder: Path, spec: CurateSpec) -> None:
        self.min_chars = spec.min_chars
        self.keys = (spec.text_key, spec.id_key, SOURCE_KEY)
        self.shards: list[Shard] = []
        self._folder = folder
        self._spec = spec
        self._seen: set[bytes] = set()
        self._rejected: PartFile | None = None

    def open(self) -> None:
        """Begin every file; ``discard`` belongs in a ``finally`` after it.

        Raises:
            TaskError: this node does not allow as many open files.
        """
        allow_open_files(self._spec.shards + OTHER_FILES)
        for number in range(self._spec.shards):
            self.shards.append(Shard(self._folder / "train" / f"{number:05d}.jsonl"))
        self.shards.append(Shard(self._folder / "validation" / "00000.jsonl"))
        if self._spec.on_bad_record == "skip":
            self._rejected = PartFile(self._folder / "rejected.jsonl")

    @property
    def train(self) -> list[Shard]:
        return self.shards[:-1]

    @property
    def validation(self) -> Shard:
        return self.shards[-1]

    @property
    def documents(self) -> int:
        """Documents kept so far."""
        return len(self._seen)

    def take(self, path: Path, record: Record) -> str:
        """Keep a record's document or leave it out; answers one of OUTCOMES.

        Raises:
            TaskError: the record is bad and the spec says ``fail``.
        """
        if record.problem:
            return self._reject(path, record)
        text = normalise(record.value[self._spec.text_key])
        if not text:
            return "empty"
        if len(text) < self.min_chars:
            return "short"
        digest = text_digest(text)
        if digest in self._seen:
            return "duplicate"
        self._seen.add(digest)
        self._keep(text, digest, record.value)
        return "kept"

    def _keep(self, text: str, digest: bytes, value: Mapping[str, Any]) -> None:
        import orjson

        document = {"id": document_id(value.get(self._spec.id_key), digest), "text": text}
        if isinstance(value.get(SOURCE_KEY), str):
            document[SOURCE_KEY] = value[SOURCE_KEY]
        held_out = is_validation(document["id"], self._spec.validation_fraction)
        shard = self.validation if held_out else self.train[shard_of(digest, self._spec.shards)]
        shard.add(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE))

    def _reject(self, path: Path, record: Record) -> str:
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
        """Give every file its name, once all are safely on the disk."""
        for part in self._parts():
            part.seal()
        for part in self._parts():
            part.publish()
        for folder in {part.path.parent for part in self._parts()}:
            fsync_folder(folder)

    def discard(self) -> None:
        """Remove what was not published."""
        for part in self._parts():
            part.discard()

    def describe(self, root: Path) -> list[dict[str, Any]]:
        """Path (relative to the run), documents, bytes and SHA-256 of every shard."""
        return [
            {
                "path": str(shard.part.path.relative_to(root)),
                "documents": shard.documents,
                "bytes": shard.part.bytes,
                "sha256": shard.part.sha256,
            }
            for shard in self.shards
        ]

    def _parts(self) -> list[PartFile]:
        parts = [shard.part for shard in self.shards]
        return parts if self._rejected is None else [*parts, self._rejected]


def require_intact(path: Path, keys: Sequence[str]) -> None:
    """Read a compressed file to its end: where it is damaged, that explains a bad record better.

    Raises:
        TaskError: the file is truncated or corrupt.
    """
    from jobs.data import readers

    if path.suffix.lower() in readers.COMPRESSED:
        for _ in readers.read_records(path, keys):
            pass


def allow_open_files(count: int) -> None:
    """Raise this process's own limit of open files where it is lower.

    Raises:
        TaskError: the machine does not allow as many.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= count:
        return
    if hard < count:
        message = f"{count} open files are needed, one a shard, and this node allows {hard}"
        raise TaskError(message, "lower curate.shards")
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def normalise(text: str) -> str:
    """The text in Unicode NFC with plain line breaks and without what cannot be seen.

    Control characters, soft hyphens, zero-width spaces and spaces at line ends go, all kinds of
    line break become one, and of blank lines in a row one stays. What can be read is kept.
    Applying it twice changes nothing more.
    """
    text = text.replace("\r\n", "\n")
    if any(mark in text for mark in LINE_BREAKS + INVISIBLE):  # few texts need the slower translate
        text = text.translate(REPLACED)
    text = unicodedata.normalize("NFC", text)
    text = "\n".join(line.rstrip() for line in text.split("\n"))
    if "\n\n\n" in text:
        text = BLANK_LINES.sub("\n\n", text)
    return text.strip()


def text_digest(text: str) -> bytes:
    """The 16 bytes by which equal texts are known (BLAKE2b; RFC 7693)."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def document_id(value: Any, digest: bytes) -> str:
    """A record's own id when it is a word or a whole number, else its text's digest in hex."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return digest.hex()


def is_validation(identity: str, fraction: float) -> bool:
    """Whether a document is held out: its id, hashed to [0, 1), lies below the fraction.

    An id's side does not depend on the other documents, and one held out stays so when the
    fraction grows.
    """
    hashed = hashlib.blake2b(identity.encode(), digest_size=8).digest()
    return int.from_bytes(hashed, "big") < fraction * 2.0**64


def shard_of(digest: bytes, shards: int) -> int:
    """The training shard of a text, from its digest."""
    return int.from_bytes(digest, "big") % shards
