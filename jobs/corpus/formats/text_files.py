"""Read folders of text files, one document a file, and tables with commas or tabs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from operator import methodcaller
from pathlib import Path
from typing import Any

from jobs.contract.corpus.rules import SourceSpec
from jobs.contract.errors import TaskError
from jobs.corpus.document import Document, Record, Rejected
from jobs.corpus.formats import records
from jobs.corpus.formats.files import TABLE_SUFFIXES, kind_of, shown
from jobs.data import json_stream
from jobs.data.json_stream import BYTE_ORDER_MARK
from jobs.data.json_text import BLOCK_BYTES, MAX_RECORD_BYTES
from jobs.data.readers import AGAIN, encoding_problem, translated

ENCODED = methodcaller("encode", "utf-8", "surrogateescape")
"""The bytes of a value of a table, as they are in the file."""


def read(path: Path, source: SourceSpec) -> Iterator[Record]:
    """Yield the documents of a text file or of a table.

    Raises:
        TaskError: the file cannot be read, is truncated or corrupt, or is no table with a header.
    """
    with translated(path), io.BufferedReader(io.FileIO(path), BLOCK_BYTES) as file:
        stream = json_stream.decompressed(path, file)
        if kind_of(path) in TABLE_SUFFIXES:
            yield from _rows(path, source, stream, file)
        else:
            yield _text(path, source, stream, file)


def _text(path: Path, source: SourceSpec, stream: io.BufferedReader[Any], file: Any) -> Record:
    """Return a file as a document: its id is its path below the source."""
    root = Path(source.path)
    identity = shown(path.name if path == root else path.relative_to(root))
    raw = stream.read(MAX_RECORD_BYTES + 1).removeprefix(BYTE_ORDER_MARK)
    if len(raw) > MAX_RECORD_BYTES:
        problem = f"a text of more than {MAX_RECORD_BYTES >> 20} MiB"
        return Record(Rejected(identity, problem), 1, file.tell(), raw)
    if problem := encoding_problem(raw):
        return Record(Rejected(identity, problem), 1, file.tell(), raw)
    return Record(Document(identity, "", raw.decode(), is_marked=False), 1, file.tell())


def _rows(
    path: Path, source: SourceSpec, stream: io.BufferedReader[Any], file: Any
) -> Iterator[Record]:
    """Yield the rows of a table as documents; the columns of the header are the keys.

    Raises:
        TaskError: there is no header with the key of the text, or quotation marks do not match.
    """
    csv.field_size_limit(MAX_RECORD_BYTES)
    delimiter = "\t" if kind_of(path) == ".tsv" else ","
    line = 0
    with io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline="") as lines:
        rows = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            header = next(rows, [])
            if not header:
                raise TaskError(f"{path}: no line with the names of columns", AGAIN)
            if source.text_key not in header:
                names = ", ".join(header[:20])
                hint = f"set the source's text_key to one of its columns: {names}"
                raise TaskError(f"{path}: no column {source.text_key!r} in the first line", hint)
            line = rows.line_num
            for row in rows:
                if row:
                    item = _document(header, row, source)
                    raw = ENCODED("\t".join(row)) if isinstance(item, Rejected) else b""
                    yield Record(item, line + 1, file.tell(), raw)
                line = rows.line_num
        except csv.Error as error:
            raise TaskError(f"{path}:{line + 1}: not a table ({error})", AGAIN) from error


def _document(header: list[str], row: list[str], source: SourceSpec) -> Document | Rejected:
    if len(row) != len(header):
        return Rejected("", f"{len(row)} columns, the header has {len(header)}")
    if problem := next(filter(None, map(encoding_problem, map(ENCODED, row))), ""):
        return Rejected("", problem)
    value = dict(zip(header, row, strict=True))
    return records.document(value, value[source.text_key], source.id_key)
