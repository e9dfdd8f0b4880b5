"""The files of a cleaned piece: its documents grouped by shard, their keys, and what was dropped.

A piece is finished once its record ``00012.json`` exists, which is written last. Documents are
lines of the shards, in frames of zstd; a frame holds the lines of one shard. Stages import it
inside ``run``: it needs numpy.
"""

from __future__ import annotations

import io
import shlex
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import orjson

from jobs.contract import specs
from jobs.contract.atomic_file import AtomicFile
from jobs.contract.corpus import benchmark_files
from jobs.contract.corpus.folder import ASIDE, CONTAMINATION, DROPPED, REJECTED
from jobs.contract.corpus.rules import CorpusRules
from jobs.contract.errors import RESUME, TaskError
from jobs.contract.files import (
    STAGES,
    FormatError,
    fsync_folder,
    read_json,
    sha256,
    write_bytes,
    write_json,
)
from jobs.corpus.duplicates.keys import KEY, LINK, NAME, NO_DOCUMENT, PieceKeys
from jobs.corpus.pieces import Piece
from jobs.data.json_stream import zstd

FRAME = [("shard", "u4"), ("begin", "u8"), ("bytes", "u8"), ("documents", "u4")]
"""One frame: the lines of a shard, and where they lie in the file of documents."""

BUFFERED_BYTES = 1 << 25
"""Lines held until they are written as frames."""

PACKING: dict[int, int] = {
    zstd.CompressionParameter.compression_level: 1,
    zstd.CompressionParameter.checksum_flag: 1,
}
"""Documents take about 40 % of their bytes, and are read once."""

SAMPLED = 20
"""Dropped documents that a piece keeps per reason."""

DOCUMENTS, ARRAYS = "documents", "arrays.npz"


def path_of(folder: Path, number: int, kind: str) -> Path:
    """Return the path of one file of a piece."""
    return folder / f"{number:05d}.{kind}"


def line(value: Any) -> bytes:
    """Return a value as a line of JSON."""
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


class Rows:
    """Rows of an array, added one by one; a tuple of Python takes ten times the memory."""

    def __init__(self, dtype: numpy.dtype[Any]) -> None:
        self._dtype = dtype
        self._blocks: list[numpy.ndarray] = []
        self._rows: list[tuple[Any, ...]] = []

    def add(self, row: tuple[Any, ...]) -> None:
        self._rows.append(row)
        if len(self._rows) >= 1 << 16:
            self._pack()

    def take(self) -> numpy.ndarray:
        """Return the array of all rows, and forget them."""
        self._pack()
        blocks, self._blocks = self._blocks, []
        return numpy.concatenate(blocks)

    def _pack(self) -> None:
        self._blocks.append(numpy.array(self._rows, dtype=self._dtype))
        self._rows = []


class AsideFiles:
    """Files of lines beside others, by kind; there is none where there is no line."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = paths
        self._files: dict[str, AtomicFile] = {}

    def add(self, kind: str, value: Any) -> None:
        """Write a line."""
        if kind not in self._files:
            self._files[kind] = AtomicFile(self._paths[kind])
        self._files[kind].write(line(value))

    def publish(self) -> None:
        """Put the files in place, and remove those of an earlier attempt."""
        for kind, path in self._paths.items():
            if kind in self._files:
                self._files[kind].seal()
                self._files[kind].publish()
            else:
                path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove what was not published."""
        for file in self._files.values():
            file.discard()


@dataclass
class PieceWriter:
    """The files of one piece, being written."""

    folder: Path
    piece: Piece
    counts: Counter[str] = field(default_factory=Counter)
    """By outcome."""
    repairs: Counter[str] = field(default_factory=Counter)
    questions: dict[str, Any] = field(default_factory=dict)
    """Of benchmarks, by what was done with them."""
    characters: int = 0
    """Of the documents' texts, before any of them was dropped."""

    def __post_init__(self) -> None:
        self._file = AtomicFile(self._path(DOCUMENTS))
        self._lines: dict[int, list[bytes]] = {}
        self._numbers: dict[int, list[int]] = {}
        self._buffered = 0
        self._frames: list[tuple[int, int, int, int]] = []
        self._order: list[numpy.ndarray] = []
        self._keys = Rows(KEY)
        self._names = Rows(NAME)
        self._links = Rows(LINK)
        self._bands: list[numpy.ndarray] = []
        self._ids = bytearray()
        self._aside = AsideFiles({kind: self._path(kind) for kind in ASIDE})
        self._sampled: Counter[str] = Counter()
        self.number = 0

    def _path(self, kind: str) -> Path:
        return path_of(self.folder, self.piece.number, kind)

    def add(
        self,
        document: bytes,
        shard: int,
        copies: int,
        key: tuple[int, int, int, tuple[int, int]],
        names: Sequence[int],
        identity: str,
    ) -> None:
        """Add a document under the next number.

        Args:
            document: its line.
            copies: how often the shard has it.
            key: rank, flags, hash of the id, digest.
            names: hashes of the names of its work.
        """
        self._ids += identity.replace("\n", " ").encode() + b"\n"
        lines = self._lines.setdefault(shard, [])
        numbers = self._numbers.setdefault(shard, [])
        for _ in range(copies):
            lines.append(document)
            numbers.append(self.number)
            self._buffered += len(document)
        self._add_key(key)
        for name in names:
            self._names.add((self.number, name))
        self.number += 1
        if self._buffered >= BUFFERED_BYTES:
            self._flush()

    def remove(self, key: tuple[int, int, int, tuple[int, int]]) -> None:
        """Add a record by which its source deletes earlier documents."""
        self._add_key(key)

    def drop_work(self, names: Sequence[int]) -> None:
        """Note that all documents with one of these names of their work are to be dropped."""
        for name in names:
            self._names.add((NO_DOCUMENT, name))

    def link(self, names: Sequence[int]) -> None:
        """Note that a dropped record has these names, so that they are of one work."""
        for name in names[1:]:
            self._links.add((names[0], name))

    def _add_key(self, key: tuple[int, int, int, tuple[int, int]]) -> None:
        self._keys.add((*key, self.number))

    def add_bands(self, bands: numpy.ndarray) -> None:
        """Add the bands of the next documents, uint64 ``[documents, bands]``."""
        self._bands.append(bands)

    def drop(self, reason: str, matched: str, described: dict[str, Any]) -> None:
        """Count a dropped document, and keep it aside where few were dropped for the reason."""
        self.counts[reason] += 1
        if self._sampled[reason] < SAMPLED:
            self._sampled[reason] += 1
            self._aside.add(DROPPED, {"reason": reason, "matched": matched, **described})

    def reject(self, described: dict[str, Any]) -> None:
        """Set a bad record aside."""
        self._aside.add(REJECTED, described)

    def match(self, described: dict[str, Any]) -> None:
        """Note a question of a benchmark that a document contains."""
        self._aside.add(CONTAMINATION, described)

    def _flush(self) -> None:
        for shard in sorted(self._lines):
            frame = zstd.compress(b"".join(self._lines[shard]), options=PACKING)
            self._frames.append((shard, self._file.bytes, len(frame), len(self._lines[shard])))
            self._order.append(numpy.array(self._numbers[shard], dtype="u4"))
            self._file.write(frame)
        self._lines, self._numbers, self._buffered = {}, {}, 0

    def publish(self, key: str) -> None:
        """Write everything, the record last.

        Args:
            key: of the settings that the piece was made with.
        """
        self._flush()
        arrays: dict[str, Any] = {
            "keys": self._keys.take(),
            "names": self._names.take(),
            "links": self._links.take(),
            "frames": numpy.array(self._frames, dtype=FRAME),
            "ids": numpy.frombuffer(self._ids, dtype="u1"),
            "numbers": numpy.concatenate([*self._order, numpy.array([], dtype="u4")]),
        }
        if self._bands:
            arrays["bands"] = numpy.concatenate(self._bands)
            self._bands = []
        content = io.BytesIO()
        numpy.savez(content, **arrays)
        arrays.clear()
        write_bytes(self._path(ARRAYS), content.getvalue())
        self._aside.publish()
        self._file.seal()
        self._file.publish()
        fsync_folder(self.folder)
        record = {
            "key": key,
            "piece": self.piece.described(),
            "counts": dict(self.counts),
            "repairs": dict(self.repairs),
            "characters": self.characters,
            "documents": self.number,
            "questions": self.questions,
        }
        write_json(self._path("json"), record)

    def discard(self) -> None:
        """Remove what was not published."""
        self._file.discard()
        self._aside.discard()


class FinishedPiece:
    """The files of a finished piece."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder = folder
        self.number = number
        self.record = self._record()

    def _record(self) -> dict[str, Any]:
        path = path_of(self.folder, self.number, "json")
        try:
            return read_json(path)
        except (OSError, FormatError) as error:
            raise self.lost() from error

    def lost(self) -> TaskError:
        """Return the error for files that are no longer there."""
        markers = self.folder.parents[1] / STAGES / "clean" / "done"
        folders = " ".join(shlex.quote(str(path)) for path in (self.folder, markers))
        return TaskError(
            f"{self.folder}: piece {self.number} of the cleaned documents is missing or damaged",
            f"`rm -rf {folders}`, then {RESUME} reads the sources again",
        )

    @property
    def source(self) -> int:
        """Return the rank of its source."""
        return int(self.record["piece"]["source"])

    def arrays(self, *names: str) -> list[Any]:
        """Return arrays of the piece; None for one that it does not have.

        Raises:
            TaskError: the file is missing or damaged.
        """
        try:
            with numpy.load(path_of(self.folder, self.number, ARRAYS)) as found:
                return [found.get(name) for name in names]
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise self.lost() from error

    def keys(self) -> PieceKeys:
        """Return what duplicates are found by."""
        return PieceKeys(self.number, *self.arrays("keys", "names", "links", "bands"))

    def ids(self) -> list[str]:
        """Return the id of each document."""
        (ids,) = self.arrays("ids")
        return bytes(ids).decode().split("\n")[:-1]

    def lines(self) -> PieceLines:
        """Return where the lines of each shard lie."""
        return PieceLines(self, *self.arrays("frames", "numbers"))


class PieceLines:
    """The lines of a piece, which are documents and their copies: 4 bytes of memory each."""

    def __init__(self, piece: FinishedPiece, frames: numpy.ndarray, numbers: numpy.ndarray) -> None:
        self.piece = piece
        self.numbers = numbers
        """Of the document that each line is."""
        self._frames = frames
        self._ends = numpy.cumsum(frames["documents"], dtype="u8")

    @property
    def shards(self) -> numpy.ndarray:
        """Return the shard of each line."""
        return numpy.repeat(self._frames["shard"], self._frames["documents"])

    def count(self, shard: int) -> int:
        """Return the number of lines of a shard."""
        return int(self._frames["documents"][self._frames["shard"] == shard].sum())

    def of_shard(self, shard: int) -> Iterator[tuple[numpy.ndarray, list[bytes]]]:
        """Yield the lines of a shard in order, some thousand at a time, with the number of the
        document that each is.

        Raises:
            TaskError: the file is missing or damaged.
        """
        path = path_of(self.piece.folder, self.piece.number, DOCUMENTS)
        try:
            with path.open("rb") as file:
                for index in numpy.flatnonzero(self._frames["shard"] == shard):
                    frame = self._frames[index]
                    file.seek(int(frame["begin"]))
                    lines = zstd.decompress(file.read(int(frame["bytes"])))
                    end = int(self._ends[index])
                    begin = end - int(frame["documents"])
                    yield self.numbers[begin:end], lines.splitlines(True)
        except (OSError, zstd.ZstdError) as error:
            raise self.piece.lost() from error


def is_finished(folder: Path, piece: Piece, key: str) -> bool:
    """Return whether a piece was finished with the same settings from the same files."""
    try:
        record = read_json(path_of(folder, piece.number, "json"))
    except (OSError, FormatError):
        return False
    same = record.get("key") == key and record.get("piece") == piece.described()
    return same and path_of(folder, piece.number, DOCUMENTS).exists()


def settings_key(rules: CorpusRules) -> str:
    """Return the digest of what a piece depends on beside its files.

    Raises:
        TaskError: the file of a benchmark cannot be read.
    """
    benchmarks = rules.decontamination.benchmarks if rules.decontamination else ()
    files = [file for one in benchmarks for file in benchmark_files.files(Path(one.path), one.kind)]
    try:
        digests = [sha256(file) for file in files]
    except OSError as error:
        message = f"{error.filename}: {error.strerror}"
        raise TaskError(message, "check `path` of the benchmark") from error
    return specs.digest({"rules": specs.digest(rules), "benchmarks": digests})


def corpus_key(rules: CorpusRules, pieces: Sequence[Piece]) -> str:
    """Return the digest of all that a corpus is made of."""
    return specs.digest({"rules": settings_key(rules), "pieces": [p.described() for p in pieces]})
