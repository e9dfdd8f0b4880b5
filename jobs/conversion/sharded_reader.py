"""Read tensors of a torch_dist checkpoint one at a time, without megatron.core and without ranks.

Each item is compared with its digest in the checkpoint's manifest as it is read, so that nothing
altered is used and nothing else is read. The index, ``.metadata``, is a pickle: it is compared with
its digest first, and only classes that such an index consists of are built from it.
"""

from __future__ import annotations

import io
import pickle
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.checkpoints import manifest, parts
from jobs.checkpoints.parts import AlteredPart, Content, Part, Parts
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
        index = _guarded(path, lambda: _Index(io.BufferedReader(content)).load())
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

    def read(
        self, key: str, layer: int | None = None, rows: tuple[int, int] | None = None
    ) -> torch.Tensor:
        """Return a tensor in the type it is stored in.

        Args:
            key: megatron.core's, as in ``tensors``.
            layer: index of the first axis, which the result then lacks; None reads the whole.
            rows: the first, and the one behind the last, of the first axis that the result has;
                None reads all.

        Raises:
            KeyError: the checkpoint has no such tensor.
            TaskError: it is damaged, or storage does not respond.
        """
        import torch

        axis, whole = int(layer is not None), self._shape(key, layer)
        rows = rows or (0, whole[0])
        first, shape = rows[0], (rows[1] - rows[0], *whole[1:])
        result = torch.empty(shape, dtype=self.tensors[key].dtype)
        filled = 0
        for place in self._overlapping(key, layer, rows):
            start, share = self._share(key, place, layer, rows)
            offset = (start - first, *place.offset[axis + 1 :])
            ends = zip(offset, share.shape, strict=True)
            result[tuple(slice(begin, begin + count) for begin, count in ends)] = share
            filled += share.numel()
        if filled != result.numel():
            raise _damaged(self._path, f"{key} is incomplete")
        return result

    def blocks(self, key: str, layer: int | None, rows: tuple[int, int]) -> Iterator[torch.Tensor]:
        """Yield rows of a tensor in order: chunk by chunk, or all at once where a chunk holds a
        part of a row.

        Args:
            key: as in ``read``.
            layer: as in ``read``.
            rows: as in ``read``.

        Raises:
            KeyError, TaskError: as in ``read``.
        """
        inner, axis = self._shape(key, layer)[1:], int(layer is not None)
        places = self._overlapping(key, layer, rows)
        if any(place.shape[axis + 1 :] != inner for place in places):
            yield self.read(key, layer, rows)
            return
        following, last = rows
        for place in places:
            start, share = self._share(key, place, layer, rows)
            if start != following:
                break
            following += len(share)
            yield share
        if following != last:
            raise _damaged(self._path, f"{key} is incomplete")

    def _shape(self, key: str, layer: int | None) -> tuple[int, ...]:
        return self.tensors[key].shape[int(layer is not None) :]

    def _overlapping(self, key: str, layer: int | None, rows: tuple[int, int]) -> list[_Place]:
        """Return the chunks with some of these rows, in their order."""
        axis, (first, last) = int(layer is not None), rows
        found = [
            place
            for place in self._places[key]
            if (layer is None or 0 <= layer - place.offset[0] < place.shape[0])
            and place.offset[axis] < last
            and place.offset[axis] + place.shape[axis] > first
        ]
        return sorted(found, key=lambda place: place.offset[axis])

    def _share(
        self, key: str, place: _Place, layer: int | None, rows: tuple[int, int]
    ) -> tuple[int, torch.Tensor]:
        """Return the first of the rows that a chunk has, and their values."""
        axis = int(layer is not None)
        begin, chunk = place.offset[axis], self._chunk(key, place)
        if layer is not None:
            chunk = chunk[layer - place.offset[0]]
        start, stop = max(begin, rows[0]), min(begin + place.shape[axis], rows[1])
        return start, chunk[start - begin : stop - begin]

    def _chunk(self, key: str, place: _Place) -> torch.Tensor:
        content = self._read(place.file, place.start, (place.part,))
        tensor = content.tensor()
        if tuple(tensor.shape) != place.shape:
            raise _damaged(self._path, f"{key} in {place.file} has the shape {tensor.shape}")
        return tensor

    def _read(self, name: str, start: int, its_parts: Parts) -> Content:
        """Return the bytes of one part of a file, as a file."""
        if len(its_parts) != 1:
            raise _damaged(self._path, f"{manifest.MANIFEST} does not list {name}")
        (part,) = its_parts
        content: Content = _guarded(
            self._path, lambda: parts.read_part(self._path / name, start, part, self._beat)
        )
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


_DAMAGE = (
    *(AlteredPart, FileNotFoundError, EOFError),
    *(pickle.UnpicklingError, ValueError, LookupError),
)
"""Errors of reading that the checkpoint's own content explains."""


def _guarded(path: Path, read: Callable[[], Any]) -> Any:
    """Call a function that reads files of a checkpoint.

    Raises:
        TaskError: in place of what it raises.
    """
    try:
        return read()
    except _DAMAGE as error:
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
