"""Write megatron.core's torch_dist checkpoints one chunk at a time, without ranks.

The format is torch.distributed.checkpoint's (``torch/distributed/checkpoint/filesystem.py``):
``.distcp`` files of consecutive items, each a tensor by ``torch.save``, and ``.metadata``, the
pickled index of chunks and of their places in the files. megatron.core 0.16.1 adds
``metadata.json`` with the names of the formats, and a file that all ranks share.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.checkpoints import parts
from jobs.checkpoints.parts import Part, Parts
from jobs.contract.files import fsync_folder, write_bytes
from jobs.runtime.storage import begin_writeback

if TYPE_CHECKING:
    import torch

METADATA = ".metadata"
FORMATS = {
    "sharded_backend": "torch_dist",
    "sharded_backend_version": 1,
    "common_backend": "torch",
    "common_backend_version": 1,
}
"""Content of ``metadata.json``, as megatron.core 0.16.1 writes it."""

COMMON = {"content_metadata": {"distrib_optim_sharding_type": "fully_reshardable"}}
"""Content of the file that all ranks share, equal to that of a checkpoint that the engine saves."""

PART = ".part"
"""Suffix of a file that is being written."""


@dataclass(frozen=True)
class Item:
    """One chunk in a file."""

    key: str
    offset: tuple[int, ...]
    """Of the chunk in the whole tensor, the axis of layers included."""
    shape: tuple[int, ...]
    part: Part
    """Of the file; items follow each other without a gap."""


@dataclass(frozen=True)
class WrittenFile:
    """A finished ``.distcp`` file."""

    name: str
    items: tuple[Item, ...]

    @property
    def parts(self) -> Parts:
        """Return the file as a checkpoint's manifest lists it."""
        return tuple(item.part for item in self.items)


def write_file(
    path: Path, chunks: Iterable[tuple[str, tuple[int, ...], torch.Tensor]]
) -> WrittenFile:
    """Write chunks, each a key, an offset and a contiguous tensor, and return what the file holds.

    The file has its name once it is whole and durable. Each byte is digested as it is written.

    Raises:
        OSError: it cannot be written; nothing remains.
    """
    import torch

    # The digests below replace the zip format's own checksums, which take as long as writing.
    torch.serialization.set_crc32_options(False)
    part = path.with_name(path.name + PART)
    items = []
    try:
        with part.open("wb") as file:
            for key, offset, tensor in chunks:
                stream: Any = parts.DigestingStream(file)
                torch.save(tensor, stream)
                items.append(Item(key, offset, tuple(tensor.shape), stream.part))
                file.flush()
                size = stream.part.bytes
                begin_writeback(file.fileno(), file.tell() - size, size)
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)
    return WrittenFile(path.name, tuple(items))


def write_index(
    folder: Path,
    files: Sequence[WrittenFile],
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, torch.dtype],
) -> dict[str, Parts]:
    """Write the index of a checkpoint's files; return the parts of the index's own files.

    Args:
        folder: of the files.
        files: all of them.
        shapes: per key, of the whole tensor.
        dtypes: per key.

    Raises:
        ValueError: the chunks of a tensor do not cover it.
        OSError: it cannot be written.
    """
    import pickle

    import torch

    common = io.BytesIO()
    torch.save(COMMON, common)
    contents = {
        METADATA: pickle.dumps(_metadata(files, shapes, dtypes)),
        "common.pt": common.getvalue(),
        "metadata.json": json.dumps(FORMATS).encode(),
    }
    for name, content in contents.items():
        write_bytes(folder / name, content)
    return {name: (parts.describe_content(content),) for name, content in contents.items()}


def _metadata(
    files: Sequence[WrittenFile],
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, torch.dtype],
) -> Any:
    """Return the index as torch's reader of a checkpoint unpickles it."""
    import torch
    from torch.distributed.checkpoint.filesystem import CURRENT_DCP_VERSION, _StorageInfo
    from torch.distributed.checkpoint.metadata import (
        ChunkStorageMetadata,
        Metadata,
        MetadataIndex,
        StorageMeta,
        TensorProperties,
        TensorStorageMetadata,
    )

    chunks: dict[str, list[ChunkStorageMetadata]] = {key: [] for key in shapes}
    places = {}
    for file in files:
        start = 0
        for item in file.items:
            offset = torch.Size(item.offset)
            chunks[item.key].append(ChunkStorageMetadata(offset, torch.Size(item.shape)))
            places[MetadataIndex(item.key, offset)] = _StorageInfo(
                file.name, start, item.part.bytes
            )
            start += item.part.bytes
    tensors: dict[str, Any] = {}
    for key, whole in shapes.items():
        covered = sum(chunk.sizes.numel() for chunk in chunks[key])
        if covered != math.prod(whole):
            raise ValueError(f"{key}: chunks hold {covered} values, the shape is {whole}")
        properties = TensorProperties(dtypes[key])
        tensors[key] = TensorStorageMetadata(properties, torch.Size(whole), chunks[key])
    return Metadata(
        tensors, storage_data=places, storage_meta=StorageMeta(), version=CURRENT_DCP_VERSION
    )
