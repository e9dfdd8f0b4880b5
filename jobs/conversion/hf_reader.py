"""Read a Hugging Face folder of safetensors one tensor, or a part of one, at a time.

The format (https://github.com/huggingface/safetensors): eight bytes with the length of the header,
little-endian; the header, a JSON object with type, shape and place of each tensor; the values. A
folder has one file, or several and an index. Headers are read without torch, so that a login node
can examine a folder too; nothing in it is executed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.contract import base_folder
from jobs.contract.errors import TaskError
from jobs.contract.files import parse_json
from jobs.conversion import hf_config, weight_map

if TYPE_CHECKING:
    import torch

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"

ELEMENT_BYTES = {"BF16": 2, "F16": 2, "F32": 4}
"""Types of weights, by the names of the format, with the bytes of a value."""
TORCH_TYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}

LFS = b"version https://git-lfs"
PAGES = (b"<!doctype", b"<html", b"access to model", b"invalid username", b"repository not found")
"""Beginnings, in lower case, of what a hub sends instead of a file."""

NOT_THE_FORMAT = (
    ValueError, LookupError, TypeError, AttributeError, OverflowError
)  # fmt: skip
"""Of reading JSON that has another content, or objects too deep in one another."""

LARGEST_HEADER = 100_000_000
"""The format's limit, in bytes."""
BLOCK = 1 << 20
SHOWN = 3
"""Names in a message before the rest is counted."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file."""

    name: str
    file: Path
    dtype: str
    """As in the header: ``BF16``."""
    shape: tuple[int, ...]
    start: int
    """Place of its first byte in the file."""

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * ELEMENT_BYTES[self.dtype]


@dataclass(frozen=True)
class Folder:
    """A folder whose files have been compared with their headers."""

    path: Path
    config: dict[str, Any]
    tensors: dict[str, StoredTensor]
    files: tuple[Path, ...]

    @property
    def identity(self) -> str:
        """Return a digest of config, headers, sizes and times of modification of its files."""
        described = [
            [tensor.name, tensor.file.name, tensor.dtype, tensor.shape, tensor.start]
            for tensor in sorted(self.tensors.values(), key=lambda tensor: tensor.name)
        ]
        status = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in self.files]
        content = json.dumps([self.config, described, status], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def open_folder(path: Path) -> Folder:
    """Return what a folder holds, from ``config.json`` and the headers of its files.

    Raises:
        TaskError: it is no folder of safetensors, or files are missing, cut short or something
            else.
    """
    config = read_config(path)
    files, index = _files(path)
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for tensor in read_header(file):
            if tensor.name in tensors:
                other = tensors[tensor.name].file.name
                raise TaskError(
                    f"{path}: {tensor.name} is in two files, {other} and {file.name}", DOWNLOAD
                )
            tensors[tensor.name] = tensor
    if index is not None:
        _compare_with_index(path, index, tensors)
    return Folder(path, config, tensors, tuple(files))


ANOTHER = "`meditron explain model.weights` explains how to name another folder"
DOWNLOAD = f"`meditron fetch --help` explains how to download it again; {ANOTHER}"


def read_config(path: Path) -> dict[str, Any]:
    """Read ``config.json``.

    Raises:
        TaskError: it is missing, or not JSON.
    """
    file = path / CONFIG
    if not path.is_dir():
        raise TaskError(f"{path}: no folder of weights is there", ANOTHER)
    if _is_original(path):
        raise TaskError(
            f"{path}: the weights are in Meta's own format (consolidated.*.pth), not safetensors",
            f"download the model whose name ends in -hf; {ANOTHER}",
        )
    try:
        value = parse_json(file.read_bytes())
    except FileNotFoundError as error:
        raise TaskError(f"{path} has no {CONFIG}", DOWNLOAD) from error
    except OSError as error:
        raise unreadable(file, error) from error
    except ValueError as error:
        raise TaskError(f"{file} is not JSON{_instead(file)}", DOWNLOAD) from error
    if not isinstance(value, dict):
        raise TaskError(f"{file} is not an object of JSON", DOWNLOAD)
    return value


def _is_original(path: Path) -> bool:
    return any(path.glob("consolidated.*.pth")) and not any(path.glob("*.safetensors"))


def describe(folder: Folder) -> hf_config.Described:
    """Return the model that a folder's ``config.json`` describes.

    Raises:
        TaskError: it is of a kind that is not supported.
    """
    try:
        return hf_config.read(folder.config)
    except hf_config.Unsupported as error:
        raise TaskError(
            f"{folder.path / CONFIG}: {error}",
            ANOTHER,
        ) from error


def unreadable(file: Path, error: OSError) -> TaskError:
    """Return the error for a file that storage does not give."""
    return TaskError(f"{file} cannot be read: {error.strerror or error}", "check its permissions")


def _files(path: Path) -> tuple[list[Path], dict[str, str] | None]:
    """Return the files with weights, and the index of several; a single file comes first, as in
    transformers.

    Raises:
        TaskError: there are none, the index is unusable, or a file of it is missing.
    """
    single, index = path / SINGLE, path / INDEX
    if single.exists():
        return [single], None
    if not index.exists():
        raise _no_safetensors(path)
    try:
        names = parse_json(index.read_bytes())["weight_map"]
        found = {str(name): str(file) for name, file in names.items()}
    except OSError as error:
        raise unreadable(index, error) from error
    except NOT_THE_FORMAT as error:
        raise TaskError(f"{index} is not an index of tensors{_instead(index)}", DOWNLOAD) from error
    files = sorted(set(found.values()))
    outside = [file for file in files if Path(file).name != file]
    if outside:
        raise TaskError(f"{index} names {outside[0]!r}, which is outside the folder", DOWNLOAD)
    missing = [file for file in files if not (path / file).exists()]
    if missing:
        raise TaskError(f"{path} lacks {listed(missing)}, which {INDEX} names", DOWNLOAD)
    return [path / file for file in files], found


def _no_safetensors(path: Path) -> TaskError:
    pickles = base_folder.pickles(path)
    if not pickles:
        return TaskError(f"{path} has no {SINGLE} and no {INDEX}", DOWNLOAD)
    command, target = base_folder.copy_command(path)
    return TaskError(
        f"{path} has its weights as pickles ({pickles[0]}), which can run code when they are read; "
        "only safetensors are imported",
        f"if you trust the folder, write a copy: `{command}`, then set model.weights to {target}",
    )


def read_header(file: Path) -> list[StoredTensor]:
    """Return the tensors of one file, in the order of their places.

    Raises:
        TaskError: the file is not safetensors, is cut short, or has a type that no weights have.
    """
    try:
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= min(LARGEST_HEADER, max(size - 8, 0)):
                raise ValueError("no header")
            header = parse_json(stream.read(length))
            header.pop("__metadata__", None)
            placed = [_tensor(file, length + 8, *item) for item in header.items()]
    except OSError as error:
        raise unreadable(file, error) from error
    except NOT_THE_FORMAT as error:
        raise TaskError(f"{file} is not a safetensors file{_instead(file)}", DOWNLOAD) from error
    placed.sort(key=lambda tensor: tensor.start)
    return _contiguous(file, placed, length + 8, size)


def _tensor(file: Path, begin: int, name: str, entry: Mapping[str, Any]) -> StoredTensor:
    start, stop = entry["data_offsets"]
    kind, shape = str(entry["dtype"]), tuple(int(length) for length in entry["shape"])
    if kind not in ELEMENT_BYTES:
        raise TaskError(
            f"{file}: {name} has the type {kind}; weights of type {', '.join(ELEMENT_BYTES)} are "
            "imported",
            ANOTHER,
        )
    tensor = StoredTensor(name, file, kind, shape, begin + int(start))
    if tensor.bytes != stop - start:
        raise ValueError(f"{name} does not have the bytes of its shape")
    return tensor


def _contiguous(
    file: Path, tensors: list[StoredTensor], begin: int, size: int
) -> list[StoredTensor]:
    """Return the tensors if they fill the file without gaps or overlaps, as the format demands."""
    for tensor in tensors:
        if tensor.start != begin:
            raise TaskError(f"{file}: {tensor.name} does not begin where it should", DOWNLOAD)
        begin += tensor.bytes
    if size < begin:
        raise TaskError(
            f"{file} is cut short: its header describes {begin} bytes, it has {size}", DOWNLOAD
        )
    if size > begin:
        raise TaskError(
            f"{file} has {size} bytes, its header describes {begin}; it is not one download",
            DOWNLOAD,
        )
    return tensors


def _instead(file: Path) -> str:
    """Return what a file is instead, as the end of a sentence."""
    try:
        with file.open("rb") as stream:
            begin = stream.read(512).lstrip().lower()
    except OSError:
        return ""
    if begin.startswith(LFS):
        folder = shlex.quote(str(file.parent))
        return f", but a Git LFS pointer to one: run `git -C {folder} lfs pull`"
    if begin.startswith(PAGES):
        return (
            ", but a page of the hub, as for a model whose licence was not accepted: accept it "
            "there, then download again with a token"
        )
    return ""


def _compare_with_index(
    path: Path, index: Mapping[str, str], tensors: Mapping[str, StoredTensor]
) -> None:
    absent = [
        f"{name} in {file}"
        for name, file in index.items()
        if name not in tensors or tensors[name].file.name != file
    ]
    if absent:
        raise TaskError(f"{path}: {INDEX} names {listed(absent)}, which is not there", DOWNLOAD)
    extra = [name for name in tensors if name not in index]
    if extra:
        raise TaskError(f"{path}: {INDEX} does not name {listed(extra)}", DOWNLOAD)


def account(folder: Folder, expected: Mapping[str, tuple[int, ...]], *, tied: bool) -> str:
    """Return how a folder's tensors differ from those of a model, empty where each has its place.

    Args:
        folder: the folder.
        expected: name and shape of every tensor of the model (``weight_map.folder_shapes``).
        tied: the output layer is the embedding, of which the folder may hold a copy.
    """
    known = _weights(folder.tensors.values(), tied)
    missing = [name for name in expected if name not in known]
    if missing:
        return f"{folder.path} lacks {listed(missing)}"
    extra = [name for name in known if name not in expected]
    if extra:
        return f"{folder.path} has {listed(extra)}, which the model has no place for"
    wrong = [
        f"{name} {known[name].shape} instead of {shape}"
        for name, shape in expected.items()
        if known[name].shape != shape
    ]
    if wrong:
        return f"{folder.path} has tensors of another shape: {listed(wrong)}"
    return _mixed_types(folder, known)


def _weights(tensors: Iterable[StoredTensor], tied: bool) -> dict[str, StoredTensor]:
    """Return the tensors that are neither computed by every reader nor a copy of another."""
    return {
        tensor.name: tensor
        for tensor in tensors
        if not tensor.name.endswith(weight_map.COMPUTED)
        and not (tied and tensor.name == weight_map.TIED_OUTPUT)
    }


def _mixed_types(folder: Folder, known: Mapping[str, StoredTensor]) -> str:
    groups: dict[str, list[str]] = {}
    for name, tensor in known.items():
        groups.setdefault(tensor.dtype, []).append(name)
    if len(groups) == 1:
        return ""
    most, *others = sorted(groups, key=lambda kind: -len(groups[kind]))
    named = "; ".join(f"{kind}: {listed(groups[kind])}" for kind in others)
    return f"{folder.path} has tensors of different types, most of type {most}, but {named}"


def listed(names: Collection[str]) -> str:
    """Return the first of some names, and how many more there are."""
    some = ", ".join(list(names)[:SHOWN])
    return some if len(names) <= SHOWN else f"{some} and {len(names) - SHOWN} more"


class TensorReader:
    """Reads a tensor in order, a part at a time, and digests its bytes."""

    def __init__(self, tensor: StoredTensor) -> None:
        self.tensor = tensor
        self._digest = hashlib.sha256()
        self._file = tensor.file.open("rb", buffering=0)
        self._file.seek(tensor.start)
        self._rows = 0

    def __enter__(self) -> TensorReader:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def read(self, rows: int) -> torch.Tensor:
        """Return the next rows: the first axis, all of the others.

        Raises:
            OSError: the storage does not respond.
            EOFError: the file became shorter.
        """
        import torch

        shape = (rows, *self.tensor.shape[1:])
        values = torch.empty(shape, dtype=getattr(torch, TORCH_TYPES[self.tensor.dtype]))
        array: Any = values.reshape(-1).view(torch.uint8).numpy()
        buffer = memoryview(array)
        for start in range(0, len(buffer), BLOCK):
            block = buffer[start : start + BLOCK]
            self._fill(block)
            self._digest.update(block)
        self._rows += rows
        return values

    def blocks(self) -> Iterator[torch.Tensor]:
        """Yield all rows, some at a time."""
        rows = max(1, BLOCK * self.tensor.shape[0] // max(1, self.tensor.bytes))
        for start in range(0, self.tensor.shape[0], rows):
            yield self.read(min(rows, self.tensor.shape[0] - start))

    def _fill(self, block: memoryview) -> None:
        while block:
            count = self._file.readinto(block)
            if not count:
                raise EOFError(f"{self.tensor.file} became shorter while it was read")
            block = block[count:]

    def digest(self) -> str:
        """Return the SHA-256 of the tensor's bytes, once all rows have been read.

        Raises:
            ValueError: rows remain.
        """
        if self._rows != self.tensor.shape[0]:
            raise ValueError(f"{self.tensor.name}: {self._rows} rows of {self.tensor.shape[0]}")
        return self._digest.hexdigest()
