"""The index of an indexed dataset: written and read by one description of its header."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contract.atomic_file import AtomicFile
from jobs.contract.errors import TaskError
from jobs.data.indexed_dataset import (
    HEADER,
    IndexedWriter,
    count_tokens,
    read_index,
    stored,
    write_index,
)


def written(path: Path, lengths: list[int], dtype: str) -> Path:
    """Write an index of documents of these lengths and return its path."""
    index = AtomicFile(path)
    write_index(index, numpy.array(lengths, dtype=numpy.int32), dtype)
    index.seal()
    index.publish()
    return path


@given(
    lengths=st.lists(st.integers(1, 2**31 - 1)),
    dtype=st.sampled_from([("uint16", "<u2"), ("int32", "<i4")]),
)
def test_index_read_back_has_the_tokens_and_the_type_written(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], dtype: tuple[str, str]
) -> None:
    path = written(tmp_path_factory.mktemp("index") / "a.idx", lengths, dtype[0])

    index = read_index(path)
    assert index.lengths.tolist() == lengths
    assert index.offsets.tolist() == [
        sum(lengths[:n]) * index.kind.itemsize for n in range(len(lengths))
    ]
    assert (count_tokens(index), index.kind) == (sum(lengths), numpy.dtype(dtype[1]))


@pytest.mark.parametrize(
    ("dtype", "code", "item", "token"), [("uint16", 8, 2, "<H"), ("int32", 4, 4, "<i")]
)
def test_both_files_have_the_bytes_of_the_format(
    dtype: str, code: int, item: int, token: str, tmp_path: Path
) -> None:
    """Packed by hand, as the format is described in megatron.core's indexed_dataset.py."""
    documents = [[7, 8, 2], [2], [1, 2, 3, 4, 65_499]]
    writer = IndexedWriter(tmp_path / "00000", dtype)
    for ids in (documents[:1], documents[1:]):
        flat = numpy.array([number for row in ids for number in row], dtype=stored(dtype))
        writer.add(flat, numpy.array([len(row) for row in ids]))
    writer.publish()

    binary = b"".join(struct.pack(token, number) for row in documents for number in row)
    index = b"".join(
        [
            b"MMIDIDX\x00\x00",
            struct.pack("<Q", 1),
            struct.pack("<B", code),
            struct.pack("<Q", 3),
            struct.pack("<Q", 4),
            struct.pack("<3i", 3, 1, 5),
            struct.pack("<3q", 0, 3 * item, 4 * item),
            struct.pack("<4q", 0, 1, 2, 3),
        ]
    )
    assert (tmp_path / "00000.bin").read_bytes() == binary
    assert (tmp_path / "00000.idx").read_bytes() == index


def test_an_index_of_more_than_two_to_the_31_tokens_has_right_offsets(tmp_path: Path) -> None:
    lengths = [2**31 - 1, 2**31 - 1, 3, 2**31 - 1, 1]
    index = read_index(written(tmp_path / "a.idx", lengths, "int32"))

    assert index.offsets.tolist() == [4 * sum(lengths[:number]) for number in range(5)]
    assert count_tokens(index) == sum(lengths) > 2**32


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: HEADER.size - 1],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: b"X" + data[1:],
        lambda data: data[:9] + b"\2" + data[10:],  # version
        lambda data: data[:17] + b"\7" + data[18:],  # float32, which no token is stored in
    ],
)
def test_damaged_index_is_refused(tmp_path: Path, damage: object) -> None:
    path = written(tmp_path / "a.idx", [3, 5], "uint16")
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]

    with pytest.raises(TaskError, match="is not a complete index of tokens"):
        read_index(path)
