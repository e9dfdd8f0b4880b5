"""Formats of Slurm's commands, each declared once beside its parser (squeue(1), sacct(1),
scontrol(1), sinfo(1)).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, TypeVar

from jobs.contract.stage_specs import STAGES
from jobs.slurm.hostlist import node_names, numbers

RANGES = re.compile(r"(\d+)_\[([\d,:-]+)(?:%\d+)?\]")
"""Waiting elements of an array on one line: ``123_[0,4-9%2]``."""
PAIR = re.compile(r"(?:^|\s)([A-Za-z][\w/:]*)=(\S*)")
"""``Key=value`` of ``scontrol show job`` and ``scontrol show node``."""
TERM = re.compile(r"(after|afterany|afterok|afternotok):(\d+)(?:_(\d+|\*))?(\+\d+)?(?:\(\w+\))?")
"""One condition of a dependency as squeue prints it: kind, job, element or ``*``, delay."""
COMMENT = re.compile(r"run=([^,]+),attempt=\d+")
"""Prefix of the comment of every job of a run (``submission.job_comment``)."""
STORAGE_MARK = re.compile(r",storage=(\d+)$")
"""End of the comment of a job that its supervisor requeued because the storage took no files: the
number of requeues before that start. It needs no disk, where an event cannot be written.
"""
JOB_NAME = re.compile(rf"([^.]+)\.(?:{'|'.join(STAGES)})(?:\.recovery_job)?")
"""Names of jobs by ``submission.job_name`` and ``submission.recovery_job_name``."""
CLOCK_SKEW_SECONDS = 3.0
"""Between a node's clock and the controller's; less than Slurm holds a job back after a requeue."""
BY_A_PERSON = "CANCELLED by unknown"
"""State of a cancelled job that the controller still lists; it does not store who cancelled it."""
TIME_FORM = "%Y-%m-%dT%H:%M:%S"
OWN_JOBS = ("squeue", "--all", "--me", "--noheader")
"""``--all``, here and below: partitions are hidden from lists, also those one's own jobs are in."""
NODES = ("sinfo", "--noheader", "--Node")


def column(name: str) -> Any:
    """Return a dataclass field for a column of the tool's output, named as the tool names it."""
    return field(metadata={"column": name})


@dataclass(frozen=True)
class QueueRow:
    """One job, or one array element, in the queue."""

    job_id: str = column("%i")
    state: str = column("%T")
    start: str = column("%S")
    """Actual or expected start time; ``N/A`` where the scheduler has not estimated it."""
    name: str = column("%j")
    comment: str = column("%k")
    reason: str = column("%r")
    """May hold anything, so that it is the last column."""


@dataclass(frozen=True)
class NamedRow:
    """A job in the queue, by what we wrote on it at submission."""

    job_id: str = column("%F")
    """Of an array as a whole."""
    comment: str = column("%k")
    folder: str = column("%Z")


@dataclass(frozen=True)
class Dependent:
    """A job that waits for others."""

    job_id: str = column("%i")
    """As scontrol takes it; of an array whose elements wait, its one id."""
    expression: str = column("%E")
    """``afterok:1_*(unfulfilled),afterany:2(failed)``; ``(null)`` when it waits for nothing."""


@dataclass(frozen=True)
class StepRow:
    """A running step of a job."""

    step_id: str = column("%i")
    name: str = column("%j")


@dataclass(frozen=True)
class AccountRow:
    """One run of a job, or of one of its steps (``123.batch``), in the accounting."""

    job_id: str = column("JobID")
    state: str = column("State")
    exit_code: str = column("ExitCode")
    """``code:signal``; ``0:0`` also for what Slurm itself has ended (measured on 22.05)."""
    submit: str = column("Submit")
    start: str = column("Start")
    end: str = column("End")
    nodes: str = column("NodeList")
    """Compressed: ``gpu[01-04]``; all of the job's, also when one of them has failed."""
    name: str = column("JobName")
    """Of a step, the step's own."""
    comment: str = column("Comment")
    """Empty unless the site stores it (AccountingStoreFlags=job_comment, slurm.conf(5))."""


@dataclass(frozen=True)
class JobFacts:
    """The fields of ``scontrol show job`` that a supervisor needs."""

    job_id: str
    state: str
    preempt_time: float | None
    """Set while, and after, Slurm preempts the job; then ``end_time`` is the end of the grace."""
    eligible_time: float | None
    """When its dependencies were satisfied and its earliest start had come."""
    start_time: float | None
    end_time: float | None
    """Of a running job: when its time limit ends it."""
    restarts: int
    can_requeue: bool
    nodes: tuple[str, ...]
    comment: str


Row = TypeVar("Row", QueueRow, NamedRow, Dependent, StepRow, AccountRow)


def squeue_command() -> list[str]:
    """Return the command that lists all jobs of this user, array elements one by one."""
    return [*OWN_JOBS, "--array", f"--format={_columns(QueueRow, '|')}"]


def squeue_named_command(name: str) -> list[str]:
    """Return the command that lists this user's jobs of one name."""
    return [*OWN_JOBS, f"--name={name}", f"--format={_columns(NamedRow, '|')}"]


def squeue_dependents_command() -> list[str]:
    """Return the command that lists this user's jobs with their dependencies."""
    return [*OWN_JOBS, f"--format={_columns(Dependent, '|')}"]


def squeue_steps_command(job_id: str) -> list[str]:
    """Return the command that lists the running steps of a job."""
    form = f"--format={_columns(StepRow, '|')}"
    return ["squeue", "--all", "--steps", "--noheader", f"--jobs={job_id}", form]


def sacct_command(job_ids: Iterable[str]) -> list[str]:
    """Return the command that lists all rows of these jobs; with ``-D``, one per requeue.

    Arrays are named as a whole: thousands of elements would not fit on a command line.
    """
    whole = dict.fromkeys(name.split("_")[0] for name in job_ids)
    return [
        "sacct", "--duplicates", "--noheader", "--parsable2",
        f"--format={_columns(AccountRow, ',')}", f"--jobs={','.join(whole)}",
    ]  # fmt: skip


def scontrol_job_command(job_id: str) -> list[str]:
    """Return the command that shows a job, or each element of an array, one per line."""
    return ["scontrol", "show", "job", "--all", "--oneliner", job_id]


def scontrol_nodes_command(nodes: Iterable[str]) -> list[str]:
    """Return the command that shows some nodes, one per line."""
    return ["scontrol", "show", "node", "--oneliner", ",".join(nodes)]


def sinfo_command(partition: str = "") -> list[str]:
    """Return the command that lists all nodes, or a partition's, one per line."""
    selection = f"--partition={partition}" if partition else "--all"  # both at once are refused
    return [*NODES, selection, "--format=%N"]


def sinfo_down_command(nodes: Iterable[str]) -> list[str]:
    """Return the command that lists those of some nodes that are down or do not respond."""
    selection = [f"--nodes={','.join(nodes)}", "--states=down,no_respond"]
    return [*NODES, "--all", *selection, "--format=%N"]


def parse(text: str, kind: type[Row]) -> list[Row]:
    """Parse the output of squeue or sacct, one row per job; malformed lines are skipped."""
    return [kind(job_id, *more) for first, *more in _cells(text, kind) for job_id in expand(first)]


def parse_dependents(text: str) -> list[Dependent]:
    """Parse jobs with their dependencies. Pending elements of an array, which share one, have the
    id of the array: squeue shortens a long list of them.
    """
    rows = (Dependent(job.partition("_[")[0], on) for job, on in _cells(text, Dependent))
    return [row for row in rows if row.expression not in ("", "(null)")]


def ids_in(expression: str) -> list[str]:
    """Return the jobs, arrays and elements in a dependency; a whole array as its one id."""
    return [
        match[2] if match[3] in (None, "*") else f"{match[2]}_{match[3]}"
        for match in TERM.finditer(expression)
    ]


def _cells(text: str, kind: type[Any]) -> Iterator[list[str]]:
    width = len(fields(kind))
    rows = (line.split("|", width - 1) for line in text.splitlines())
    return ([cell.strip() for cell in row] for row in rows if len(row) == width)


def parse_job(text: str) -> JobFacts | None:
    """Parse the first job of ``scontrol show job -o``; None when there is none."""
    fields = dict(PAIR.findall(text.partition("\n")[0]))
    if "JobId" not in fields or "JobState" not in fields:
        return None
    return JobFacts(
        job_id=fields["JobId"],
        state=fields["JobState"],
        preempt_time=seconds(fields.get("PreemptTime", "")),
        eligible_time=seconds(fields.get("EligibleTime", "")),
        start_time=seconds(fields.get("StartTime", "")),
        end_time=seconds(fields.get("EndTime", "")),
        restarts=int(fields.get("Restarts") or 0),
        can_requeue=fields.get("Requeue") == "1",
        nodes=node_names(fields.get("NodeList", "")),
        comment=fields.get("Comment", ""),
    )


def parse_boot_times(text: str) -> dict[str, float]:
    """Parse ``scontrol show node -o`` into the boot time of each node that has one, in seconds
    since 1970 by the controller's clock.
    """
    records = (dict(PAIR.findall(line)) for line in text.splitlines())
    times = ((item.get("NodeName"), seconds(item.get("BootTime", ""))) for item in records)
    return {name: time for name, time in times if name and time is not None}


def parse_remembered(text: str) -> list[AccountRow]:
    """Parse all jobs and elements of ``scontrol show job -o`` into rows of the accounting."""
    records = (dict(PAIR.findall(line)) for line in text.splitlines())
    return [
        AccountRow(
            job_id=_shown_id(item),
            state=BY_A_PERSON if item["JobState"] == "CANCELLED" else item["JobState"],
            exit_code=item.get("ExitCode", ""),
            submit=item.get("SubmitTime", ""),
            start=item.get("StartTime", ""),
            end=item.get("EndTime", ""),
            nodes=item.get("NodeList", ""),
            name=item.get("JobName", ""),
            comment=item.get("Comment", ""),
        )
        for item in records
        if "JobId" in item and "JobState" in item
    ]


def _shown_id(job: dict[str, str]) -> str:
    """Return the id as ``ARRAY_ELEMENT`` for an element of an array."""
    element = job.get("ArrayTaskId", "")
    return f"{job['ArrayJobId']}_{element}" if element.isdigit() else job["JobId"]


def parse_config(text: str) -> dict[str, str]:
    """Parse the ``Key = value`` lines of ``scontrol show config``."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


@lru_cache(maxsize=1024)  # the tasks of an array share most of their times
def seconds(text: str) -> float | None:
    """Return a time of Slurm's (local, without a zone) in seconds since 1970; None for ``Unknown``,
    ``None`` and ``N/A``.
    """
    try:
        return time.mktime(time.strptime(text, TIME_FORM))
    except ValueError:
        return None


def expand(job_id: str) -> Iterator[str]:
    """Yield the ids in ``123_[0,4-9%2]`` one by one; any other id as it is."""
    match = RANGES.fullmatch(job_id)
    if match is None:
        yield job_id
        return
    array, ranges = match.groups()
    yield from (f"{array}_{index}" for index in numbers(ranges))


def by_job(rows: Iterable[AccountRow]) -> dict[str, list[AccountRow]]:
    """Group rows by job, and by step (``123.batch``), oldest first."""
    grouped: dict[str, list[AccountRow]] = {}
    for row in sorted(rows, key=lambda row: (row.submit, row.start)):
        grouped.setdefault(row.job_id, []).append(row)
    return grouped


def own_rows(rows: Mapping[str, list[AccountRow]], run: str) -> dict[str, list[AccountRow]]:
    """Return the rows of jobs that belong to a run, and those of their steps, oldest first.

    A job id is used again once the controller has lost its state or the ids have wrapped around;
    the accounting then lists both jobs under it. A step belongs to the job row that started last
    before it.

    Args:
        rows: by job or step id (``by_job``).
        run: its name; an empty one accepts any job.
    """
    own: dict[str, list[AccountRow]] = {}
    for name, listed in rows.items():
        job_id, _, step = name.partition(".")
        starts = rows.get(job_id, [])
        kept = [
            row
            for row in listed
            if (owner := _started_by(row.start, starts) if step else row) and is_of_run(owner, run)
        ]
        if kept:
            own[name] = kept
    return own


def start_row(rows: Sequence[AccountRow], began: float) -> AccountRow | None:
    """Return the row of the start during which a supervisor began, by start time.

    Args:
        rows: of one job, oldest first; each requeue adds one.
        began: seconds since 1970, by the node's clock.
    """
    latest = began + CLOCK_SKEW_SECONDS
    started = [row for row in rows if (at := seconds(row.start)) is not None and at <= latest]
    return next(iter([*started[-1:], *rows[:1]]), None)


def is_of_run(row: QueueRow | AccountRow, run: str) -> bool:
    """Return whether a job belongs to a run; every job belongs to the run without a name."""
    return run in ("", run_of_job(row.name, row.comment))


def run_of_job(name: str, comment: str) -> str:
    """Return the run that a job's marks name, or nothing for a job that meditron did not submit.

    Either mark is enough: not all sites store comments, and an owner may rename a job.
    """
    match = COMMENT.match(comment) or JOB_NAME.fullmatch(name)
    return match[1] if match else ""


def without_mark(comment: str) -> str:
    """Return the comment that a job had at its submission."""
    return STORAGE_MARK.sub("", comment)


def marked_comment(comment: str, restarts: int) -> str:
    """Return a job's comment with the mark of a start that the storage ended; empty for a comment
    that is not ours.
    """
    plain = without_mark(comment)
    return f"{plain},storage={restarts}" if COMMENT.fullmatch(plain) else ""


def is_marked(comment: str, restarts: int) -> bool:
    """Return whether a job's comment has the mark of this start."""
    match = STORAGE_MARK.search(comment)
    return match is not None and int(match[1]) == restarts


def _started_by(start: str, jobs: Sequence[AccountRow]) -> AccountRow | None:
    return next((row for row in reversed(jobs) if row.start <= start), None)


def _columns(kind: type[Any], separator: str) -> str:
    return separator.join(item.metadata["column"] for item in fields(kind))
