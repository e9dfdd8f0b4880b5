"""Write weights as sharded safetensors, one tensor at a time, with their index.

Memory holds one tensor. A file of the format (huggingface/safetensors, README.md, "Format") is the
length of its header in eight bytes, little-endian; the header, JSON, filled up with spaces to a
multiple of eight; then the tensors back to back, in the order of their offsets. The names of the
files and the index are those that transformers reads.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jobs.contract.files import write_bytes

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
"""Tensor name to file, where there are several files."""

DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
"""Types of values by their name in a header: their names in torch and in ``config.json``."""
VALUE_BYTES = {"BF16": 2, "F16": 2, "F32": 4}

BLOCK_BYTES = 1 << 24
"""Bytes between two reports of progress."""


@dataclass(frozen=True)
class Tensor:
    """A tensor as the header of a file describes it."""

    name: str
    dtype: str
    """A key of ``DTYPES``."""
    shape: tuple[int, ...]

    @property
    def parameters(self) -> int:
        """Return the number of values."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Return the size of the values."""
        return self.parameters * VALUE_BYTES[self.dtype]


class Shard(NamedTuple):
    """One file of weights."""

    name: str
    tensors: tuple[Tensor, ...]

    @property
    def header(self) -> bytes:
        """Return all that precedes the values."""
        offset = 0
        entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        for tensor in self.tensors:
            entries[tensor.name] = {
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "data_offsets": [offset, offset := offset + tensor.bytes],
            }
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text

    @property
    def bytes(self) -> int:
        """Return the size of the file."""
        return len(self.header) + sum(tensor.bytes for tensor in self.tensors)


def divide(tensors: Iterable[Tensor], limit: int) -> list[Shard]:
    """Divide tensors into files of at most ``limit`` bytes of values, in order; a larger tensor has
    a file of its own.
    """
    groups: list[list[Tensor]] = [[]]
    size = 0
    for tensor in tensors:
        if groups[-1] and size + tensor.bytes > limit:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += tensor.bytes
    if len(groups) == 1:
        return [Shard("model.safetensors", tuple(groups[0]))]
    return [
        Shard(f"model-{number:05d}-of-{len(groups):05d}.safetensors", tuple(group))
        for number, group in enumerate(groups, 1)
    ]


def index(shards: Sequence[Shard]) -> dict[str, Any]:
    """Return the content of ``INDEX``."""
    tensors = [tensor for shard in shards for tensor in shard.tensors]
    return {
        "metadata": {
            "total_parameters": sum(tensor.parameters for tensor in tensors),
            "total_size": sum(tensor.bytes for tensor in tensors),
        },
        "weight_map": {tensor.name: shard.name for shard in shards for tensor in shard.tensors},
    }


def write(
    folder: Path,
    shards: Sequence[Shard],
    values: Iterable[tuple[str, torch.Tensor]],
    report: Callable[[int], None],
) -> dict[str, dict[str, Any]]:
    """Write all files of weights into a folder, and the index where there are several.

    Args:
        folder: exists, and holds none of these files.
        shards: the result of ``divide``.
        values: name and values of each tensor, in the order of ``shards``, on the CPU.
        report: called with the bytes written since the last call; it may raise.

    Returns:
        ``bytes`` and ``sha256`` of each file.

    Raises:
        OSError: a file cannot be written.
        ValueError: the values are not those of ``shards``.
    """
    source = iter(values)
    files = {}
    with ThreadPoolExecutor(1) as hasher:
        for shard in shards:
            files[shard.name] = _write_shard(folder / shard.name, shard, source, hasher, report)
    if len(shards) > 1:
        text = json.dumps(index(shards), indent=2).encode() + b"\n"
        files[INDEX] = write_file(folder / INDEX, text)
    return files


def write_file(path: Path, content: bytes) -> dict[str, Any]:
    """Write a small file, and return its ``bytes`` and ``sha256``."""
    write_bytes(path, content)
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def write_json_file(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Write a JSON file of another program, without our ``format``; return as ``write_file``."""
    return write_file(path, json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n")


def _write_shard(
    path: Path,
    shard: Shard,
    source: Any,
    hasher: ThreadPoolExecutor,
    report: Callable[[int], None],
) -> dict[str, Any]:
    """Write one file; the digest of a block is computed while the block is written."""
    digest = hashlib.sha256()
    with path.open("xb", buffering=0) as file:

        def put(block: memoryview) -> None:
            hashed = hasher.submit(digest.update, block)
            rest = block
            while rest:
                rest = rest[file.write(rest) or 0 :]
            hashed.result()
            report(len(block))

        put(memoryview(shard.header))
        for tensor in shard.tensors:
            content = _content(tensor, next(source, None))
            for start in range(0, len(content), BLOCK_BYTES):
                put(content[start : start + BLOCK_BYTES])
        os.fsync(file.fileno())
    return {"bytes": shard.bytes, "sha256": digest.hexdigest()}


def _content(tensor: Tensor, item: tuple[str, torch.Tensor] | None) -> memoryview:
    """Return the bytes of a tensor, little-endian, after a check that it is the described one."""
    import torch

    if item is None or item[0] != tensor.name or tuple(item[1].shape) != tensor.shape:
        found = f"{item[0]} {tuple(item[1].shape)}" if item else "nothing"
        raise ValueError(f"{tensor.name} {tensor.shape} was to be written, not {found}")
    values = item[1].detach().to(getattr(torch, DTYPES[tensor.dtype])).contiguous()
    content: Any = values.flatten().view(torch.uint8).numpy()
    return memoryview(content)
