"""Parsers of the output of squeue and sacct."""

from __future__ import annotations

import pytest

from jobs.slurm import hostlist, queries
from jobs.slurm.queries import AccountRow, Dependent, NamedRow, QueueRow
from jobs.slurm.states import JobState

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


def test_the_requested_columns_are_those_of_the_row() -> None:
    assert "--format=%i|%T|%S|%j|%k|%r" in queries.squeue_command()
    assert (
        "--format=JobID,State,ExitCode,Submit,Start,End,NodeList,JobName,Comment"
        in queries.sacct_command(["1"])
    )


def test_thousands_of_elements_are_queried_as_one_array() -> None:
    ids = [f"7_{index}" for index in range(5000)]

    assert queries.sacct_command([*ids, "8", "9_0"])[-1] == "--jobs=7,8,9"


def test_a_queue_has_a_row_an_element() -> None:
    text = "12|PENDING|N/A|a.curate|x|Priority\n13_4|RUNNING|2026-01-01T10:00:00|b||None\n"

    assert queries.parse(text, QueueRow) == [
        QueueRow("12", "PENDING", "N/A", "a.curate", "x", "Priority"),
        QueueRow("13_4", "RUNNING", "2026-01-01T10:00:00", "b", "", "None"),
    ]


def test_a_reason_may_hold_anything() -> None:
    text = "12|PENDING|N/A|a|b|(Nodes required | for job are DOWN)\n"

    assert queries.parse(text, QueueRow)[0].reason == "(Nodes required | for job are DOWN)"


@pytest.mark.parametrize("line", ["", "rubbish", "slurm_load_jobs error: x", "1|2"])
def test_lines_of_another_shape_are_omitted(line: str) -> None:
    rows = queries.parse(f"{line}\n1|RUNNING|N/A|a|b|None\n", QueueRow)

    assert [row.job_id for row in rows] == ["1"]


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
def test_waiting_elements_on_one_line_are_distinguished(printed: str, ids: list[str]) -> None:
    assert list(queries.expand(printed)) == ids


def account(
    job_id: str, state: str, submit: str, start: str, name: str = "", mark: str = ""
) -> str:
    day = "2026-01-01T"
    return f"{job_id}|{state}|0:0|{day}{submit}|{start}|Unknown|gpu01|{name}|{mark}\n"


def test_the_runs_of_a_requeued_job_stand_in_order_and_its_steps_apart() -> None:
    text = (
        account("5", "PENDING", "12:00:00", "Unknown")
        + account("5", "PREEMPTED", "10:00:00", "2026-01-01T10:00:05")
        + account("5.batch", "COMPLETED", "10:00:00", "2026-01-01T10:00:05")
        + account("5", "NODE_FAIL", "11:00:00", "2026-01-01T11:03:00")
        + account("6_[0-1%1]", "PENDING", "12:00:00", "Unknown")
    )

    runs = queries.by_job(queries.parse(text, AccountRow))

    assert {name: [row.state for row in rows] for name, rows in runs.items()} == {
        "5": ["PREEMPTED", "NODE_FAIL", "PENDING"],
        "5.batch": ["COMPLETED"],
        "6_0": ["PENDING"],
        "6_1": ["PENDING"],
    }


def test_of_two_runs_submitted_at_once_the_one_started_later_is_the_last() -> None:
    text = account("5", "COMPLETED", "10:00:00", "2026-01-01T10:09:00") + account(
        "5", "REQUEUED", "10:00:00", "2026-01-01T10:00:05"
    )

    assert queries.by_job(queries.parse(text, AccountRow))["5"][-1].state == "COMPLETED"


def test_a_job_is_found_by_what_was_written_on_it() -> None:
    text = "31|run=med,attempt=2|/runs/a|b/code\n"

    assert queries.parse(text, NamedRow) == [NamedRow("31", "run=med,attempt=2", "/runs/a|b/code")]


# ---- whose job it is


@pytest.mark.parametrize(
    ("name", "comment", "run"),
    [
        ("med-7b-0.pretrain", "run=med-7b-0,attempt=2", "med-7b-0"),
        ("med-7b-0.curate.recovery_job", "(null)", "med-7b-0"),
        ("med-7b-0.curate", "", "med-7b-0"),  # a site that stores no comments
        ("renamed", "run=med-7b-0,attempt=2", "med-7b-0"),
        ("med-7b-0.train", "", ""),
        ("bash", "run it", ""),
        ("", "", ""),
    ],
)
def test_a_job_names_its_run_by_its_comment_or_its_name(name: str, comment: str, run: str) -> None:
    assert queries.run_of_job(name, comment) == run


def test_rows_of_another_job_with_the_same_id_are_dropped_with_their_steps() -> None:
    ours, theirs = "2026-01-01T10:00:05", "2026-01-02T10:00:05"
    text = (
        account("5", "COMPLETED", "10:00:00", ours, "med.pretrain")
        + account("5.batch", "OUT_OF_MEMORY", "10:00:00", ours, "batch")
        + account("5", "FAILED", "11:00:00", theirs, "bash")
        + account("5.batch", "FAILED", "11:00:00", theirs, "batch")
    )
    rows = queries.by_job(queries.parse(text, AccountRow))

    def states(run: str) -> dict[str, list[str]]:
        own = queries.own_rows(rows, run)
        return {name: [row.state for row in kept] for name, kept in own.items()}

    assert states("med") == {"5": ["COMPLETED"], "5.batch": ["OUT_OF_MEMORY"]}
    assert states("other") == {}
    assert states("")["5"] == ["COMPLETED", "FAILED"]


@pytest.mark.parametrize(
    ("began", "state"),
    [("10:00:07", "PREEMPTED"), ("10:30:00", "PREEMPTED"), ("11:02:59", "NODE_FAIL")],
)
def test_the_row_of_a_start_is_chosen_by_its_start_time(began: str, state: str) -> None:
    text = (
        account("5", "PREEMPTED", "10:00:00", "2026-01-01T10:00:05")
        + account("5", "NODE_FAIL", "11:00:00", "2026-01-01T11:03:00")
        + account("5", "PENDING", "12:00:00", "Unknown")
    )
    rows = queries.by_job(queries.parse(text, AccountRow))["5"]
    at = queries.seconds(f"2026-01-01T{began}")

    row = queries.start_row(rows, at or 0.0)

    assert row is not None
    assert row.state == state


# ---- what waits for what


def test_only_jobs_that_wait_for_others_are_dependents() -> None:
    text = "3|afterok:1_*(unfulfilled),afterok:2(failed)\n4_[0-2%2]|afterany:2(failed)\n5|(null)\n"

    assert queries.parse_dependents(text) == [
        Dependent("3", "afterok:1_*(unfulfilled),afterok:2(failed)"),
        Dependent("4", "afterany:2(failed)"),
    ]


@pytest.mark.parametrize(
    ("expression", "ids"),
    [
        ("afterok:1_*(unfulfilled),afterok:2(failed)", ["1", "2"]),
        ("afterany:1_3", ["1_3"]),
        ("after:8+5(unfulfilled)?afternotok:9(failed)", ["8", "9"]),
        ("aftercorr:4_*(unfulfilled)", []),
        ("singleton(unfulfilled)", []),
        ("(null)", []),
    ],
)
def test_the_jobs_that_a_dependency_names(expression: str, ids: list[str]) -> None:
    assert queries.ids_in(expression) == ids


# ---- scontrol show job


RUNNING = (
    "JobId=7 ArrayJobId=6 ArrayTaskId=1 JobName=a b=c UserId=me(1000) JobState=RUNNING Reason=None "
    "Dependency=(null) Requeue=1 Restarts=2 EligibleTime=2026-01-01T09:00:00 "
    "StartTime=2026-01-01T10:00:00 "
    "EndTime=2026-01-01T11:00:00 PreemptTime=None Partition=low NodeList=gpu[01-02] Comment=x y"
)


def test_the_facts_of_a_running_job() -> None:
    found = queries.parse_job(f"{RUNNING}\nJobId=8 JobState=PENDING\n")

    assert found is not None
    assert (found.job_id, found.state, found.restarts, found.can_requeue) == (
        "7",
        "RUNNING",
        2,
        True,
    )
    assert found.nodes == ("gpu01", "gpu02")
    assert found.preempt_time is None
    assert found.start_time is not None
    assert found.eligible_time == found.start_time - 3600
    assert found.end_time == found.start_time + 3600


def test_a_preempted_job_has_the_time_of_it() -> None:
    text = RUNNING.replace("PreemptTime=None", "PreemptTime=2026-01-01T10:30:00")

    found = queries.parse_job(text)

    assert found is not None
    assert found.preempt_time is not None
    assert found.end_time is not None
    assert found.end_time - found.preempt_time == 1800


def test_a_job_that_slurm_has_forgotten_has_no_facts() -> None:
    assert queries.parse_job("") is None


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("gpu01", ("gpu01",)),
        ("gpu[01-03,07],login", ("gpu01", "gpu02", "gpu03", "gpu07", "login")),
        ("r[1-2]n[08-09]", ("r1n08", "r1n09", "r2n08", "r2n09")),
        ("rack[1-2]-a", ("rack1-a", "rack2-a")),
        ("(null)", ()),
        ("None assigned", ()),
        ("", ()),
    ],
)
def test_the_nodes_of_a_compressed_list(text: str, names: tuple[str, ...]) -> None:
    assert hostlist.node_names(text) == names


def test_settings_of_slurm_are_pairs() -> None:
    text = "Configuration data as of 2026\nKillWait                = 5 sec\nA = b = c\n"

    assert queries.parse_config(text) == {"KillWait": "5 sec", "A": "b = c"}


# ---- scontrol show node


def test_the_boot_times_of_nodes_that_have_one() -> None:
    text = (
        "NodeName=gpu01 OS=Linux 6.1 #1 SMP @0 BootTime=2026-01-01T10:00:00 State=IDLE\n"
        "NodeName=gpu02 BootTime=None State=DOWN\n"
        "Node gpu03 not found\n"
    )

    assert queries.parse_boot_times(text) == {"gpu01": queries.seconds("2026-01-01T10:00:00")}
