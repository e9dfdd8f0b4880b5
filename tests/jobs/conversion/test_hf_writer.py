"""Files of weights, read back by the safetensors package."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from jobs.contract.files import sha256
from jobs.conversion import hf_writer
from jobs.conversion.hf_writer import INDEX, Tensor

from ...disks import mounted

VALUES = {
    "model.embed_tokens.weight": torch.randn(5, 3).bfloat16(),
    "model.layers.0.a": torch.randn(7).bfloat16(),
    "model.layers.0.é": torch.randn(2, 2, 2).bfloat16(),
    "model.norm.weight": torch.tensor([float("inf"), -0.0]).bfloat16(),
}


def described(values: dict[str, torch.Tensor], dtype: str = "BF16") -> list[Tensor]:
    return [Tensor(name, dtype, tuple(value.shape)) for name, value in values.items()]


def values_of(pairs: Iterable[tuple[str, torch.Tensor]]) -> hf_writer.Values:
    """Return what yields the values of a file's tensors, by their names."""

    def of(tensors: Sequence[Tensor]) -> list[tuple[str, torch.Tensor]]:
        names = {tensor.name for tensor in tensors}
        return [(name, value) for name, value in pairs if name in names]

    return of


def written(folder: Path, limit: int, dtype: str = "BF16") -> dict[str, dict]:
    shards = hf_writer.divide(described(VALUES, dtype), limit)
    return hf_writer.write(folder, shards, values_of(VALUES.items()), lambda count: None)


def test_one_file_holds_every_tensor_bit_for_bit(tmp_path):
    files = written(tmp_path, 1 << 30)

    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    loaded = load_file(tmp_path / "model.safetensors")
    assert loaded.keys() == VALUES.keys()
    for name, value in VALUES.items():
        assert torch.equal(loaded[name].view(torch.int16), value.view(torch.int16))
    with safe_open(tmp_path / "model.safetensors", "pt") as opened:
        assert opened.metadata() == {"format": "pt"}
    path = tmp_path / "model.safetensors"
    assert files == {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}}


def test_several_files_have_an_index_and_keep_to_the_limit(tmp_path):
    files = written(tmp_path, 32)  # the first tensor takes 30 bytes, the next two 14 and 16

    index = json.loads((tmp_path / INDEX).read_text())
    assert index["weight_map"] == {
        "model.embed_tokens.weight": "model-00001-of-00003.safetensors",
        "model.layers.0.a": "model-00002-of-00003.safetensors",
        "model.layers.0.é": "model-00002-of-00003.safetensors",
        "model.norm.weight": "model-00003-of-00003.safetensors",
    }
    assert index["metadata"] == {"total_parameters": 32, "total_size": 64}
    assert files.keys() == {path.name for path in tmp_path.iterdir()}
    for name, shard in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / shard)[name], VALUES[name])
    for name, entry in files.items():
        path = tmp_path / name
        assert entry == {"bytes": path.stat().st_size, "sha256": sha256(path)}


def test_a_tensor_above_the_limit_has_a_file_of_its_own(tmp_path):
    shards = hf_writer.divide(described(VALUES), 1)

    assert [len(shard.tensors) for shard in shards] == [1, 1, 1, 1]


def test_the_size_of_a_file_is_known_before_it_is_written(tmp_path):
    (shard,) = hf_writer.divide(described(VALUES), 1 << 30)

    written(tmp_path, 1 << 30)

    assert (tmp_path / shard.name).stat().st_size == shard.bytes


def test_values_are_converted_to_the_described_type(tmp_path):
    written(tmp_path, 1 << 30, dtype="F32")

    loaded = load_file(tmp_path / "model.safetensors")
    for name, value in VALUES.items():
        assert torch.equal(loaded[name], value.float())


def test_a_view_with_strides_is_written_in_its_order(tmp_path):
    value = torch.arange(12.0).reshape(3, 4).t()[1:]
    shards = hf_writer.divide([Tensor("a", "F32", (3, 3))], 1 << 30)

    hf_writer.write(tmp_path, shards, values_of([("a", value)]), lambda count: None)

    assert torch.equal(load_file(tmp_path / "model.safetensors")["a"], value)


def test_progress_adds_up_to_the_size_of_the_files(tmp_path):
    counts: list[int] = []
    shards = hf_writer.divide(described(VALUES), 40)

    hf_writer.write(tmp_path, shards, values_of(VALUES.items()), counts.append)

    assert sum(counts) == sum(shard.bytes for shard in shards)


WRONG = [
    list(VALUES.items())[:-1],
    list(reversed(VALUES.items())),
    [(name, value.flatten()) for name, value in VALUES.items()],
]


@pytest.mark.parametrize("values", WRONG, ids=["too few", "another order", "other shapes"])
def test_other_tensors_than_the_described_ones_are_an_error(tmp_path, values):
    shards = hf_writer.divide(described(VALUES), 1 << 30)

    with pytest.raises(ValueError, match="was to be written, not"):
        hf_writer.write(tmp_path, shards, values_of(values), lambda count: None)


def test_files_are_written_side_by_side(tmp_path):
    shards = hf_writer.divide(described(VALUES), 1)
    together = threading.Barrier(len(shards))  # broken, an error, if one waits for another

    def of(tensors: Sequence[Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        together.wait(60)
        yield from values_of(VALUES.items())(tensors)

    files = hf_writer.write(tmp_path, shards, of, lambda count: None, threads=4)

    assert list(files) == [*(shard.name for shard in shards), INDEX]
    for name, shard in json.loads((tmp_path / INDEX).read_text())["weight_map"].items():
        assert torch.equal(load_file(tmp_path / shard)[name], VALUES[name])


def test_a_file_that_fails_ends_the_others(tmp_path):
    long, short = Tensor("long", "BF16", (1 << 20, 1)), Tensor("short", "BF16", (1,))
    shards = hf_writer.divide([long, short], 1)
    begun = threading.Event()

    def of(tensors: Sequence[Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        if tensors == (short,):
            assert begun.wait(60)
            raise OSError("disk full")
        for _ in range(long.shape[0]):  # takes seconds
            yield "long", torch.zeros(1, 1)
            begun.set()

    with pytest.raises(OSError, match="disk full"):
        hf_writer.write(tmp_path, shards, of, lambda count: None, threads=2)

    assert (tmp_path / shards[0].name).stat().st_size < shards[0].bytes
    assert not (tmp_path / INDEX).exists()


def test_a_full_disk_ends_all_files_with_its_reason(tmp_path):
    tensors = [Tensor(f"t{number}", "BF16", (64, 1024)) for number in range(40)]
    shards = hf_writer.divide(tensors, 1)

    def of(some: Sequence[Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        yield from ((tensor.name, torch.zeros(tensor.shape)) for tensor in some)

    before = threading.active_count()
    with mounted(tmp_path / "disk", "1m") as disk:
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            hf_writer.write(disk, shards, of, lambda count: None, threads=4)

        assert not (disk / INDEX).exists()
    assert threading.active_count() == before
