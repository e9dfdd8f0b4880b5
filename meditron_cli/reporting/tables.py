"""Sentences and table rows about the times of a run, for ``status`` and ``report``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from jobs.contract.stage_specs import TRAINING_STAGES
from meditron_cli.reporting.attempts import Attempt
from meditron_cli.reporting.goodput import BUCKETS
from meditron_cli.reporting.run_times import RunTimes
from meditron_cli.runs.views import RunView

Row = tuple[object, ...]
Table = tuple[str, tuple[str, ...], list[Row]]
"""Title, columns, rows."""

LATEST = 20
"""Most rows of a table with a row per attempt."""

RUNNING = "running"
NOT_RECORDED = "not recorded"
"""End of an attempt whose supervisor died, or whose job was queued again, without a record yet."""

MEANINGS = {
    "queue": "waiting for the scheduler",
    "startup": "from a start to its first step",
    "training": "steps that count",
    "checkpoint": "saving",
    "validation": "",
    "redone": "steps lost and redone",
    "down": "between attempts, not queued",
    "stall": "rest of the attempts",
}


def all_tables(times: RunTimes, view: RunView, now: float) -> Iterator[Table]:
    """Yield the tables of attempts, interruptions, and the time of training."""
    yield (
        "attempts",
        ("stage", "task", "attempt", "job", "nodes", "began", "lasted", "steps", "ended", "then"),
        [attempt_row(times, attempt, view, now) for attempt in latest(of_interest(times, view))],
    )
    yield interruption_table(times)
    yield training_table(times)


def training_table(times: RunTimes) -> Table:
    """Return the table of the time of training per bucket."""
    return "time of training", ("what", "h:mm:ss", "share", ""), bucket_rows(times)


def latest(attempts: Sequence[Attempt]) -> Sequence[Attempt]:
    """Return the last rows of a list that may be long."""
    return attempts[-LATEST:]


def of_interest(times: RunTimes, view: RunView) -> list[Attempt]:
    """Return the attempts of unfinished or interrupted stages; of a stage with several tasks the
    interrupted ones.
    """
    interrupted = {attempt.stage for attempt in times.attempts if attempt.interrupted}
    return [
        attempt
        for attempt in times.attempts
        if attempt.interrupted
        or (
            view.stages[attempt.stage].total == 1
            and (attempt.stage in interrupted or not view.stages[attempt.stage].finished)
        )
    ]


def attempt_row(times: RunTimes, attempt: Attempt, view: RunView, now: float) -> Row:
    """Return the row of one attempt."""
    ended, action = outcome(times, attempt, view)
    end = now if attempt.ended is None and ended == RUNNING else attempt.ended
    return (
        attempt.stage,
        attempt.index,
        attempt.number,
        attempt.job_id,
        nodes_text(attempt.nodes),
        moment(attempt.began),
        clock(None if end is None else end - attempt.began),
        steps_text(*times.steps_of(attempt)),
        ended,
        action,
    )


def outcome(times: RunTimes, attempt: Attempt, view: RunView) -> tuple[str, str | None]:
    """Return how an attempt ended and what followed.

    One without a recorded end runs only if it is the last of its task and its job runs; else what
    followed is the state of the task: pending, cancelled, failed, unknown.
    """
    if attempt.ended is not None:
        ended, _, action = attempt.outcome.partition(", ")
        return ended, action or None
    task = (attempt.stage, attempt.index)
    numbers = [item.number for item in times.attempts if (item.stage, item.index) == task]
    if attempt.number < max(numbers):
        return NOT_RECORDED, None
    state = view.stages[attempt.stage].task_states.get(attempt.index, "unknown")
    return (RUNNING, None) if state == RUNNING else (NOT_RECORDED, state)


def interruption_table(times: RunTimes) -> Table:
    """Return the table of interruptions of training and their cost."""
    rows: list[Row] = [
        (
            f"{item.attempt.stage} {item.attempt.index or ''}".strip(),
            item.attempt.number,
            item.attempt.cause.replace("_", " "),
            item.step,
            item.steps_redone,
            clock(item.detect_s),
            clock(item.resume_s),
        )
        for item in times.interruptions
        if item.attempt.stage in TRAINING_STAGES
    ]
    columns = (
        "training", "attempt", "cause", "at step", "steps redone", "detected after",
        "resumed after",
    )  # fmt: skip
    return "interruptions of training", columns, rows[-LATEST:]


def bucket_rows(times: RunTimes) -> list[Row]:
    """Return the rows of seconds per bucket, with their share of the whole."""
    account = times.training
    if account is None or not account.wall:
        return []
    rows: list[Row] = [
        (name, clock(seconds), f"{seconds / account.wall:.1%}", MEANINGS[name])
        for name in BUCKETS
        if (seconds := account.buckets[name])
    ]
    ratios = (
        ("goodput", account.goodput, "training, of all of this time"),
        ("without queue", account.goodput_without_queue, "training, of the time outside the queue"),
        ("ETTR", account.ettr, "training, of the time since the first start"),
    )
    return [
        *rows,
        ("in all", clock(account.wall), None, None),
        *((name, None, f"{share:.1%}", text) for name, share, text in ratios if share is not None),
    ]


def hours_text(times: RunTimes) -> str | None:
    """Return ``12.5 GPU-hours``, or node-hours without GPUs; None before the first start."""
    if times.gpu_hours:
        return f"{times.gpu_hours:,.2f} GPU-hours"
    return f"{times.node_hours:,.2f} node-hours" if times.node_hours else None


def heading(attempt: Attempt) -> str:
    """Return an attempt in one line: task, job, nodes, times, outcome."""
    job = f"job {attempt.job_id}" if attempt.job_id else "no job"
    where = f" on {nodes_text(attempt.nodes)}" if attempt.nodes else ""
    until = f" to {moment(attempt.ended)}" if attempt.ended is not None else ""
    return (
        f"{attempt.stage} task {attempt.index} attempt {attempt.number}: {job}"
        f"{where}, {moment(attempt.began)}{until}: {attempt.outcome}"
    )


def ending(attempt: Attempt) -> str:
    """Return how an attempt ended, what followed, and why."""
    sentence = f": {attempt.sentence}" if attempt.sentence else ""
    name = f"{attempt.stage} task {attempt.index} attempt {attempt.number}"
    return f"{name} ended: {attempt.outcome}{sentence}"


def nodes_text(nodes: Sequence[str]) -> str | None:
    """Return the first two nodes, and the number of nodes."""
    if not nodes:
        return None
    return ", ".join(nodes[:2]) + (f" … {len(nodes)} in all" if len(nodes) > 2 else "")


def steps_text(first: int | None, last: int | None) -> str | None:
    """Return ``100 to 120``: the step from which an attempt resumed, and its last one."""
    if first is None:
        return None if last is None else f"to {last}"
    return f"{first}" if last is None else f"{first} to {last}"


def moment(time: float) -> str:
    """Return a date and time in this machine's time zone."""
    return datetime.fromtimestamp(time).strftime("%Y-%m-%d %H:%M:%S")


def clock(seconds: float | None) -> str | None:
    """Return ``1:05:09``: hours, minutes, seconds."""
    if seconds is None:
        return None
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def duration(seconds: float | None) -> str | None:
    """Return a duration for people: ``2d 3h``, ``3h 05m``, ``4m 10s``."""
    if seconds is None:
        return None
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    return f"{hours}h {minutes:02d}m" if hours else f"{minutes}m {rest:02d}s"
