"""Read tensors of a torch_dist checkpoint one at a time, without megatron.core and without ranks.

Each item is compared with its digest in the checkpoint's manifest as it is read, so that nothing
altered is used and nothing else is read. The index, ``.metadata``, is a pickle: it is compared with
its digest first, and only classes that such an index consists of are built from it.
"""

from __future__ import annotations

import io
import math
import pickle
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.checkpoints import manifest, parts
from jobs.checkpoints.parts import AlteredPart, Part, Parts
from jobs.contract.errors import FAILED, RESUME, TaskError

if TYPE_CHECKING:
    import torch

METADATA = ".metadata"

INDEX_MODULES = ("torch.distributed.checkpoint.", "megatron.core.dist_checkpointing.")
"""Modules of the classes in an index."""
INDEX_NAMES = {("torch", "Size"), ("torch.serialization", "_get_layout")}
"""Other names in an index, beside torch's types of values."""


@dataclass(frozen=True)
class TensorEntry:
    """A tensor of a checkpoint."""

    shape: tuple[int, ...]
    """Whole, with the axis of layers first where a key has one per layer."""
    dtype: torch.dtype


@dataclass(frozen=True)
class _Place:
    """The place at which a chunk is stored."""

    offset: tuple[int, ...]
    shape: tuple[int, ...]
    file: str
    start: int
    part: Part


class ShardedReader:
    """The tensors of one checkpoint. Threads may share it."""

    def __init__(self, path: Path, beat: Callable[[], None] = lambda: None) -> None:
        """Read the index.

        Args:
            path: a checkpoint without a ``manifest.problem``.
            beat: called while bytes are read.

        Raises:
            TaskError: the checkpoint is damaged, or storage does not respond.
        """
        self._path, self._beat = path, beat
        self._lock = threading.Lock()
        self.bytes_read = 0
        """Of all files so far."""
        self._files = _guarded(path, lambda: manifest.manifest(path))
        content = self._read(METADATA, 0, self._files.get(METADATA, ()))
        index = _guarded(path, lambda: _Index(io.BytesIO(content)).load())
        self.tensors: dict[str, TensorEntry] = {}
        self._places: dict[str, list[_Place]] = {}
        self._place(index)

    def _place(self, index: Any) -> None:
        """Look up every chunk of the index in the manifest."""
        path = self._path
        starts = {name: _starts(its_parts) for name, its_parts in self._files.items()}
        for place, info in index.storage_data.items():
            entry = index.state_dict_metadata[place.fqn]
            if not hasattr(entry, "properties"):
                continue  # an object, such as a generator's state
            self.tensors[place.fqn] = TensorEntry(tuple(entry.size), entry.properties.dtype)
            (chunk,) = [chunk for chunk in entry.chunks if chunk.offsets == place.offset]
            part = starts.get(info.relative_path, {}).get(info.offset)
            if part is None or part.bytes != info.length:
                raise _damaged(path, f"{METADATA} and {manifest.MANIFEST} differ in {place.fqn}")
            offset, shape = tuple(chunk.offsets), tuple(chunk.sizes)
            self._places.setdefault(place.fqn, []).append(
                _Place(offset, shape, info.relative_path, info.offset, part)
            )

    def read(self, key: str, layer: int | None = None) -> torch.Tensor:
        """Return a tensor in the type it is stored in.

        Args:
            key: megatron.core's, as in ``tensors``.
            layer: index of the first axis, which the result then lacks; None reads the whole.

        Raises:
            KeyError: the checkpoint has no such tensor.
            TaskError: it is damaged, or storage does not respond.
        """
        import torch

        entry = self.tensors[key]
        shape = entry.shape if layer is None else entry.shape[1:]
        result = torch.empty(shape, dtype=entry.dtype)
        filled = 0
        for place in self._places[key]:
            offset, length = place.offset, place.shape
            if layer is not None:
                if not offset[0] <= layer < offset[0] + length[0]:
                    continue
                offset, length = offset[1:], length[1:]
            chunk = self._chunk(key, place)
            if layer is not None:
                chunk = chunk[layer - place.offset[0]]
            where = tuple(
                slice(start, start + count) for start, count in zip(offset, length, strict=True)
            )
            result[where] = chunk
            filled += math.prod(length)
        if filled != result.numel():
            raise _damaged(self._path, f"{key} is incomplete")
        return result

    def _chunk(self, key: str, place: _Place) -> torch.Tensor:
        import torch

        content = self._read(place.file, place.start, (place.part,))
        tensor: torch.Tensor = torch.load(io.BytesIO(content), weights_only=True)
        if tuple(tensor.shape) != place.shape:
            raise _damaged(self._path, f"{key} in {place.file} has the shape {tensor.shape}")
        return tensor

    def _read(self, name: str, start: int, its_parts: Parts) -> bytearray:
        """Return the bytes of one part of a file."""
        if len(its_parts) != 1:
            raise _damaged(self._path, f"{manifest.MANIFEST} does not list {name}")
        (part,) = its_parts
        content = bytearray(part.bytes)

        def read() -> bool:
            with (self._path / name).open("rb") as file:
                file.seek(start)
                return parts.read_part(file, part, memoryview(content), self._beat)

        if not _guarded(self._path, read):
            raise _damaged(self._path, str(AlteredPart(name)))
        with self._lock:
            self.bytes_read += part.bytes
        return content


def _starts(its_parts: Parts) -> dict[int, Part]:
    """Return the parts of a file by the place where each begins."""
    found, start = {}, 0
    for part in its_parts:
        found[start] = part
        start += part.bytes
    return found


def _guarded(path: Path, read: Callable[[], Any]) -> Any:
    """Call a function that reads files of a checkpoint.

    Raises:
        TaskError: in place of what it raises.
    """
    try:
        return read()
    except (FileNotFoundError, EOFError, pickle.UnpicklingError, ValueError, LookupError) as error:
        raise _damaged(path, str(error)) from error
    except OSError as error:
        raise TaskError(
            f"{path} cannot be read: {error.strerror}",
            f"check the file system, then {RESUME}",
            FAILED,
        ) from error


def _damaged(path: Path, reason: str) -> TaskError:
    return TaskError(
        f"{path} is damaged: {reason}", "{meditron checkpoints --deep} examines every checkpoint"
    )


class _Index(pickle.Unpickler):
    """Builds nothing but the classes of an index."""

    def find_class(self, module: str, name: str) -> Any:
        import torch

        if "." not in name:
            value: Any = super().find_class(module, name)
            if isinstance(value, type) and value.__module__.startswith(INDEX_MODULES):
                return value
            if (module, name) in INDEX_NAMES or isinstance(value, torch.dtype | torch.layout):
                return value
        raise pickle.UnpicklingError(f"{METADATA} names {module}.{name}, which no index holds")
