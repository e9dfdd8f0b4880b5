"""Read documents from JSONL, JSON and parquet files, one record at a time.

Stages import it inside ``run``: it needs orjson, isal and backports.zstd, and pyarrow for parquet.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import orjson
from isal import isal_zlib

from jobs.contract.errors import RESUME, TaskError
from jobs.data import json_stream, json_text

JSON_SUFFIXES = (".jsonl", ".json")
COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
CORRUPT: tuple[type[Exception], ...] = (
    gzip.BadGzipFile,
    json_stream.ZstdError,
    cast(type[Exception], isal_zlib.error),  # isal's stub declares an instance
)
AGAIN = f"copy or make the file again, then {RESUME}"
PARQUET_ROWS = 256
"""Rows decoded at a time: about 25 MB of full-text articles."""


class SourceRecord(NamedTuple):
    """One record of a file, good or bad."""

    line: int
    """From 1; of a parquet file, the row."""
    value: dict[str, Any]
    """Empty when the record is bad."""
    problem: str
    """A sentence on what is wrong with it; empty for a good record, whose text is a string."""
    raw: bytes
    """As it is written in a JSON file."""
    position: int
    """Bytes of the file read so far (compressed bytes where it is compressed)."""


def read_records(
    path: Path,
    keys: Sequence[str],
    begin: int = 0,
    end: int | None = None,
    others: Collection[str] = (),
) -> Iterator[SourceRecord]:
    """Yield the records of one file, in order. Of a key that occurs twice, the last counts.

    Args:
        path: a JSON or parquet file, of one of the names that ``formats.files`` accepts.
        keys: the columns to read of a parquet file; the first is the key of the text, empty where
            a record of JSON may be any object.
        begin: byte of a plain file of JSON lines; a record belongs to the range in which its line
            begins.
        end: byte after the range; None for the end of the file.
        others: columns to read of a parquet file beside the keys, in small letters.

    Raises:
        TaskError: the file cannot be read, is truncated or corrupt.
    """
    with translated(path):
        if path.suffix.lower() == ".parquet":
            yield from _parquet_records(path, keys, others)
        else:
            yield from _json_records(path, keys[0], begin, end)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise errors of the system and of decompressors as errors of the task.

    Raises:
        TaskError: the file cannot be read, is truncated or corrupt.
    """
    kind = {".tgz": "gzip", **COMPRESSED}.get(path.suffix.lower(), "")
    try:
        yield
    except EOFError as error:
        raise TaskError(f"{path}: truncated {kind} file", AGAIN) from error
    except CORRUPT as error:
        raise TaskError(f"{path}: corrupt {kind} file ({error})", AGAIN) from error
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> TaskError:
    """Return the error for a file or folder that the system refuses to read."""
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        hint = "correct curate.sources, or put it where the nodes see it"
        return TaskError(f"{path}: no such file or folder", hint)
    return TaskError(
        f"{path}: cannot be read ({error.strerror})", "check its permissions and its file system"
    )


def _json_records(path: Path, text_key: str, begin: int, end: int | None) -> Iterator[SourceRecord]:
    inner = Path(path.stem) if path.suffix.lower() in COMPRESSED else path
    with io.BufferedReader(io.FileIO(path), json_text.BLOCK_BYTES) as file:
        stream = json_stream.decompressed(path, file)
        is_array = inner.suffix.lower() == ".json" and json_stream.is_array(stream)
        if is_array:
            records = json_stream.elements(path, stream)
        else:
            records = json_stream.lines(path, stream, begin, end)
        for line, raw in records:
            value, problem = parse(raw, text_key)
            yield SourceRecord(line, value, problem, raw, file.tell())


def parse(raw: bytes, text_key: str) -> tuple[dict[str, Any], str]:
    """Return a record and a sentence on what is wrong with it; one of the two is empty."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return {}, _json_problem(raw, error)
    problem = record_problem(value, text_key)
    return ({}, problem) if problem else (value, "")


def encoding_problem(raw: bytes) -> str:
    """Return the first byte that makes a text no UTF-8, as a clause; empty where it is."""
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8 (byte {error.start + 1} is 0x{raw[error.start]:02x})"
    return ""


def _json_problem(raw: bytes, error: orjson.JSONDecodeError) -> str:
    if problem := encoding_problem(raw):
        return problem
    if raw.strip() == b"{":
        return "an object of several lines; write one object per line, or all in a list"
    return f"not JSON ({error.msg}, at character {error.pos + 1})"


def record_problem(value: Any, text_key: str) -> str:
    """Return what is wrong with a parsed record; empty for an object with a string ``text_key``, or
    for any object where that is empty.
    """
    if not isinstance(value, dict):
        return f"{_kind(value)}, not an object"
    if not text_key:
        return ""
    if text_key not in value:
        keys = ", ".join(map(repr, list(value)[:10])) or "none"
        return f"no key {text_key!r} (keys: {keys})"
    if not isinstance(value[text_key], str):
        return f"{text_key!r} is {_kind(value[text_key])}, not a string"
    return ""


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a truth value"}
    if value is None:
        return "null"
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else "binary")


def _parquet_records(
    path: Path, keys: Sequence[str], others: Collection[str]
) -> Iterator[SourceRecord]:
    import pyarrow
    from pyarrow import parquet

    size = path.stat().st_size
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            columns = _columns(path, file.schema_arrow.names, keys, others)
            total = max(file.metadata.num_rows, 1)
            row = 0
            for batch in file.iter_batches(batch_size=PARQUET_ROWS, columns=columns):
                for value, problem in _rows(batch, keys[0]):
                    row += 1
                    yield SourceRecord(row, value, problem, b"", size * row // total)
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        if _is_cut_parquet(path):
            raise TaskError(f"{path}: truncated parquet file", AGAIN) from error
        detail = " ".join(str(error).split())
        raise TaskError(f"{path}: corrupt parquet file ({detail})", AGAIN) from error


def _columns(
    path: Path, names: Sequence[str], keys: Sequence[str], others: Collection[str]
) -> list[str]:
    if keys[0] not in names:
        hint = f"set curate.text_key to one of its columns: {', '.join(names)}"
        raise TaskError(f"{path}: no column {keys[0]!r}", hint)
    return [name for name in names if name in keys or name.lower() in others]


def _rows(batch: Any, text_key: str) -> Iterator[tuple[dict[str, Any], str]]:
    columns = list(zip(batch.schema.names, batch.columns, strict=True))
    for index in range(batch.num_rows):
        try:
            value = {name: _value(column[index]) for name, column in columns}
        except UnicodeDecodeError as error:
            yield {}, f"not UTF-8 (byte {error.start + 1} is 0x{error.object[error.start]:02x})"
            continue
        problem = record_problem(value, text_key)
        yield ({}, problem) if problem else (value, "")


def _value(scalar: Any) -> Any:
    """Return a value of a row; None for a date that Python has no object for."""
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        raise
    except (OverflowError, ValueError):
        return None


def _is_cut_parquet(path: Path) -> bool:
    """Return whether the file begins as parquet but lacks the footer, which is written last."""
    with path.open("rb") as file:
        begins = file.read(4) == b"PAR1"
        file.seek(max(0, path.stat().st_size - 4))
        return begins and file.read(4) != b"PAR1"
