"""Find the files of a source; the name of a file decides how it is read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import NoReturn

from jobs.contract.errors import TaskError
from jobs.data.readers import COMPRESSED, JSON_SUFFIXES, unreadable

XML_SUFFIXES = (".xml", ".nxml")
BUNDLES = (".tar", ".tar.gz", ".tgz")
KINDS = (*JSON_SUFFIXES, *XML_SUFFIXES, ".parquet", ".tar")
"""What ``kind_of`` returns for files that can be read."""
READABLE = (
    "files to read end in .jsonl, .json, .xml or .nxml, alone or with .gz or .zst, in .parquet, or "
    "in .tar.gz with articles in XML"
)


def find_files(
    sources: Sequence[str], kinds: Sequence[str] = KINDS, readable: str = READABLE
) -> tuple[list[Path], list[Path]]:
    """Return the files to read, and the other files in source folders; both sorted by path.

    Folders are searched to any depth and through symbolic links; names with a leading dot are
    skipped.

    Args:
        sources: files and folders.
        kinds: of the files to read.
        readable: a hint that names these files.

    Raises:
        TaskError: a source is missing, unreadable or of another kind; a folder has no file of
            these kinds.
    """
    documents: set[Path] = set()
    ignored: set[Path] = set()
    for source in map(Path, sources):
        try:
            files = _files_of(source)
            found = {path for path in files if kind_of(path) in kinds}
            odd = [path for path in sorted(found) if not S_ISREG(os.stat(path).st_mode)]
        except OSError as error:
            raise unreadable(Path(error.filename), error) from error
        if odd:
            raise TaskError(f"{odd[0]}: not a regular file", readable)
        if not found:
            what = "not a document file" if files == {source} else "no document file in this folder"
            raise TaskError(f"{source}: {what}", readable)
        documents |= found
        ignored |= files - found
    return sorted(documents), sorted(ignored)


def _files_of(source: Path) -> set[Path]:
    """Return the file itself, or the files under a folder; linked folders are entered once."""
    if not S_ISDIR(os.stat(source).st_mode):
        return {source}
    files: set[Path] = set()
    entered: set[str] = set()
    for here, folders, names in os.walk(source, onerror=_raise, followlinks=True):
        if (real := os.path.realpath(here)) in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files.update(Path(here, name) for name in names if not name.startswith("."))
    return files


def _raise(error: OSError) -> NoReturn:
    raise error


def kind_of(path: Path) -> str:
    """Return the suffix that decides how a file is read; ``documents.gz`` means JSON lines; empty
    for a file that is not read.
    """
    name = path.name.lower()
    if any(name.endswith(suffix) for suffix in BUNDLES):
        return ".tar"
    suffix = path.suffix.lower()
    if suffix in COMPRESSED:
        inner = Path(path.stem).suffix.lower()
        return inner if inner in (*JSON_SUFFIXES, *XML_SUFFIXES) else "" if inner else ".jsonl"
    return suffix if suffix in KINDS else ""


def is_compressed(path: Path) -> bool:
    """Return whether a file is compressed as a whole."""
    return path.suffix.lower() in (*COMPRESSED, ".tgz")
