"""Shards cut into stretches, and stretches into datasets."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest

from jobs.contract.rundir import RunDir
from jobs.data import document_map
from jobs.data.indexed_dataset import read_index
from jobs.tokenization.datasets import StretchWriter
from jobs.tokenization.stretches import BYTES_PER_TOKEN, stretches

LINES = [b"x" * length + b"\n" for length in (5, 40, 1, 1, 90, 12, 0, 3)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "shard.jsonl"
    path.write_bytes(b"".join(LINES))
    return path


@pytest.mark.parametrize("tokens", [1, 2, 5, 10, 16, 30, 1000])
@pytest.mark.parametrize("tasks", [1, 2, 3, 8])
def test_every_line_is_in_one_stretch_whatever_the_number_of_tasks(
    tokens: int, tasks: int, path: Path
) -> None:
    content = path.read_bytes()
    alone = list(stretches(path, tokens))

    shared = [item for part in range(tasks) for item in stretches(path, tokens, part, tasks)]

    assert sorted(shared) == alone
    assert [item.begin for item in alone] == [0, *(item.end for item in alone[:-1])]
    assert alone[-1].end == len(content)
    assert all(content[: item.end].endswith(b"\n") for item in alone)
    longest = max(map(len, LINES))
    assert max(item.end - item.begin for item in alone) <= tokens * BYTES_PER_TOKEN + longest


def test_without_a_last_line_end_the_last_line_is_still_there(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"no end")

    assert list(stretches(path, 20))[-1].end == path.stat().st_size


def test_an_empty_shard_is_one_stretch_of_the_first_task(tmp_path: Path) -> None:
    path = tmp_path / "shard.jsonl"
    path.touch()

    assert [len(list(stretches(path, 10, part, 2))) for part in (0, 1)] == [1, 0]


LENGTHS = [3, 4, 9, 25, 1, 1, 8, 2]


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_a_stretch_with_more_tokens_becomes_several_datasets(batch: int, tmp_path: Path) -> None:
    writer = StretchWriter(tmp_path / "00003", "uint16", 100, most=10)
    for first in range(0, len(LENGTHS), batch):
        lengths = numpy.array(LENGTHS[first : first + batch], dtype="i8")
        begins = [100 + 10 * number for number in range(first, first + len(lengths))]
        ids = numpy.repeat(numpy.array(begins, dtype="<u2"), lengths)
        writer.add(ids, lengths, document_map.entries(begins, begins))
    writer.seal(190)
    for dataset in writer:
        dataset.publish()

    found = {}
    for dataset in writer:
        binary = dataset.describe(RunDir(tmp_path), "shard")[0]
        lengths = read_index(tmp_path / binary["path"].replace("bin", "idx")).lengths.tolist()
        assert (binary["documents"], binary["tokens"]) == (len(lengths), sum(lengths))
        found[binary["path"]] = (binary["begin"], binary["end"], lengths)
    assert found == {
        "00003.bin": (100, 120, [3, 4]),
        "00003-0000-0001.bin": (120, 130, [9]),
        "00003-0000-0002.bin": (130, 140, [25]),
        "00003-0000-0003.bin": (140, 170, [1, 1, 8]),
        "00003-0000-0004.bin": (170, 190, [2]),
    }
    stored = numpy.concatenate([numpy.fromfile(tmp_path / name, "<u2") for name in found])
    assert stored.tolist() == numpy.repeat(range(100, 180, 10), LENGTHS).tolist()
