"""Read and clean the pieces of a corpus: repair, filter, and note what finds duplicates.

Memory holds a batch of documents, which are looked up in benchmarks and signed at once, lines of
about 32 MB, and the keys of some thousand documents, whatever the size of a piece.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jobs.contract.corpus.rules import CorpusRules, SourceSpec
from jobs.contract.errors import TaskError
from jobs.contract.files import sampled_sha256
from jobs.corpus import marked_text, piece_files
from jobs.corpus.document import Document, Record, Rejected, Removal
from jobs.corpus.duplicates import keys
from jobs.corpus.filtering.filters import Filters, is_sampled
from jobs.corpus.filtering.masking import mask
from jobs.corpus.filtering.upsampling import copies
from jobs.corpus.formats import read
from jobs.corpus.formats.files import shown
from jobs.corpus.piece_files import PieceWriter
from jobs.corpus.pieces import Part, Piece, require_unchanged
from jobs.corpus.progress import Progress
from jobs.data.cleaning import SPANS_KEY, document_id, length_problem, normalise, text_digest
from jobs.runtime.context import Context

if TYPE_CHECKING:
    from jobs.corpus.decontamination import Index, Match

REJECTED_BYTES = 10_000
"""Bytes of a bad record that ``rejected.jsonl`` holds."""

SHOWN_CHARACTERS = 2_000
"""Of a dropped document, in ``dropped.jsonl``."""

BATCH_CHARACTERS = 1 << 22
"""Characters of the documents that are looked up in benchmarks and signed at once."""

HELD_CHARACTERS = 1 << 10
"""Counted for each document or removal of a batch beside its text."""

CORRECT = "correct the record, or set curate.on_bad_record to skip to leave such ones out"


def clean_pieces(
    context: Context,
    folder: Path,
    rules: CorpusRules,
    pieces: Sequence[Piece],
    index: Index | None,
) -> None:
    """Clean those pieces that are not finished yet.

    Raises:
        TaskError: a file cannot be read, or a record is bad under ``fail``.
        Stopped: a stop was requested; finished pieces stay.
    """
    key = piece_files.settings_key(rules)
    progress = Progress(context, sum(piece.bytes for piece in pieces), "bytes")
    for piece in pieces:
        progress.require_run()
        if not piece_files.is_finished(folder, piece, key):
            cleaner = Cleaner(folder, piece, rules, index)
            try:
                cleaner.clean(progress)
                progress.require_run()
                cleaner.writer.publish(key)
            finally:
                cleaner.writer.discard()
        progress.finish_part(piece.bytes, documents_of(folder, piece))


def summary(folder: Path, pieces: Sequence[Piece]) -> dict[str, int]:
    """Return the counts of some finished pieces, by outcome."""
    counts: Counter[str] = Counter()
    for piece in pieces:
        counts.update(piece_files.FinishedPiece(folder, piece.number).record["counts"])
    return {"pieces": len(pieces), "bytes": sum(piece.bytes for piece in pieces), **counts}


def documents_of(folder: Path, piece: Piece) -> int:
    """Return the documents of a finished piece."""
    return int(piece_files.FinishedPiece(folder, piece.number).record["documents"])


class Cleaned(NamedTuple):
    """A document that no filter dropped, before it is looked up in benchmarks."""

    document: Document
    identity: str
    title: str
    text: str
    spans: Sequence[tuple[int, int]]
    digest: bytes


class Cleaner:
    """The cleaning of one piece."""

    def __init__(self, folder: Path, piece: Piece, rules: CorpusRules, index: Index | None) -> None:
        self.rules = rules
        self.source = rules.sources[piece.source]
        self.writer = PieceWriter(folder, piece)
        self._piece = piece
        self._filters = Filters(self.source, rules)
        self._index = index
        if index:
            self.writer.questions = {
                "checked": dict(index.checked),
                "too_short": dict(index.too_short),
            }
        self._batch: list[Cleaned | str] = []
        """Documents, and the ids whose earlier versions are dropped, in the order of reading."""
        self._characters = 0

    def clean(self, progress: Progress) -> None:
        """Clean every record of the piece."""
        before = 0
        for part in self._piece.parts:
            for record in read.read(Path(part.path), self.source, *part.bounds):
                self.take(part, record)
                position = min(record.position, part.end) - part.begin
                progress.at(before + max(position, 0), self.writer.number)
            require_unchanged(part)
            if part.begin == 0:
                self.writer.digests[part.path] = sampled_sha256(Path(part.path))
            before += part.end - part.begin
        self.settle()

    def take(self, part: Part, record: Record) -> None:
        """Take a record's document unless it has to be dropped; the next batch adds it.

        Raises:
            TaskError: the record is bad and ``on_bad_record`` is ``fail``.
        """
        item = record.item
        self.writer.counts["in"] += 1
        if isinstance(item, Removal):
            self.writer.counts["deletion"] += 1
            self._queue(item.id)
        elif isinstance(item, Document):
            if cleaned := self._cleaned(part, record, item):
                self._queue(cleaned, len(cleaned.text))
            else:
                self.writer.link(names_of(item))
                if item.is_versioned:
                    self._queue(item.id)
        elif item.problem:
            self._reject(part, record, item)
        else:
            self._drop("empty", "", item.id, "", "")
        if self._characters >= BATCH_CHARACTERS or self.writer.is_full:
            self.settle()

    def _remove_earlier(self, identity: str) -> None:
        """Drop the versions of a document before a later one that is not kept, as of a work that
        has been retracted since.
        """
        self.writer.remove(self._key(identity, bytes(16), keys.REMOVAL))

    def _queue(self, item: Cleaned | str, characters: int = 0) -> None:
        self._batch.append(item)
        self._characters += characters + HELD_CHARACTERS

    def settle(self) -> None:
        """Add the documents of the batch, but for those that contain questions of benchmarks."""
        batch, self._batch, self._characters = self._batch, [], 0
        texts = [item.text for item in batch if not isinstance(item, str)]
        found = iter(self._index.matches_in(texts) if self._index else [[]] * len(texts))
        kept = []
        for item in batch:
            if isinstance(item, str):
                self._remove_earlier(item)
            elif matches := next(found):
                self._drop_contaminated(item, matches)
            else:
                self._keep(item)
                kept.append(item.text)
        if self.rules.near_duplicates and kept:
            from jobs.corpus.duplicates.minhash import signatures

            self.writer.add_bands(signatures(kept, self.rules.near_duplicates))
        if self.writer.is_full:
            self.writer.end_block()

    def _cleaned(self, part: Part, record: Record, document: Document) -> Cleaned | None:
        """Return a document as it is to be added; None for one that is dropped."""
        rules, source = self.rules, self.source
        name = document.id or text_digest(document.text).hex()
        self.writer.characters += len(document.text)
        if source.sample < 1 and not is_sampled(name, source.sample, rules.seed):
            self.writer.counts["not_sampled"] += 1
            if any(self._filters.unwanted(document)):
                self.writer.drop_work(names_of(document))
            return None
        text, spans, repairs = self._repaired(document)
        self.writer.repairs.update({"documents": any(repairs.values()), **repairs})
        title = normalise(self._masked(document.title))[0] if document.title else ""
        digest = text_digest(text)
        identity = document_id(document.id, digest)
        problem = length_problem(text)
        drop = None if problem else self._filters.judge(document, text)
        if drop and drop.reason in rules.drop:
            self._drop(drop.reason, drop.matched, identity, title, text)
            self.writer.drop_work(names_of(document))
        elif not text:
            self._drop("empty", "", identity, title, text)
        elif problem:
            raw = text[:REJECTED_BYTES].encode()
            self._reject(part, record._replace(raw=raw), Rejected("", problem))
        elif drop:
            self._drop(drop.reason, drop.matched, identity, title, text)
        else:
            return Cleaned(document, identity, title, text, spans, digest)
        return None

    def _repaired(
        self, document: Document
    ) -> tuple[str, Sequence[tuple[int, int]], dict[str, int]]:
        """Return the cleaned text, the places of its markup tokens, and what was repaired in it."""
        text = self._masked(document.text)
        if document.is_marked:
            return marked_text.finish(text)
        text, repairs = normalise(text)
        return text, (), repairs

    def _masked(self, text: str) -> str:
        """Return a text with what is to be masked, and count it."""
        if not self.rules.mask:
            return text
        text, masked = mask(text, self.rules.mask)
        self.writer.repairs.update(masked)
        return text

    def _drop_contaminated(self, cleaned: Cleaned, matches: Sequence[Match]) -> None:
        """Drop a document that contains questions of benchmarks."""
        document, identity, title, text, *_ = cleaned
        for match in matches:
            found = {"id": identity, "source": self.source.name, **match._asdict()}
            self.writer.match(found)
        shown = (f"{match.benchmark} {match.item}: {match.share:.0%}" for match in matches)
        self._drop("contaminated", "; ".join(shown), identity, title, text)
        self.writer.link(names_of(document))
        if document.is_versioned:
            self._remove_earlier(document.id)

    def _keep(self, cleaned: Cleaned) -> None:
        """Add a document to its shard."""
        rules, source = self.rules, self.source
        document, identity, title, text, spans, digest = cleaned
        value: dict[str, Any] = {"id": identity, "source": source.name}
        work = document.work_id if document.names else ""
        if work:
            value["work_id"] = work
        if title:
            value["title"] = title
        value["text"] = text
        if document.is_marked:
            value[SPANS_KEY] = spans
        if meta := {**document.names, **document.meta}:
            value["meta"] = meta
        held_out = is_validation(work or identity, source.validation_fraction)
        shard = rules.shards if held_out else shard_of(digest, rules.shards)
        flags = keys.ABSTRACT * document.is_abstract | keys.VERSIONED * document.is_versioned
        flags |= keys.HELD_OUT * held_out
        self.writer.add(
            piece_files.line(value),
            shard,
            1 if held_out else copies(document, identity, rules),
            self._key(identity, digest, flags),
            names_of(document),
            identity,
        )
        self.writer.counts["cleaned"] += 1

    def _key(
        self, identity: str, digest: bytes, flags: int
    ) -> tuple[int, int, int, tuple[int, int]]:
        """Return the key of a document but for its number.

        The id is hashed otherwise than for the split: of several documents the one with the
        smallest hash is kept, and small hashes of the split are held out.
        """
        halves = (int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big"))
        return self._piece.source, flags, hashed(f"id:{identity}"), halves

    def _drop(self, reason: str, matched: str, identity: str, title: str, text: str) -> None:
        described = {"id": identity, "source": self.source.name, "title": title}
        self.writer.drop(reason, matched, {**described, "text": text[:SHOWN_CHARACTERS]})

    def _reject(self, part: Part, record: Record, item: Rejected) -> None:
        where = f"{part.path}:{record.line}"
        if part.begin:
            where = f"{part.path}, line {record.line} from byte {part.begin:,} on"
        problem = f"{item.id}: {item.problem}" if item.id else item.problem
        if self.rules.on_bad_record == "fail":
            require_unchanged(part)
            require_intact(part, self.source)
            raise TaskError(f"{where}: {problem}", CORRECT)
        self.writer.counts["bad"] += 1
        self.writer.reject(
            {
                "file": shown(part.path),
                "line": record.line,
                **({"from_byte": part.begin} if part.begin else {}),
                "reason": problem,
                "record": record.raw[:REJECTED_BYTES].decode(errors="replace"),
            }
        )


def require_intact(part: Part, source: SourceSpec) -> None:
    """Read a compressed file to its end: damage to it explains a bad record better.

    Raises:
        TaskError: the file is truncated or corrupt.
    """
    if part.path.lower().endswith((".gz", ".zst", ".tgz")):
        for _ in read.read(Path(part.path), source):
            pass


def is_validation(identity: str, fraction: float) -> bool:
    """Return whether a work is held out: its id, hashed to [0, 1), is below the fraction.

    The split of an id does not depend on the other documents, and a work that is held out stays so
    when the fraction grows.
    """
    return hashed(identity) < fraction * 2.0**64


def names_of(document: Document) -> list[int]:
    """Return the hashes of the names of a document's work."""
    return [hashed(f"{kind}:{name}") for kind, name in document.names.items()]


def shard_of(digest: bytes, shards: int) -> int:
    """Return the number of the training shard of a text, from its digest."""
    return int.from_bytes(digest, "big") % shards


def hashed(name: str) -> int:
    """Return 64 bits of a name (BLAKE2b; RFC 7693)."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
