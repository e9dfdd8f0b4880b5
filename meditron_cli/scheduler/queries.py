"""What squeue and sacct print, declared once beside its parser (SLURM behaviour: squeue(1),
sacct(1)).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, TypeVar


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
class AccountRow:
    """One run of a job, or of one of its steps, in the accounting."""

    job_id: str = column("JobID")
    state: str = column("State")
    submit: str = column("Submit")
    start: str = column("Start")
    exit_code: str = column("ExitCode")


Row = TypeVar("Row", QueueRow, AccountRow)


def squeue_command() -> list[str]:
    """All jobs of this user, array elements one by one."""
    return ["squeue", "--me", "--noheader", "--array", f"--format={_columns(QueueRow, '|')}"]


def sacct_command(job_ids: list[str]) -> list[str]:
    """All runs of these jobs (``-D``: a requeued job has a row a run)."""
    return [
        "sacct", "--duplicates", "--noheader", "--parsable2",
        f"--format={_columns(AccountRow, ',')}", f"--jobs={','.join(job_ids)}",
    ]  # fmt: skip


def parse(text: str, kind: type[Row]) -> list[Row]:
    """Rows of ``squeue`` or ``sacct`` output; lines of another shape are left out."""
    width = len(fields(kind))
    cells = (line.split("|", width - 1) for line in text.splitlines())
    return [kind(*(cell.strip() for cell in row)) for row in cells if len(row) == width]


def latest(rows: list[AccountRow]) -> dict[str, AccountRow]:
    """The current run of each job; step rows (``123.batch``) are left out."""
    jobs = [row for row in rows if "." not in row.job_id]
    return {row.job_id: row for row in sorted(jobs, key=lambda row: (row.submit, row.start))}


def _columns(kind: type[Any], separator: str) -> str:
    return separator.join(item.metadata["column"] for item in fields(kind))
