"""What squeue and sacct print, read."""

from __future__ import annotations

import pytest

from meditron_cli.scheduler import queries
from meditron_cli.scheduler.base import JobState
from meditron_cli.scheduler.queries import AccountRow, NamedRow, QueueRow

WORDS = {
    JobState.QUEUED: "PENDING REQUEUED REQUEUE_FED REQUEUE_HOLD SPECIAL_EXIT RESV_DEL_HOLD",
    JobState.ACTIVE: (
        "RUNNING CONFIGURING SUSPENDED STOPPED SIGNALING STAGE_OUT RESIZING COMPLETING"
    ),
    JobState.ENDED: (
        "COMPLETED FAILED TIMEOUT CANCELLED NODE_FAIL BOOT_FAIL OUT_OF_MEMORY DEADLINE REVOKED "
        "PREEMPTED LAUNCH_FAILED RECONFIG_FAIL"
    ),
}
"""Every job state of squeue's manual (JOB STATE CODES), 22.05 to 24.11."""


@pytest.mark.parametrize(
    ("word", "state"),
    [(word, state) for state, words in WORDS.items() for word in words.split()]
    + [
        ("CANCELLED by 1234", JobState.ENDED),
        ("CANCELLED+", JobState.ENDED),
        ("running", JobState.ACTIVE),
        ("  PENDING ", JobState.QUEUED),
        ("", JobState.MISSING),
        ("   ", JobState.MISSING),
        ("TELEPORTED", JobState.UNKNOWN),
        ("12", JobState.UNKNOWN),
        ("+", JobState.UNKNOWN),
        ("\x00é|", JobState.UNKNOWN),
    ],
)
def test_every_word_of_slurm_has_one_of_our_states(word: str, state: JobState) -> None:
    assert JobState.from_slurm(word) is state


def test_the_columns_asked_for_are_those_of_the_row() -> None:
    assert "--format=%i|%T|%r" in queries.squeue_command()
    assert "--format=JobID,State,Submit,Start" in queries.sacct_command(["1"])


def test_thousands_of_elements_are_asked_for_as_one_array() -> None:
    ids = [f"7_{index}" for index in range(5000)]

    assert queries.sacct_command([*ids, "8", "9_0"])[-1] == "--jobs=7,8,9"


def test_a_queue_has_a_row_an_element() -> None:
    text = "12|PENDING|Priority\n13_4|RUNNING|None\n"

    assert queries.parse(text, QueueRow) == [
        QueueRow("12", "PENDING", "Priority"),
        QueueRow("13_4", "RUNNING", "None"),
    ]


def test_a_reason_may_hold_anything() -> None:
    text = "12|PENDING|(Nodes required | for job are DOWN)\n"

    assert queries.parse(text, QueueRow)[0].reason == "(Nodes required | for job are DOWN)"


@pytest.mark.parametrize("line", ["", "rubbish", "slurm_load_jobs error: x", "1|2"])
def test_lines_of_another_shape_are_left_out(line: str) -> None:
    assert queries.parse(f"{line}\n1|RUNNING|None\n", QueueRow) == [
        QueueRow("1", "RUNNING", "None")
    ]


@pytest.mark.parametrize(
    ("printed", "ids"),
    [
        ("123", ["123"]),
        ("123_4", ["123_4"]),
        ("123.batch", ["123.batch"]),
        ("123_[4-6%2]", ["123_4", "123_5", "123_6"]),
        ("123_[0,4-5,9]", ["123_0", "123_4", "123_5", "123_9"]),
        ("123_[7]", ["123_7"]),
        ("123_[1-7:3]", ["123_1", "123_4", "123_7"]),
        ("123_[0,2,4,...]", ["123_[0,2,4,...]"]),
        ("123+4", ["123+4"]),
    ],
)
def test_waiting_elements_on_one_line_are_told_apart(printed: str, ids: list[str]) -> None:
    assert list(queries.expand(printed)) == ids


def test_the_newest_run_of_a_requeued_job_counts() -> None:
    text = (
        "5|PREEMPTED|2026-01-01T10:00:00|2026-01-01T10:00:05\n"
        "5.batch|COMPLETED|2026-01-01T10:00:00|2026-01-01T10:00:05\n"
        "5|NODE_FAIL|2026-01-01T11:00:00|2026-01-01T11:03:00\n"
        "5|PENDING|2026-01-01T12:00:00|Unknown\n"
        "6_[0-1%1]|PENDING|2026-01-01T12:00:00|Unknown\n"
    )

    rows = queries.latest(queries.parse(text, AccountRow))

    assert {name: row.state for name, row in rows.items()} == {
        "5": "PENDING",
        "6_0": "PENDING",
        "6_1": "PENDING",
    }


def test_of_two_runs_submitted_at_once_the_one_started_later_counts() -> None:
    text = (
        "5|COMPLETED|2026-01-01T10:00:00|2026-01-01T10:09:00\n"
        "5|REQUEUED|2026-01-01T10:00:00|2026-01-01T10:00:05\n"
    )

    assert queries.latest(queries.parse(text, AccountRow))["5"].state == "COMPLETED"


def test_a_job_is_found_by_what_was_written_on_it() -> None:
    text = "31|run=med,attempt=2|/runs/a|b/code\n"

    assert queries.parse(text, NamedRow) == [NamedRow("31", "run=med,attempt=2", "/runs/a|b/code")]
