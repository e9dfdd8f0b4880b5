"""Digests of a checkpoint's files, part by part, so that a reader verifies exactly what it reads.

A part is a contiguous segment of a file: in a ``.distcp`` file one tensor or object as
``torch.distributed.checkpoint`` stores it, any other file is one part. Standard library only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

BLOCK = 1 << 22
"""Bytes read at a time."""


@dataclass(frozen=True)
class Part:
    """A segment of a file; it begins where the one before it ends."""

    bytes: int
    sha256: str


Parts = tuple[Part, ...]
"""A whole file, in order."""


class AlteredPart(Exception):
    """Bytes that differ from their digest."""

    def __str__(self) -> str:
        """Return the damage; the argument is the name of the file."""
        return f"{self.args[0]} has the right size, but its content has changed"


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
                    if _digest(file, part.bytes) != part.sha256:
                        return str(AlteredPart(name))
                    report(part.bytes)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return f"{name} is missing"
        except EOFError as error:
            return f"{name} {error}"
    return ""


def read_part(file: BinaryIO, part: Part, buffer: memoryview, beat: Callable[[], None]) -> bool:
    """Read a part from where the file is into a buffer of its size; return whether it is unaltered.

    Args:
        beat: called per block.

    Raises:
        OSError: the storage does not answer.
        EOFError: the file is shorter.
    """
    digest = hashlib.sha256()
    for start in range(0, part.bytes, BLOCK):
        block = buffer[start : min(start + BLOCK, part.bytes)]
        _fill(file, block)
        digest.update(block)
        beat()
    return digest.hexdigest() == part.sha256


def _digest(file: BinaryIO, count: int) -> str:
    digest = hashlib.sha256()
    block = memoryview(bytearray(min(count, BLOCK)))
    while count:
        some = block[: min(count, BLOCK)]
        _fill(file, some)
        digest.update(some)
        count -= len(some)
    return digest.hexdigest()


def _fill(file: BinaryIO, block: memoryview) -> None:
    """Read as many bytes as a block has."""
    while block:
        count = file.readinto(block)  # type: ignore[attr-defined]
        if not count:
            raise EOFError("ends too early")
        block = block[count:]
