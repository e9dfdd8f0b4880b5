"""The files of a cleaned piece, as they are written and read."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy
import pytest

from jobs.contract.errors import TaskError
from jobs.corpus.duplicates.keys import NO_DOCUMENT, REMOVAL
from jobs.corpus.piece_files import ARRAYS, DOCUMENTS, FinishedPiece, PieceWriter, path_of
from jobs.corpus.pieces import Piece


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[PieceWriter]:
    writer = PieceWriter(tmp_path, Piece(0, 0, ()))
    yield writer
    writer.discard()


def add(writer: PieceWriter, number: int, copies: int = 1) -> None:
    digest = (number, 2**64 - 1 - number)
    key = (0, 0, number, digest)
    writer.add(b'{"id":"%d"}\n' % number, number % 2, copies, key, [number + 7], f"n{number}")


def test_what_was_written_in_blocks_is_read_in_blocks(writer: PieceWriter, tmp_path: Path) -> None:
    bands = numpy.arange(12, dtype="u8").reshape(4, 3)
    add(writer, 0)
    add(writer, 1, copies=2)
    writer.add_bands(bands[:2])
    writer.end_block()
    writer.remove((0, REMOVAL, 9, (0, 0)))
    writer.drop_work([5])
    writer.link([1, 2, 3])
    writer.end_block()
    add(writer, 2)
    writer.add_bands(bands[2:3])
    add(writer, 3)
    writer.add_bands(bands[3:])
    writer.publish("key")

    piece = FinishedPiece(tmp_path, 0)

    blocks = list(piece.keys())
    assert [block.keys["number"].tolist() for block in blocks] == [[0, 1], [2], [2, 3]]
    assert [block.names.tolist() for block in blocks] == [
        [(0, 7), (1, 8)],
        [(NO_DOCUMENT, 5)],
        [(2, 9), (3, 10)],
    ]
    assert [block.links.tolist() for block in blocks] == [[], [(1, 2), (1, 3)], []]
    read = [None if block.bands is None else block.bands.tolist() for block in blocks]
    assert read == [bands[:2].tolist(), None, bands[2:].tolist()]
    assert [piece.id_of(number) for number in range(4)] == ["n0", "n1", "n2", "n3"]
    assert [piece.count(shard) for shard in range(3)] == [2, 3, 0]
    ((numbers, lines),) = piece.of_shard(1)
    assert (numbers.tolist(), lines) == ([1, 1, 3], [b'{"id":"1"}\n'] * 2 + [b'{"id":"3"}\n'])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def change(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [Path.unlink, cut, change])
@pytest.mark.parametrize("kind", [ARRAYS, DOCUMENTS])
def test_a_damaged_file_is_refused(
    kind: str, damage: Callable[[Path], None], writer: PieceWriter, tmp_path: Path
) -> None:
    add(writer, 0)
    writer.publish("key")
    damage(path_of(tmp_path, 0, kind))

    piece = FinishedPiece(tmp_path, 0)

    with pytest.raises(TaskError, match="piece 0 of the cleaned documents is missing or damaged"):
        list(zip(piece.keys(), piece.of_shard(0), strict=True))


def test_memory_does_not_grow_with_the_documents(writer: PieceWriter) -> None:
    def peak(numbers: range) -> int:
        tracemalloc.reset_peak()
        for number in numbers:
            add(writer, number)
            if writer.is_full:
                writer.end_block()
        return tracemalloc.get_traced_memory()[1]

    tracemalloc.start()
    few, more = peak(range(10_000)), peak(range(10_000, 30_000))
    tracemalloc.stop()

    # Lines are held up to 32 MB, here 14 bytes for each of 20,000 documents, and their numbers, in
    # buffers that grow ahead of both. Their keys and names alone take 82 bytes.
    assert more < few + 20_000 * 50
