"""The folder of an export: written under a hidden name, and renamed when it is whole.

An older export is replaced in one step. A folder that no export wrote, or to which somebody added
files, is never touched. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jobs.contract.errors import RESUME, TaskError
from jobs.contract.files import fsync_folder, read_small, write_json

RECORD = "meditron.json"
"""Written last: what was exported, with size and SHA-256 of each file."""

CARD = "README.md"
VERIFICATION = "verification.json"
"""Added to a finished export by a verification."""

AT_FDCWD = -100
RENAME_EXCHANGE = 2
"""Of renameat2(2), linux/fcntl.h and linux/fs.h."""


class ExportFolder:
    """A folder that is complete or absent under its name."""

    def __init__(self, path: Path, exchange: Callable[[Path, Path], bool] | None = None) -> None:
        """Name the folder; ``exchange`` replaces ``exchange_names``, for tests."""
        self.path = path
        self._exchange = exchange or exchange_names
        self.part = path.with_name(f".{path.name}.part")
        """Its hidden name while it is written."""
        self._replaced = path.with_name(f".{path.name}.replaced")

    def open(self) -> None:
        """Remove what a killed export left, and create the hidden folder.

        Raises:
            TaskError: there is a folder of the final name that no export wrote.
        """
        if self._replaced.exists() and not self.path.exists():
            self._replaced.rename(self.path)  # the kill came between two renames
        self.require_replaceable()
        self.discard()
        self.part.mkdir(parents=True)

    def require_replaceable(self) -> None:
        """Refuse to replace anything but an export.

        Raises:
            TaskError: it is not one, or holds a file that no export wrote.
        """
        if not os.path.lexists(self.path):
            return
        aside = f"`mv {shlex.quote(str(self.path))} {shlex.quote(f'{self.path}.old')}`"
        hint = f"{aside}, then {RESUME}"
        if not self.path.is_dir() or self.path.is_symlink():
            raise TaskError(f"{self.path}: it is not a folder, so no export replaces it", hint)
        names = {path.name for path in self.path.iterdir()}
        if not names:
            return
        files = read_small(self.path / RECORD).get("files")
        if not isinstance(files, Mapping):
            raise TaskError(f"{self.path}: the folder exists, and no export wrote it", hint)
        added = sorted(names - {*files, RECORD, VERIFICATION})
        if added:
            raise TaskError(f"{self.path}: {added[0]} in it was not written by an export", hint)

    def publish(self, record: Mapping[str, Any]) -> None:
        """Write the record and give the folder its final name, in the place of an older export."""
        write_json(self.part / RECORD, dict(record))
        if not self.path.exists():
            self.part.rename(self.path)
        elif not self._exchange(self.part, self.path):
            self.path.rename(self._replaced)
            self.part.rename(self.path)
        fsync_folder(self.path.parent)
        self.discard()

    def discard(self) -> None:
        """Remove all that has a hidden name."""
        for path in (self.part, self._replaced):
            shutil.rmtree(path, ignore_errors=True)


def exchange_names(one: Path, other: Path) -> bool:
    """Exchange the names of two folders in one step; return False where the file system cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    names = (AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other))
    return bool(rename(*names, ctypes.c_uint(RENAME_EXCHANGE)) == 0)
