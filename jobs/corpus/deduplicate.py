"""Find the duplicates among the cleaned pieces of a corpus."""

from __future__ import annotations

import io
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from uuid import uuid4

import numpy

from jobs.contract.corpus.rules import CorpusRules
from jobs.contract.errors import Stopped, TaskError
from jobs.contract.files import FormatError, read_json, write_bytes, write_json
from jobs.contract.units import plural
from jobs.corpus.duplicates import find
from jobs.corpus.duplicates.keys import DROPPED, HELD_OUT, REMOVAL
from jobs.corpus.piece_files import FinishedPiece, path_of
from jobs.corpus.pieces import Piece, require_same
from jobs.runtime.context import Context
from jobs.runtime.heartbeat import Phase

DUPLICATES = "duplicates.npy"
RECORD = "deduplicated.json"
DUPLICATE_ID = "duplicate_id"

ALWAYS = ("empty", "length", "bad", "duplicate")
"""Reasons that every source is counted by, also where nothing was dropped for one."""


def finished_pieces(folder: Path, pieces: Sequence[Piece]) -> list[FinishedPiece]:
    """Return all pieces of a corpus.

    Raises:
        TaskError: one is missing, or was made from other files.
    """
    finished = [FinishedPiece(folder, piece.number) for piece in pieces]
    for piece, made in zip(pieces, finished, strict=True):
        require_same(piece, made.record["piece"])
    return finished


def deduplicate(
    context: Context,
    folder: Path,
    rules: CorpusRules,
    finished: Sequence[FinishedPiece],
    key: str,
) -> None:
    """Write for each piece which of its documents are dropped, and of which other document each is
    a duplicate; the record comes last.

    Args:
        key: of the corpus; a record with the same key stands.

    Raises:
        TaskError: two documents of a source have one id, under ``fail``.
        Stopped: a stop was requested; the next attempt searches from scratch.
    """

    def report() -> None:
        context.heart.beat(Phase.STEP)
        if context.stop:
            raise Stopped("stop requested; the next attempt continues behind the finished parts")

    if is_deduplicated(folder, key):
        return
    for left in folder.glob("scratch.*"):
        shutil.rmtree(left, ignore_errors=True)
    scratch = folder / f"scratch.{uuid4().hex}"  # not that of a lost task that still runs
    parts = chain.from_iterable(piece.keys() for piece in finished)
    found = find.find(parts, rules, scratch, report=report)
    if rules.on_bad_record == "fail":
        refuse_equal_ids(rules, finished, found)
    nothing = numpy.array([], dtype=DROPPED)
    found = {piece.number: found.get(piece.number, nothing) for piece in finished}
    require_documents(rules, finished, found)
    for piece in finished:
        content = io.BytesIO()
        numpy.save(content, found[piece.number])
        write_bytes(path_of(folder, piece.number, DUPLICATES), content.getvalue())
    write_json(folder / RECORD, {"key": key})


def duplicates_of(piece: FinishedPiece) -> numpy.ndarray:
    """Return the dropped documents of a piece.

    Raises:
        TaskError: the file is missing or damaged.
    """
    try:
        found: numpy.ndarray = numpy.load(path_of(piece.folder, piece.number, DUPLICATES))
        return found
    except (OSError, ValueError, EOFError) as error:
        raise piece.lost() from error


def is_deduplicated(folder: Path, key: str) -> bool:
    """Return whether the duplicates of this very corpus have been found."""
    try:
        return read_json(folder / RECORD).get("key") == key
    except (OSError, FormatError):
        return False


def refuse_equal_ids(
    rules: CorpusRules, finished: Sequence[FinishedPiece], found: dict[int, numpy.ndarray]
) -> None:
    """Refuse two different documents of one id.

    Raises:
        TaskError: naming the first id and its source.
    """
    reason = find.REASONS.index(DUPLICATE_ID)
    same = {number: rows[rows["reason"] == reason] for number, rows in found.items()}
    total = sum(map(len, same.values()))
    for piece in finished:
        if piece.number not in same or not same[piece.number].size:
            continue
        identity = piece.id_of(int(same[piece.number][0]["number"]))
        source = rules.sources[piece.source]
        more = f", {plural(total - 1, 'other document')} likewise" if total > 1 else ""
        raise TaskError(
            f"{source.path}: two documents with different texts have the id {identity!r}{more}",
            "correct the ids; or --set curate.id_key=none makes digests of the texts the ids; or "
            "--set curate.on_bad_record=skip keeps one of the two and sets the others aside",
        )


def require_documents(
    rules: CorpusRules, finished: Sequence[FinishedPiece], found: Mapping[int, numpy.ndarray]
) -> None:
    """Refuse a corpus without training documents.

    Raises:
        TaskError: no document is kept, or all of them are in the validation split.
    """
    dropped = sum(len(found[piece.number]) for piece in finished)
    kept = sum(int(piece.record["documents"]) for piece in finished) - dropped
    if not kept:
        counts = Counter({"in": 0, **dict.fromkeys(ALWAYS, 0)})
        for piece in finished:
            counts.update(piece.record["counts"])
        files = len({part["path"] for piece in finished for part in piece.record["piece"]["parts"]})
        records = counts.pop("in")
        detail = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise TaskError(
            f"no document left (files: {files}, records: {records}, {detail})",
            "see curate.sources, curate.text_key and curate.min_chars",
        )
    if not any(is_trained_on(piece, found[piece.number]) for piece in finished):
        documents = plural(kept, "document")
        message = f"no document is in the training split, {documents} in the validation split"
        raise TaskError(message, "lower curate.validation_fraction or add documents")


def is_trained_on(piece: FinishedPiece, dropped: numpy.ndarray) -> bool:
    """Return whether a document of a piece is kept for training."""
    for rows in piece.key_blocks():
        trained = rows["number"][rows["flags"] & (REMOVAL | HELD_OUT) == 0]
        if not numpy.isin(trained, dropped["number"]).all():
            return True
    return False


def summary(finished: Sequence[FinishedPiece]) -> dict[str, int]:
    """Return the documents of all pieces, and how many of them are dropped for each reason."""
    counts = {"documents": 0, **dict.fromkeys(find.REASONS, 0)}
    for piece in finished:
        counts["documents"] += int(piece.record["documents"])
        for reason, count in enumerate(numpy.bincount(duplicates_of(piece)["reason"])):
            counts[find.REASONS[reason]] += int(count)
    return counts
