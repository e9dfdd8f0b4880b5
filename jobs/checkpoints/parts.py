"""Digests of a checkpoint's files, part by part, so that a reader verifies exactly what it reads.

A part is a contiguous segment of a file: in a ``.distcp`` file one tensor or object as
``torch.distributed.checkpoint`` stores it, any other file is one part.

Digests are XXH3's of 128 bits: they find what storage or a copy damages, at the speed of memory,
while SHA-256 takes as long as a disk. They are no proof against somebody who forges a file. What
other programs compare, such as the files of an export, has SHA-256.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

if TYPE_CHECKING:
    import torch
    import xxhash

BLOCK = 1 << 22
"""Bytes read at a time."""


@dataclass(frozen=True)
class Part:
    """A segment of a file; it begins where the one before it ends."""

    bytes: int
    xxh3: str
    """Digest of its content, in hexadecimal."""


Parts = tuple[Part, ...]
"""A whole file, in order."""


class AlteredPart(Exception):
    """Bytes that differ from their digest."""

    def __str__(self) -> str:
        """Return the damage; the argument is the name of the file."""
        return f"{self.args[0]} has the right size, but its content has changed"


def new_digest() -> xxhash.xxh3_128:
    """Return the digest of no bytes yet; ``update`` adds some."""
    import xxhash

    return xxhash.xxh3_128()


def describe_content(content: bytes) -> Part:
    """Return the part of a file with this content."""
    digest = new_digest()
    digest.update(content)
    return Part(len(content), digest.hexdigest())


def size(parts: Parts) -> int:
    """Return the bytes of a file."""
    return sum(part.bytes for part in parts)


def lengths(segments: Iterable[tuple[int, int]], total: int) -> list[int]:
    """Return the lengths of the parts that cover a file of ``total`` bytes.

    Args:
        segments: offset and length of each item in it, in any order; bytes between two items make a
            part of their own.

    Raises:
        ValueError: items overlap, or lie beyond the end.
    """
    found, end = [], 0
    for offset, length in sorted(segments):
        if offset < end:
            raise ValueError(f"two items share the bytes from {offset} on")
        found += [offset - end] if offset > end else []
        found += [length]
        end = offset + length
    if end > total:
        raise ValueError(f"an item ends at {end}, the file at {total}")
    return found + ([total - end] if end < total else [])


def describe(path: Path, sizes: Sequence[int] | None = None) -> Parts:
    """Return the parts of a file with their digests.

    Args:
        sizes: the lengths of its parts; None makes the file one part.

    Raises:
        OSError: the file cannot be read.
        EOFError: the file is shorter.
    """
    if sizes is None:
        sizes = [path.stat().st_size]
    with path.open("rb") as file:
        return tuple(Part(count, _digest(file, count)) for count in sizes)


def alteration(
    path: Path, files: Mapping[str, Parts], report: Callable[[int], None] = lambda n: None
) -> str:
    """Return the damage of the first file whose content differs from its digests, empty without.

    Args:
        path: the folder of a checkpoint without a ``problem``.
        files: some of its ``manifest``, or all.
        report: called with the bytes read, per part.

    Raises:
        OSError: the storage does not answer.
    """
    for name, parts in files.items():
        try:
            with (path / name).open("rb") as file:
                for part in parts:
                    if _digest(file, part.bytes) != part.xxh3:
                        return str(AlteredPart(name))
                    report(part.bytes)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return f"{name} is missing"
        except EOFError as error:
            return f"{name} {error}"
    return ""


class DigestingStream:
    """A stream that digests and counts the bytes it passes on to a file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = new_digest()
        self._length = 0

    @property
    def part(self) -> Part:
        """Return what has been written."""
        return Part(self._length, self._digest.hexdigest())

    def write(self, data: Any) -> int:
        """Write bytes, or any buffer of them; return their number."""
        self._digest.update(data)
        self._file.write(data)
        self._length += len(data)
        return len(data)

    def flush(self) -> None:
        """Do nothing: whoever opened the file closes it."""


class Content(io.RawIOBase):
    """Bytes in memory as a file. Other threads go on while bytes are read from it, as they do not
    with ``io.BytesIO``.
    """

    def __init__(self, size: int) -> None:
        """Make a file of ``size`` bytes; ``array`` holds them, undefined at first."""
        import numpy as np

        self.array = np.empty(size, np.uint8)
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + (0, self._place, len(self.array))[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:
        import numpy as np

        target = np.frombuffer(buffer, np.uint8)
        source = self.array[self._place : self._place + len(target)]
        target[: len(source)] = source
        self._place += len(source)
        return len(source)

    def tensor(self) -> torch.Tensor:
        """Return the tensor that ``torch.save`` wrote, without a copy of its values.

        Torch describes it, with the place of its values in the file, where it loads it to the
        device ``meta``; a version that does not state the place copies them.
        """
        import torch

        file: Any = self
        self.seek(0)
        found: torch.Tensor = torch.load(file, "meta", weights_only=True)
        storage = found.untyped_storage()
        start = getattr(storage, "_checkpoint_offset", None)
        if start is None:
            self.seek(0)
            found = torch.load(file, "cpu", weights_only=True)
        else:
            kept = torch.from_numpy(self.array[start : start + storage.nbytes()])
            shape = found.size(), found.stride(), found.storage_offset()
            found = kept.view(found.dtype).as_strided(*shape)
        return found


def read_part(path: Path, start: int, part: Part, beat: Callable[[], None]) -> Content:
    """Read a part of a file.

    Args:
        start: where it begins.
        beat: called per block.

    Raises:
        AlteredPart: its content differs from its digest.
        OSError: the storage does not answer.
        EOFError: the file is shorter.
    """
    digest, content = new_digest(), Content(part.bytes)
    whole = memoryview(cast(Any, content.array))
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        for offset in range(0, part.bytes, BLOCK):
            block = whole[offset : min(offset + BLOCK, part.bytes)]
            _fill(file, block)
            digest.update(block)
            beat()
    if digest.hexdigest() != part.xxh3:
        raise AlteredPart(path.name)
    return content


def _digest(file: BinaryIO, count: int) -> str:
    digest = new_digest()
    block = memoryview(bytearray(min(count, BLOCK)))
    while count:
        some = block[: min(count, BLOCK)]
        _fill(file, some)
        digest.update(some)
        count -= len(some)
    return digest.hexdigest()


def _fill(file: BinaryIO | FileIO, block: memoryview) -> None:
    """Read as many bytes as a block has."""
    while block:
        count = file.readinto(block)  # type: ignore[union-attr]
        if not count:
            raise EOFError("ends too early")
        block = block[count:]
