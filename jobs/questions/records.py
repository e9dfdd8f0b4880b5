"""Read records of published files, and refuse bad ones by file and line. The standard library
alone, except for parquet.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from jobs.contract.errors import TaskError
from jobs.contract.files import parse_json
from jobs.contract.units import plural
from jobs.questions.question import LETTERS


def refuse(where: Path | str, what: str, hint: str = "") -> NoReturn:
    raise TaskError(f"{where}: {what}", hint or "correct the file, or remove the benchmark")


@contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Raise errors of the system as errors of the task.

    Raises:
        TaskError: the file is missing, unreadable or not UTF-8.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}: not UTF-8 ({error.reason})", "convert the file first") from error
    except OSError as error:
        raise TaskError(
            f"{error.filename or path}: {error.strerror or error}", "check the `path` of the file"
        ) from error


def require_characters(path: Path, name: str, texts: Iterable[str]) -> None:
    """Refuse texts with half of a surrogate pair, which JSON may escape and UTF-8 cannot write."""
    try:
        "".join([name, *texts]).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        refuse(path, f"the record {name!a} has {half!a}, half of a character")


def rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``(file:line, object)`` per record of a parquet file, of a JSON array in a file named
    .json, or of JSON lines.
    """
    if path.suffix == ".parquet":
        yield from parquet_rows(path)
    elif path.suffix == ".json" and _begins_with(path, "["):
        for number, value in enumerate(parse_file(path), 1):
            if not isinstance(value, dict):
                refuse(f"{path}: element {number}", "not a JSON object")
            yield f"{path}: element {number}", value
    else:
        yield from json_lines(path)


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``(file:line, object)`` per line that is not blank."""
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"{path}:{number}", json_line(f"{path}:{number}", line)


def json_line(where: str, line: str) -> dict[str, Any]:
    try:
        value = parse_json(line)
    except ValueError as error:
        refuse(where, f"not JSON ({error})")
    if not isinstance(value, dict):
        refuse(where, "not a JSON object")
    return value


def parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``(file: row, object)`` per row of a parquet file."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        refuse(path, "parquet needs pyarrow", "`pip install 'meditron[data]'`, or write JSON lines")
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for value in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", value
    except pyarrow.ArrowException as error:
        refuse(path, f"not parquet ({' '.join(str(error).split())})")


def csv_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield ``(where, cells)`` per row that is not blank; ``where`` has the line on which the row
    ends.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, strict=True)
        try:
            for cells in filter(None, lines):
                yield f"{path}:{lines.line_num}", cells
        except csv.Error as error:
            refuse(f"{path}:{lines.line_num}", f"not CSV ({error})")


def parse_file(path: Path) -> Any:
    """Return the value of a file of JSON."""
    text = path.read_text(encoding="utf-8-sig")
    try:
        return parse_json(text)
    except ValueError as error:
        refuse(path, f"not JSON ({error})")


def json_object(path: Path) -> dict[str, Any]:
    """Read a file of one JSON object, keyed by PMID."""
    value = parse_file(path)
    if not isinstance(value, dict):
        refuse(path, "not one JSON object keyed by PMID")
    return value


def text_field(where: str, record: dict[str, Any], key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        refuse(where, f"`{key}` is missing, empty or not a string")
    return value.strip()


def optional_text(record: dict[str, Any], key: str) -> str:
    """Return a text that may be missing; the string ``None`` is none."""
    text = str(record.get(key) or "").strip()
    return "" if text == "None" else text


def texts_field(where: str, record: dict[str, Any], key: str) -> tuple[str, ...]:
    """Return a list of options as texts, which may repeat."""
    values = record.get(key)
    if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
        refuse(where, f"`{key}` is not a list of strings")
    return _counted(where, key, [str(item).strip() for item in values])


def lettered_field(where: str, record: dict[str, Any], key: str) -> tuple[str, ...]:
    """Return options that are an object of letters, in the order of the alphabet.

    Readers of parquet give letters that a record lacks as None.
    """
    values = record.get(key)
    if not isinstance(values, dict):
        refuse(where, f"`{key}` is not an object of letters")
    present = {letter: text for letter, text in values.items() if text is not None}
    letters = sorted(present)
    if "".join(letters) != LETTERS[: len(letters)] or len(letters) > len(LETTERS):
        refuse(where, f"`{key}` has the letters {', '.join(map(str, letters))}")
    return _counted(where, key, [text_field(where, present, letter) for letter in letters])


def letter_field(where: str, record: dict[str, Any], key: str, count: int) -> int:
    """Return the place of an answer that is given as a letter."""
    letter = record.get(key)
    if not isinstance(letter, str) or letter not in tuple(LETTERS[:count]):
        refuse(where, f"`{key}` is {letter!r}", f"it is a letter from A to {LETTERS[count - 1]}")
    return LETTERS.index(letter)


def _counted(where: str, key: str, texts: list[str]) -> tuple[str, ...]:
    if not 2 <= len(texts) <= len(LETTERS) or not all(texts):
        refuse(where, f"`{key}` has {plural(len(texts), 'option')}, or an empty one", "2 to 10")
    return tuple(texts)


def _begins_with(path: Path, mark: str) -> bool:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return file.read(64).lstrip().startswith(mark)
