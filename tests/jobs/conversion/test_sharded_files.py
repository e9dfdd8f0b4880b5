"""Checkpoints written chunk by chunk: torch's reader and ours load them, and damage is found."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from jobs.checkpoints import manifest, parts
from jobs.contract.errors import TaskError
from jobs.conversion import sharded_writer
from jobs.conversion.sharded_reader import METADATA, ShardedReader

from ..checkpoint_files import checkpoint_record

NORMS = "decoder.layers.mlp.linear_fc1.layer_norm_weight"
ROWS = "embedding.word_embeddings.weight"
SHAPES = {NORMS: (3, 8), ROWS: (12, 8)}
DTYPES = {NORMS: torch.float32, ROWS: torch.bfloat16}


def content(key: str) -> torch.Tensor:
    torch.manual_seed(len(key))
    return torch.randn(SHAPES[key]).to(DTYPES[key])


def layer_chunks(layer: int) -> Iterator[tuple[str, tuple[int, ...], torch.Tensor]]:
    yield NORMS, (layer, 0), content(NORMS)[layer : layer + 1]


def row_chunks() -> Iterator[tuple[str, tuple[int, ...], torch.Tensor]]:
    for start in range(0, 12, 3):
        yield ROWS, (start, 0), content(ROWS)[start : start + 3].clone()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write(tmp_path)


def write(folder: Path) -> Path:
    path = folder / manifest.name(0)
    path.mkdir(parents=True)
    files = [
        sharded_writer.write_file(path / f"__{layer}_0.distcp", layer_chunks(layer))
        for layer in range(3)
    ]
    files.append(sharded_writer.write_file(path / "__3_0.distcp", row_chunks()))
    index = sharded_writer.write_index(path, files, SHAPES, DTYPES)
    listed = {file.name: file.parts for file in files} | index
    manifest.commit(path, checkpoint_record(0), listed)
    return path


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_torch_reads_every_tensor(checkpoint: Path) -> None:
    from torch.distributed import checkpoint as torch_checkpoint

    state = {key: torch.zeros(SHAPES[key], dtype=DTYPES[key]) for key in SHAPES}
    torch_checkpoint.load(state, checkpoint_id=checkpoint, no_dist=True)

    assert all(torch.equal(state[key], content(key)) for key in SHAPES)


def test_our_reader_reads_whole_tensors_and_layers(checkpoint: Path) -> None:
    reader = ShardedReader(checkpoint)

    assert {key: entry.shape for key, entry in reader.tensors.items()} == SHAPES
    assert torch.equal(reader.read(ROWS), content(ROWS))
    assert torch.equal(reader.read(NORMS), content(NORMS))
    assert torch.equal(reader.read(NORMS, layer=1), content(NORMS)[1])


@pytest.mark.parametrize("rows", [(0, 12), (0, 3), (2, 4), (5, 12), (3, 9)])
def test_rows_are_read_chunk_by_chunk(checkpoint: Path, rows: tuple[int, int]) -> None:
    read = list(ShardedReader(checkpoint).blocks(ROWS, None, rows))

    assert torch.equal(torch.cat(read), content(ROWS)[slice(*rows)])
    assert max(len(block) for block in read) <= 3


def test_only_the_bytes_of_the_requested_layer_are_read(checkpoint: Path) -> None:
    reader = ShardedReader(checkpoint)
    before = reader.bytes_read

    reader.read(NORMS, layer=2)

    assert reader.bytes_read - before == (checkpoint / "__2_0.distcp").stat().st_size


def test_the_digests_are_those_of_the_files(checkpoint: Path) -> None:
    assert parts.alteration(checkpoint, manifest.manifest(checkpoint)) == ""
    assert manifest.problem(checkpoint) == ""


def test_a_changed_byte_is_found_when_it_is_read(checkpoint: Path) -> None:
    file = checkpoint / "__1_0.distcp"
    bytes_ = bytearray(file.read_bytes())
    bytes_[len(bytes_) // 2] ^= 1
    file.write_bytes(bytes_)
    reader = ShardedReader(checkpoint)

    assert torch.equal(reader.read(NORMS, layer=0), content(NORMS)[0])
    with pytest.raises(TaskError, match="has the right size, but its content has"):
        reader.read(NORMS, layer=1)


def test_a_missing_chunk_is_not_indexed(tmp_path: Path) -> None:
    file = sharded_writer.write_file(tmp_path / "__0_0.distcp", layer_chunks(0))

    with pytest.raises(ValueError, match=r"chunks hold 8 values, the shape is \(3, 8\)"):
        sharded_writer.write_index(tmp_path, [file], {NORMS: (3, 8)}, {NORMS: torch.float32})


def test_a_file_that_cannot_be_finished_is_not_there(tmp_path: Path) -> None:
    def broken() -> Iterator[tuple[str, tuple[int, ...], torch.Tensor]]:
        yield from layer_chunks(0)
        raise OSError("the source became unreadable")

    with pytest.raises(OSError, match="unreadable"):
        sharded_writer.write_file(tmp_path / "__0_0.distcp", broken())

    assert list(tmp_path.iterdir()) == []


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.mkdir, ("ran",)


@pytest.mark.parametrize("index", [{"a": Hostile()}, [print]])
def test_an_index_that_would_run_code_is_refused(tmp_path: Path, index: object) -> None:
    path = tmp_path / manifest.name(0)
    path.mkdir()
    (path / METADATA).write_bytes(pickle.dumps(index))
    (path / "metadata.json").write_text("{}")
    files = {name: parts.describe(path / name) for name in (METADATA, "metadata.json")}
    manifest.commit(path, checkpoint_record(0), files)

    with pytest.raises(TaskError, match="which no index holds"):
        ShardedReader(path)
