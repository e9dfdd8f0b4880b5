"""Write weights as sharded safetensors, several files side by side, with their index.

Each thread writes one file, and holds the block of rows that it writes: read from a checkpoint, a
stored chunk, and while it is read twice that, times the number of threads. A file of the format
(huggingface/safetensors, README.md, "Format") is the length of its header in eight bytes,
little-endian; the header, JSON, filled up with spaces to a multiple of eight; then the tensors back
to back, in the order of their offsets. The names of the files and the index are those that
transformers reads.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jobs.contract.files import write_bytes
from jobs.runtime.storage import begin_writeback

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
"""Tensor name to file, where there are several files."""

DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
"""Types of values by their name in a header: their names in torch and in ``config.json``."""
VALUE_BYTES = {"BF16": 2, "F16": 2, "F32": 4}

BLOCK_BYTES = 1 << 22
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


Values = Callable[[Sequence[Tensor]], Iterable[tuple[str, "torch.Tensor"]]]
"""Yields the values of tensors."""


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
    values: Values,
    report: Callable[[int], None],
    threads: int = 1,
) -> dict[str, dict[str, Any]]:
    """Write all files of weights into a folder, and the index where there are several.

    Args:
        folder: exists, and holds none of these files.
        shards: the result of ``divide``.
        values: yields name and values of tensors, in their order, on the CPU; of one tensor in any
            number of blocks of rows. Called per file, in the thread that writes it.
        report: called with the bytes written since the last call, by one thread at a time; it may
            raise.
        threads: files that are written side by side, at most.

    Returns:
        ``bytes`` and ``sha256`` of each file.

    Raises:
        OSError: a file cannot be written.
        ValueError: the values are not those of ``shards``.
    """
    lock, failed = threading.Lock(), threading.Event()

    def count(written: int) -> None:
        if failed.is_set():
            raise _Abandoned
        with lock:
            report(written)

    with ThreadPoolExecutor(threads) as pool:
        futures = {
            pool.submit(_write_shard, folder / shard.name, shard, values, count): shard.name
            for shard in shards
        }
        try:
            found = {futures[future]: future.result() for future in as_completed(futures)}
        except BaseException:
            failed.set()
            pool.shutdown(cancel_futures=True)
            raise
    files = {shard.name: found[shard.name] for shard in shards}
    if len(shards) > 1:
        text = json.dumps(index(shards), indent=2).encode() + b"\n"
        files[INDEX] = write_file(folder / INDEX, text)
    return files


class _Abandoned(Exception):
    """The end of a file's thread, since another one failed."""


def write_file(path: Path, content: bytes) -> dict[str, Any]:
    """Write a small file, and return its ``bytes`` and ``sha256``."""
    write_bytes(path, content)
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def write_json_file(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Write a JSON file of another program, without our ``format``; return as ``write_file``."""
    return write_file(path, json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n")


def _write_shard(
    path: Path, shard: Shard, values: Values, report: Callable[[int], None]
) -> dict[str, Any]:
    """Write one file; digest each block as it is written."""
    digest, source = hashlib.sha256(), iter(values(shard.tensors))
    with path.open("xb", buffering=0) as file:

        def put(content: memoryview) -> None:
            for start in range(0, len(content), BLOCK_BYTES):
                block = rest = content[start : start + BLOCK_BYTES]
                digest.update(block)
                while rest:
                    rest = rest[file.write(rest) or 0 :]
                begin_writeback(file.fileno(), file.tell() - len(block), len(block))
                report(len(block))

        put(memoryview(shard.header))
        for tensor in shard.tensors:
            for content in _contents(tensor, source):
                put(content)
        os.fsync(file.fileno())
    return {"bytes": shard.bytes, "sha256": digest.hexdigest()}


def _contents(tensor: Tensor, source: Iterator[tuple[str, torch.Tensor]]) -> Iterator[memoryview]:
    """Yield the bytes of a tensor, little-endian, block by block, after a check of each that it is
    of the described one.
    """
    import torch

    kind, rows = getattr(torch, DTYPES[tensor.dtype]), 0
    while rows < tensor.shape[0]:
        name, block = next(source, ("nothing", torch.empty(0)))
        rows += len(block)
        if name != tensor.name or block.shape[1:] != tensor.shape[1:] or rows > tensor.shape[0]:
            found = f"{name} {tuple(block.shape)}"
            raise ValueError(f"{tensor.name} {tensor.shape} was to be written, not {found}")
        content: Any = block.detach().to(kind).contiguous().flatten().view(torch.uint8).numpy()
        yield memoryview(content)
