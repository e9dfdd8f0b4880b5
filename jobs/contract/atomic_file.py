"""Large files written as a stream, whole or not at all. Standard library only."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from jobs.contract.done_markers import describe_file
from jobs.contract.rundir import RunDir

BUFFER_BYTES = 1 << 16


class AtomicFile:
    """A file under a temporary name beside its place: written, sealed, then renamed or thrown away.

    What a killed process left of the same file goes away when the next one begins it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes = 0
        self._sha256 = hashlib.sha256()
        with _naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            for left_over in path.parent.glob(f".{path.name}.*"):
                left_over.unlink(missing_ok=True)
            self._part = path.with_name(f".{path.name}.{uuid4().hex}")
            self._file = self._part.open("xb", buffering=BUFFER_BYTES)

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of what was written so far."""
        return self._sha256.hexdigest()

    def write(self, data: bytes) -> None:
        with _naming(self.path):
            self._file.write(data)
        self._sha256.update(data)
        self.bytes += len(data)

    def seal(self) -> None:
        """Put every byte on the disk and close; a full disk shows here at the latest."""
        with _naming(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def publish(self) -> None:
        """Give the sealed file its name; rundir.fsync_folder then makes that durable."""
        with _naming(self.path):
            self._part.replace(self.path)

    def describe(self, run: RunDir) -> dict[str, Any]:
        """The published file as a done marker keeps it, with the digest taken while writing."""
        name = str(self.path.relative_to(run.root))
        return {**describe_file(run, name, with_digest=False), "sha256": self.sha256}

    def discard(self) -> None:
        """Leave nothing behind; a published file stays."""
        with suppress(OSError):  # closing flushes, which a full disk refuses again
            self._file.close()
        self._part.unlink(missing_ok=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file in an OSError that a write raises without one (a full disk)."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise
