"""Read records of published files, and refuse bad ones by file and line. Standard library only."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from jobs.contract.errors import TaskError
from jobs.contract.files import parse_json


def refuse(where: Path | str, what: str, hint: str = "") -> NoReturn:
    raise TaskError(f"{where}: {what}", hint or "correct the file, or remove the benchmark")


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``(file:line, object)`` per line that is not blank."""
    with path.open(encoding="utf-8") as file:
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


def text_field(where: str, record: dict[str, Any], key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        refuse(where, f"`{key}` is missing, empty or not a string")
    return value.strip()


def json_object(path: Path) -> dict[str, Any]:
    """Read a file of one JSON object, keyed by PMID."""
    text = path.read_text(encoding="utf-8")
    try:
        value = parse_json(text)
    except ValueError as error:
        refuse(path, f"not JSON ({error})")
    if not isinstance(value, dict):
        refuse(path, "not one JSON object keyed by PMID")
    return value


def csv_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield ``(where, cells)`` per row; ``where`` has the line on which the row ends."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)
        try:
            for cells in rows:
                yield f"{path}:{rows.line_num}", cells
        except csv.Error as error:
            refuse(f"{path}:{rows.line_num}", f"not CSV ({error})")
