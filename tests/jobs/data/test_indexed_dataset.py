"""The index of an indexed dataset: written and read by one description of its header."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contract.atomic_file import AtomicFile
from jobs.contract.errors import TaskError
from jobs.data.indexed_dataset import HEADER, count_tokens, read_index, write_index


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
