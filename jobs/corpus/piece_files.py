"""The files of a cleaned piece: its documents grouped by shard, their keys, and what was dropped.

A piece is finished once its record ``00012.json`` exists, which is written last. Documents are
lines of the shards, in frames of zstd; a frame holds lines of one shard, behind the numbers of
their documents. What duplicates are found by is in a second file of frames, each of some thousand
documents; the last of them is the index of both files, and the record has its place. So memory
does not grow with the documents of a piece. Stages import it inside ``run``: it needs numpy.
"""

from __future__ import annotations

import shlex
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
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
    write_json,
)
from jobs.corpus.duplicates.keys import KEY, LINK, NAME, NO_DOCUMENT, REMOVAL, PieceKeys
from jobs.corpus.pieces import Piece
from jobs.data.json_stream import zstd

LINES, KEYS, NAMES, LINKS, BANDS, IDS = range(6)
"""What a frame holds: lines in the file of documents, the others in that of arrays."""

INDEX = numpy.dtype(
    [("kind", "u1"), ("shard", "u4"), ("begin", "u8"), ("bytes", "u8"), ("rows", "u4")]
)
"""A frame: what it holds, of which shard, and where it lies in its file."""

NUMBER = "I"
"""Four bytes, as of all numbers of documents."""

BLOCK = 1 << 14
"""Keys, names and links held until they are written as frames."""

BUFFERED_BYTES = 1 << 25
"""Lines held until they are written as frames."""

PACKING: dict[int, int] = {
    zstd.CompressionParameter.compression_level: 1,
    zstd.CompressionParameter.checksum_flag: 1,
}
"""Documents shrink to about 40 % of their bytes, keys do not shrink; both are read once."""

SAMPLED = 20
"""Dropped documents that a piece keeps per reason."""

DOCUMENTS, ARRAYS = "documents", "arrays"


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
        self.total = 0
        self._blocks: list[numpy.ndarray] = []
        self._rows: list[tuple[Any, ...]] = []

    def add(self, row: tuple[Any, ...]) -> None:
        self._rows.append(row)
        self.total += 1
        if len(self._rows) >= 1 << 16:
            self._pack()

    def take(self) -> numpy.ndarray:
        """Return the array of all rows, and forget them."""
        self._pack()
        blocks, self._blocks, self.total = self._blocks, [], 0
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
    digests: dict[str, str] = field(default_factory=dict)
    """``sampled_sha256`` of each file that begins in the piece, by its path."""

    def __post_init__(self) -> None:
        self._documents = AtomicFile(self._path(DOCUMENTS))
        self._arrays = AtomicFile(self._path(ARRAYS))
        self._index = Rows(INDEX)
        self._lines: dict[int, bytearray] = {}
        """Of each shard; lines of their own would take their memory several times over."""
        self._numbers: dict[int, array[int]] = {}
        """Of the document that each line is."""
        self._buffered = 0
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
        self._lines.setdefault(shard, bytearray()).extend(document * copies)
        self._numbers.setdefault(shard, array(NUMBER)).extend([self.number] * copies)
        self._buffered += len(document) * copies
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

    @property
    def is_full(self) -> bool:
        """Return whether the held keys fill a block, so that ``end_block`` is due."""
        return self._keys.total + self._names.total + self._links.total >= BLOCK

    def add_bands(self, bands: numpy.ndarray) -> None:
        """Add the bands of the next documents, uint64 ``[documents, bands]``."""
        self._bands.append(bands)

    def end_block(self) -> None:
        """Write the held keys, whose bands have all been added, as one frame of each kind."""
        ids, self._ids = self._ids, bytearray()
        self._frame(self._arrays, IDS, ids, ids.count(b"\n"))
        bands, self._bands = self._bands, []
        held = (
            (KEYS, self._keys.take()),
            (NAMES, self._names.take()),
            (LINKS, self._links.take()),
            (BANDS, numpy.concatenate(bands) if bands else numpy.array([])),
        )
        for kind, rows in held:
            self._frame(self._arrays, kind, rows.tobytes(), len(rows))

    def _frame(
        self, file: AtomicFile, kind: int, content: bytes | bytearray, rows: int, shard: int = 0
    ) -> None:
        frame = zstd.compress(content, options=PACKING)
        self._index.add((kind, shard, file.bytes, len(frame), rows))
        file.write(frame)

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
            numbers = self._numbers.pop(shard)
            content = numbers.tobytes() + self._lines.pop(shard)
            self._frame(self._documents, LINES, content, len(numbers), shard)
        self._buffered = 0

    def publish(self, key: str) -> None:
        """Write everything, the record last.

        Args:
            key: of the settings that the piece was made with.
        """
        self._flush()
        self.end_block()
        begin = self._arrays.bytes
        self._arrays.write(zstd.compress(self._index.take().tobytes(), options=PACKING))
        self._aside.publish()
        for file in (self._arrays, self._documents):
            file.seal()
            file.publish()
        fsync_folder(self.folder)
        record = {
            "key": key,
            "piece": self.piece.described(),
            "counts": dict(self.counts),
            "repairs": dict(self.repairs),
            "characters": self.characters,
            "documents": self.number,
            "index": [begin, self._arrays.bytes - begin],
            "questions": self.questions,
            "sampled_sha256": self.digests,
        }
        write_json(self._path("json"), record)

    def discard(self) -> None:
        """Remove what was not published."""
        for file in (self._arrays, self._documents, self._aside):
            file.discard()


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

    @cached_property
    def _index(self) -> numpy.ndarray:
        begin, size = self.record["index"]
        place = numpy.array([(0, 0, begin, size, 0)], dtype=INDEX)
        (content,) = self._contents(ARRAYS, place)
        index = numpy.frombuffer(content, dtype=INDEX)
        if index["rows"][index["kind"] == IDS].sum() != self.record["documents"]:
            raise self.lost()
        return index

    def _contents(self, kind: str, frames: numpy.ndarray) -> Iterator[bytes]:
        """Yield what some frames of one of the files hold.

        Raises:
            TaskError: the file is missing or damaged.
        """
        try:
            with path_of(self.folder, self.number, kind).open("rb") as file:
                for frame in frames:
                    file.seek(int(frame["begin"]))
                    yield zstd.decompress(file.read(int(frame["bytes"])))
        except (OSError, zstd.ZstdError) as error:
            raise self.lost() from error

    def _frames(self, kind: int, shard: int = 0) -> numpy.ndarray:
        index = self._index
        frames: numpy.ndarray = index[(index["kind"] == kind) & (index["shard"] == shard)]
        return frames

    def _arrays(self, kind: int) -> Iterator[bytes]:
        return self._contents(ARRAYS, self._frames(kind))

    def key_blocks(self) -> Iterator[numpy.ndarray]:
        """Yield the KEY rows of some thousand documents at a time."""
        return (numpy.frombuffer(content, dtype=KEY) for content in self._arrays(KEYS))

    def keys(self) -> Iterator[PieceKeys]:
        """Yield what duplicates are found by, of some thousand documents at a time."""
        others = zip(*(self._arrays(kind) for kind in (NAMES, LINKS, BANDS)), strict=True)
        for keys, (names, links, packed) in zip(self.key_blocks(), others, strict=True):
            documents = int((keys["flags"] & REMOVAL == 0).sum())
            bands = numpy.frombuffer(packed, dtype="u8").reshape(documents, -1) if packed else None
            yield PieceKeys(
                self.number,
                keys,
                numpy.frombuffer(names, dtype=NAME),
                numpy.frombuffer(links, dtype=LINK),
                bands,
            )

    def id_of(self, number: int) -> str:
        """Return the id of a document."""
        frames = self._frames(IDS)
        ends = numpy.cumsum(frames["rows"], dtype="u8")
        place = int(numpy.searchsorted(ends, number, side="right"))
        (content,) = self._contents(ARRAYS, frames[place : place + 1])
        first = int(ends[place]) - int(frames["rows"][place])
        return content.split(b"\n")[number - first].decode()

    def count(self, shard: int) -> int:
        """Return the number of lines of a shard, which are documents and their copies."""
        return int(self._frames(LINES, shard)["rows"].sum())

    def of_shard(self, shard: int) -> Iterator[tuple[numpy.ndarray, list[bytes]]]:
        """Yield the lines of a shard in order, some thousand at a time, with the number of the
        document that each is.

        Raises:
            TaskError: the file is missing or damaged.
        """
        frames = self._frames(LINES, shard)
        for frame, content in zip(frames, self._contents(DOCUMENTS, frames), strict=True):
            numbers = numpy.frombuffer(content, dtype=NUMBER, count=int(frame["rows"]))
            yield numbers, content[numbers.nbytes :].splitlines(True)


def is_finished(folder: Path, piece: Piece, key: str) -> bool:
    """Return whether a piece was finished with the same settings from the same files."""
    try:
        record = read_json(path_of(folder, piece.number, "json"))
    except (OSError, FormatError):
        return False
    same = record.get("key") == key and record.get("piece") == piece.described()
    return same and all(
        path_of(folder, piece.number, kind).exists() for kind in (DOCUMENTS, ARRAYS)
    )


def settings_key(rules: CorpusRules) -> str:
    """Return the digest of what a piece depends on beside its files.

    Raises:
        TaskError: the file of a benchmark cannot be read.
    """
    benchmarks = rules.decontamination.benchmarks if rules.decontamination else ()
    files = [
        file
        for one in benchmarks
        for file in benchmark_files.files(Path(one.path), one.kind, one.options)
    ]
    try:
        digests = [sha256(file) for file in files]
    except OSError as error:
        message = f"{error.filename}: {error.strerror}"
        raise TaskError(message, "check `path` of the benchmark") from error
    return specs.digest({"rules": specs.digest(rules), "benchmarks": digests})


def corpus_key(rules: CorpusRules, pieces: Sequence[Piece]) -> str:
    """Return the digest of all that a corpus is made of."""
    return specs.digest({"rules": settings_key(rules), "pieces": [p.described() for p in pieces]})
