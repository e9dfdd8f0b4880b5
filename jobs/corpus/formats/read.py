"""Read the documents of a source, whatever its format, as one stream.

Stages import it inside ``run``: it needs lxml, orjson, isal and backports.zstd, and pyarrow for
parquet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jobs.contract.corpus.rules import SourceSpec
from jobs.corpus.document import Document, Record, Rejected
from jobs.corpus.formats import guidelines, records, s2orc, text_files, xml_files
from jobs.corpus.formats.files import (
    KINDS,
    READABLE,
    TABLE_SUFFIXES,
    TEXT_SUFFIXES,
    XML_SUFFIXES,
    find_files,
    kind_of,
)
from jobs.data import readers
from jobs.data.readers import JSON_SUFFIXES

LINES = "files to read end in .jsonl or .json, alone or with .gz or .zst"
ROWS = (*JSON_SUFFIXES, ".parquet")
ROWS_HINT = f"{LINES}, or in .parquet"
FORMATS: dict[str, tuple[tuple[str, ...], str]] = {
    "auto": (KINDS, READABLE),
    "jsonl": (JSON_SUFFIXES, LINES),
    "parquet": ((".parquet",), "files to read end in .parquet"),
    "jats": (
        (*XML_SUFFIXES, ".tar"),
        "files to read end in .xml or .nxml, alone or with .gz or .zst, or in .tar.gz",
    ),
    "csv": (TABLE_SUFFIXES, "files to read end in .csv or .tsv, alone or with .gz or .zst"),
    "text": (TEXT_SUFFIXES, "files to read end in .txt, alone or with .gz or .zst"),
    "redpajama": (ROWS, ROWS_HINT),
    "falcon": (ROWS, ROWS_HINT),
    "starcoder": (ROWS, ROWS_HINT),
    "guidelines": (JSON_SUFFIXES, LINES),
    "s2orc": (JSON_SUFFIXES, LINES),
    "pubmed": (XML_SUFFIXES[:1], "files to read end in .xml, alone or with .gz or .zst"),
}
"""Formats of sources: the kinds of files that each has, and a hint that names them. ``auto``
decides by the names of the files, and of those in XML by their root.
"""

TEXT_KEY = "text"
"""The key of the text of a source, unless it names another."""

TEXT_KEYS = {"falcon": "content", "starcoder": "content"}
"""Keys of the text of a format, where a source has the usual ``text_key``."""

LAYOUTS: dict[str, Callable[[dict[str, Any], SourceSpec], Document | Rejected]] = {
    "guidelines": guidelines.item_of,
    "s2orc": s2orc.item_of,
}
"""What makes documents of the records of a format whose keys are its own."""


def find(source: SourceSpec) -> tuple[list[Path], list[Path]]:
    """Return the files of a source to read, and the others in its folder; both sorted by path.

    Raises:
        TaskError: the source is missing or unreadable, or has no file of its format.
    """
    kinds, readable = FORMATS[source.format]
    return find_files([source.path], kinds, readable)


def read(
    path: Path, source: SourceSpec, begin: int = 0, end: int | None = None
) -> Iterator[Record]:
    """Yield what a file holds, in its order.

    Args:
        path: one of the files that ``find`` returns.
        source: settings of the file's source.
        begin: byte of a plain file of JSON lines; a record belongs to the range in which its line
            begins, and lines are counted from the first of the range.
        end: byte after the range; None for the end of the file.

    Raises:
        TaskError: the file cannot be read, is truncated, corrupt, or not of the source's format.
    """
    kind = kind_of(path)
    if kind in (*XML_SUFFIXES, ".tar"):
        found = xml_files.read(path, source.format)
        for number, (item, position) in enumerate(found, start=1):
            yield Record(item, number, position)
    elif kind in (*TEXT_SUFFIXES, *TABLE_SUFFIXES):
        yield from text_files.read(path, source)
    else:
        yield from _records(path, source, begin, end)


def _records(path: Path, source: SourceSpec, begin: int, end: int | None) -> Iterator[Record]:
    """Yield the records of a file of JSON or parquet."""
    layout = LAYOUTS.get(source.format)
    usual = source.text_key == TEXT_KEY
    text_key = (
        "" if layout else TEXT_KEYS.get(source.format, TEXT_KEY) if usual else source.text_key
    )
    keys = (text_key, source.id_key)
    for record in readers.read_records(path, keys, begin, end, records.COLUMNS):
        if record.problem:
            document: Document | Rejected = Rejected("", record.problem)
        elif layout:
            document = layout(record.value, source)
        else:
            document = records.document(record.value, record.value[text_key], source.id_key)
        raw = record.raw if isinstance(document, Rejected) else b""
        yield Record(document, record.line, record.position, raw)
