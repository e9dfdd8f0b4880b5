"""What squeue and sacct print, declared once beside its parser (squeue(1), sacct(1))."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

RANGES = re.compile(r"(\d+)_\[([\d,:-]+)(?:%\d+)?\]")
"""Waiting elements of an array on one line: ``123_[0,4-9%2]``."""


def column(name: str) -> Any:
    """A dataclass field that holds the tool's column of this name, as printed."""
    return field(metadata={"column": name})


@dataclass(frozen=True)
class QueueRow:
    """One job, or one array element, in the queue."""

    job_id: str = column("%i")
    state: str = column("%T")
    reason: str = column("%r")


@dataclass(frozen=True)
class NamedRow:
    """A job in the queue, by what we wrote on it at submission."""

    job_id: str = column("%F")
    """Of an array as a whole."""
    comment: str = column("%k")
    folder: str = column("%Z")


@dataclass(frozen=True)
class AccountRow:
    """One run of a job, or of one of its steps, in the accounting."""

    job_id: str = column("JobID")
    state: str = column("State")
    submit: str = column("Submit")
    start: str = column("Start")


Row = TypeVar("Row", QueueRow, NamedRow, AccountRow)


def squeue_command() -> list[str]:
    """All jobs of this user, array elements one by one."""
    return ["squeue", "--me", "--noheader", "--array", f"--format={_columns(QueueRow, '|')}"]


def squeue_named_command(name: str) -> list[str]:
    """This user's jobs of one name."""
    return ["squeue", "--me", "--noheader", f"--name={name}", f"--format={_columns(NamedRow, '|')}"]


def sacct_command(job_ids: Iterable[str]) -> list[str]:
    """All runs of these jobs (``-D``: a requeued job has a row a run).

    Arrays are asked for as a whole: thousands of elements would not fit on a command line.
    """
    whole = dict.fromkeys(name.split("_")[0] for name in job_ids)
    return [
        "sacct", "--duplicates", "--noheader", "--parsable2",
        f"--format={_columns(AccountRow, ',')}", f"--jobs={','.join(whole)}",
    ]  # fmt: skip


def parse(text: str, kind: type[Row]) -> list[Row]:
    """Rows of ``squeue`` or ``sacct`` output, a row a job; lines of another shape are left out."""
    width = len(fields(kind))
    cells = (line.split("|", width - 1) for line in text.splitlines())
    rows = ([cell.strip() for cell in row] for row in cells if len(row) == width)
    return [kind(job_id, *more) for first, *more in rows for job_id in expand(first)]


def expand(job_id: str) -> Iterator[str]:
    """The ids of ``123_[0,4-9%2]`` one by one; any other id stands for itself."""
    match = RANGES.fullmatch(job_id)
    if match is None:
        yield job_id
        return
    array, ranges = match.groups()
    for part in ranges.split(","):
        first, last, step = _bounds(part)
        yield from (f"{array}_{index}" for index in range(first, last + 1, step))


def latest(rows: list[AccountRow]) -> dict[str, AccountRow]:
    """The current run of each job; step rows (``123.batch``) are left out."""
    jobs = [row for row in rows if "." not in row.job_id]
    return {row.job_id: row for row in sorted(jobs, key=lambda row: (row.submit, row.start))}


def _bounds(part: str) -> tuple[int, int, int]:
    """First, last and step of ``7``, ``4-9`` or ``0-8:2``."""
    ends, _, step = part.partition(":")
    first, _, last = ends.partition("-")
    return int(first), int(last or first), int(step or 1)


def _columns(kind: type[Any], separator: str) -> str:
    return separator.join(item.metadata["column"] for item in fields(kind))
