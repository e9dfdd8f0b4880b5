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
TEXT_SUFFIXES = (".txt",)
TABLE_SUFFIXES = (".csv", ".tsv")
KINDS = (*JSON_SUFFIXES, *XML_SUFFIXES, ".parquet", ".tar")
"""Kinds of files that are read without a format."""
NOTES = ("license", "licence", "readme")
"""Names of files without a suffix that are about others; a text is none of its source's."""
READABLE = (
    "files to read end in .jsonl, .json, .xml or .nxml, alone or with .gz or .zst, in .parquet, or "
    "in .tar.gz with articles in XML; .csv, .tsv and .txt need a `format` of their source"
)


def find_files(
    sources: Sequence[str], kinds: Sequence[str] = KINDS, readable: str = READABLE
) -> tuple[list[Path], list[Path]]:
    """Return the files to read, and the other files in source folders; both sorted by path.

    Folders are searched to any depth and through symbolic links. Files of names with a leading dot
    are not read, nor is a LICENSE or README as text; folders of such names are passed over.

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
            is_folder = files != {source}
            found = {path for path in files if kind_of(path) in kinds}
            if is_folder:
                found = {path for path in found if not _is_aside(path)}
            odd = [path for path in sorted(found) if not S_ISREG(os.stat(path).st_mode)]
        except OSError as error:
            raise unreadable(Path(error.filename), error) from error
        if odd:
            raise TaskError(f"{odd[0]}: not a regular file", readable)
        if not found:
            what = "no document file in this folder" if is_folder else "not a document file"
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
        files.update(Path(here, name) for name in names)
    return files


def _is_aside(path: Path) -> bool:
    """Return whether a file of a folder is none of its documents."""
    name = path.name.lower()
    is_note = name.split(".")[0] in NOTES and kind_of(path) in TEXT_SUFFIXES
    return is_note or name.startswith(".")


def _raise(error: OSError) -> NoReturn:
    raise error


def kind_of(path: Path) -> str:
    """Return the suffix that decides how a file is read; ``documents.gz`` means JSON lines; empty
    for a file that is not read.
    """
    name = path.name.lower()
    if any(name.endswith(suffix) for suffix in BUNDLES):
        return ".tar"
    plain = (*JSON_SUFFIXES, *XML_SUFFIXES, *TEXT_SUFFIXES, *TABLE_SUFFIXES)
    suffix = path.suffix.lower()
    if suffix in COMPRESSED:
        inner = Path(path.stem).suffix.lower()
        return inner if inner in plain else "" if inner else ".jsonl"
    return suffix if suffix in (*plain, ".parquet") else ""


def shown(name: str | Path) -> str:
    """Return a name as text: bytes of it that are not UTF-8 as ``\\xe9``."""
    return os.fsencode(name).decode(errors="backslashreplace")


def is_compressed(path: Path) -> bool:
    """Return whether a file is compressed as a whole."""
    return path.suffix.lower() in (*COMPRESSED, ".tgz")
