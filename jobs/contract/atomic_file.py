"""Write large files as a stream, whole or not at all. Standard library only."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from jobs.contract.done_markers import describe_file
from jobs.contract.files import fsync_folder, make_folder, remove_partial
from jobs.contract.rundir import RunDir

BUFFER_BYTES = 1 << 16


class AtomicFile:
    """A file under a temporary name in its folder: written, sealed, then renamed or removed.

    Partial files of killed processes are removed when the next process opens the same file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes = 0
        self._sha256 = hashlib.sha256()
        with _naming(path):
            make_folder(path.parent)
            remove_partial(path)
            self._part = path.with_name(f".{path.name}.{uuid4().hex}")
            self._file = self._part.open("xb", buffering=BUFFER_BYTES)

    @property
    def sha256(self) -> str:
        """Return the SHA-256 (hex) of the bytes written so far."""
        return self._sha256.hexdigest()

    def write(self, data: bytes) -> None:
        with _naming(self.path):
            self._file.write(data)
        self._sha256.update(data)
        self.bytes += len(data)

    def seal(self) -> None:
        """Flush every byte to the disk and close; a full disk raises here at the latest."""
        with _naming(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def publish(self) -> None:
        """Rename the sealed file to its name; ``files.fsync_folder`` then makes that durable."""
        with _naming(self.path):
            self._part.replace(self.path)

    def describe(self, run: RunDir) -> dict[str, Any]:
        """Return the published file as a done marker records it, with the digest of its writing."""
        name = str(self.path.relative_to(run.root))
        return {**describe_file(run, name, with_digest=False), "sha256": self.sha256}

    def discard(self) -> None:
        """Remove the file unless it was published."""
        with suppress(OSError):  # closing flushes, which fails again on a full disk
            self._file.close()
        self._part.unlink(missing_ok=True)


def write_blocks(path: Path, blocks: Iterable[bytes]) -> AtomicFile:
    """Write a file whole or not at all, from blocks of bytes; return it with its digest."""
    file = AtomicFile(path)
    try:
        for block in blocks:
            file.write(block)
        file.seal()
        file.publish()
    finally:
        file.discard()
    fsync_folder(path.parent)
    return file


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Add the file's name to an OSError of a write, which has none (a full disk)."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise
