"""All ids of a dataset are checked, in blocks, and the first bad one is named."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest

from jobs.contract.errors import CONFIGURATION, TaskError
from jobs.contract.rundir import RunDir
from jobs.data.indexed_dataset import IndexedWriter
from jobs.data.survey import IndexedSource, scan

LENGTHS = (3, 0, 4, 5)
"""Tokens of the documents; the second has none."""


def source(folder: Path, ids: list[int], dtype: str = "int32") -> IndexedSource:
    """Write a dataset."""
    writer = IndexedWriter(folder / "books", dtype)
    writer.add(numpy.array(ids, dtype), numpy.array(LENGTHS, numpy.int32))
    writer.publish()
    return IndexedSource(str(folder / "books"), len(LENGTHS), len(ids), "", "", tokenized=False)


@pytest.mark.parametrize(
    ("place", "document", "position"), [(0, 0, 0), (2, 0, 2), (3, 2, 0), (6, 2, 3), (11, 3, 4)]
)
@pytest.mark.parametrize(("dtype", "token"), [("int32", -1), ("int32", 90), ("uint16", 65535)])
def test_an_id_outside_of_the_vocabulary_is_named_with_document_and_position(
    tmp_path: Path, place: int, document: int, position: int, dtype: str, token: int
) -> None:
    ids = [0, 89] * 6
    ids[place] = token
    books = source(tmp_path, ids, dtype)

    with pytest.raises(TaskError) as refusal:
        scan(RunDir(tmp_path), [books], 90, block_bytes=20)

    assert refusal.value.code == CONFIGURATION
    assert refusal.value.message == (
        f"{tmp_path}/books.bin: document {document} at position {position}, both counted from 0, "
        f"holds token {token}, the model has a vocabulary of 90"
    )


@pytest.mark.parametrize("block_bytes", [4, 20, 48, 1000])
def test_every_block_is_read_and_reported(tmp_path: Path, block_bytes: int) -> None:
    books, reported = source(tmp_path, [0, 89] * 6), []

    scan(RunDir(tmp_path), [books], 90, lambda *done: reported.append(done), block_bytes)

    size = len(LENGTHS) * 3 * 4
    assert reported == [
        (min(end, size), size) for end in range(block_bytes, size + block_bytes, block_bytes)
    ]


def test_without_datasets_nothing_is_read(tmp_path: Path) -> None:
    scan(RunDir(tmp_path), [], 90)
