"""News among the events of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.contract.events import AlarmEvent, Event, append, append_event, read_events
from jobs.contract.rundir import RunDir
from jobs.notification.news import News, NewsReader

from .runs import end, happen, make_run, start


def news(run: RunDir, *events: Event) -> list[News]:
    happen(run, *events)
    return list(NewsReader(run).news(read_events(run)))


def told(run: RunDir, *events: Event) -> list[tuple[str, str]]:
    return [(item.event, item.text) for item in news(run, *events)]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return make_run(tmp_path, curate=3, pretrain=1)


def test_a_first_start_names_its_nodes(run: RunDir) -> None:
    nodes = ("n1", "n2", "n3", "n4", "n5", "n6")

    assert told(run, start(nodes=nodes)) == [
        ("started", "pretrain started on n1, n2, n3, n4 and 2 more")
    ]


def test_a_later_start_resumes_and_says_what_was_before(run: RunDir) -> None:
    before = [start(), end("node_fail", "submit", message="node n1 failed")]

    assert told(run, *before, start(attempt=2, step=1200, nodes=("n2",)))[-1] == (
        "resumed",
        "pretrain resumed from step 1200 on n2; before: node n1 failed",
    )


def test_each_of_several_tasks_that_resume_says_what_was_before_it(run: RunDir) -> None:
    before = [end("node_fail", "submit", "curate", index, message=f"n{index}") for index in (0, 1)]
    happen(run, *(start("curate", index) for index in range(3)), *before, start())
    again = [start("curate", index, attempt=2) for index in (1, 0)]
    append(run, *again)

    texts = [item.text for item in NewsReader(run).news(read_events(run)[-2:])]

    assert texts == ["curate task 1 resumed; before: n1", "curate task 0 resumed; before: n0"]


def test_the_first_start_of_a_task_in_a_later_attempt_is_a_start(run: RunDir) -> None:
    assert told(run, start("curate", 2, attempt=4)) == [("started", "curate started")]


def test_a_start_that_an_earlier_end_prevented_is_no_news(run: RunDir) -> None:
    prevented = end("node_fail", "stop", attempt=2, follows=1)

    assert told(run, start(), start(attempt=2), prevented) == [("started", "pretrain started")]


@pytest.mark.parametrize(
    ("cause", "action", "event", "verb"),
    [
        ("exception", "stop", "failed", "failed"),
        ("time_limit", "stop", "failed", "failed"),
        ("stopped", "stop", "stopped", "stopped"),
        ("cancelled", "stop", "stopped", "stopped"),
        ("preempted", "requeue", "preempted", "was preempted after step 30, checkpoint 20"),
        ("preempted", "wait", "preempted", "was preempted after step 30, checkpoint 20"),
    ],
)
def test_an_end_is_told_with_its_reason(
    run: RunDir, cause: str, action: str, event: str, verb: str
) -> None:
    steps = {"last_step": 30, "step_after": 20}
    hint = "" if event == "preempted" else " (fix the line)"

    ended = end(cause, action, message="docs.jsonl:7: no text", hint="fix the line", **steps)

    assert told(run, ended) == [(event, f"pretrain {verb}: docs.jsonl:7: no text{hint}")]


@pytest.mark.parametrize(
    ("cause", "action"),
    [("crash", "restart"), ("time_limit", "submit"), ("hang", "submit"), ("unknown", "wait")],
)
def test_a_failure_that_is_retried_is_told_by_the_next_start(
    run: RunDir, cause: str, action: str
) -> None:
    assert told(run, end(cause, action)) == []


def test_an_attempt_that_is_observed_and_then_closed_is_one_thing(run: RunDir) -> None:
    keys = {item.key for item in news(run, end("preempted", "wait"), end("preempted", "requeue"))}

    assert keys == {"preempted pretrain 0 1"}


def test_a_stage_has_finished_with_its_last_task_and_the_run_with_its_last_stage(
    run: RunDir,
) -> None:
    tasks = [end("completed", "finish", "curate", index) for index in (2, 0)]
    assert told(run, *tasks) == []

    assert told(run, end("completed", "finish", "curate", 1))[-1] == ("finished", "curate finished")

    last = told(run, end("completed", "finish", last_step=600))[-1]
    report = run.command("report")
    assert last == (
        "finished",
        f"pretrain finished at step 600, and with it the run; `{report}` shows the results",
    )


def test_nodes_that_the_next_job_leaves_out_are_told_each(run: RunDir) -> None:
    ended = end("gpu_hardware", "submit", message="GPU 3 has XID 79", exclude=("n1", "n2"))

    assert told(run, ended) == [
        ("node_excluded", "n1 is left out of the next job: GPU 3 has XID 79"),
        ("node_excluded", "n2 is left out of the next job: GPU 3 has XID 79"),
    ]


def test_an_alarm_is_told_in_its_own_words(run: RunDir) -> None:
    message = "GPU 3 takes 1.4 times as long as the others"
    alarm = AlarmEvent(1.0, "pretrain", 0, 1, "straggler", "WARN", message, node="n1")
    append_event(run, "alarm", code="straggler")  # damaged

    assert told(run, alarm) == [
        ("alarm", "pretrain: n1: GPU 3 takes 1.4 times as long as the others")
    ]


def test_notes_and_damaged_events_are_no_news(run: RunDir) -> None:
    append_event(run, "recovery_job", messages=["done"])
    append_event(run, "start", stage=7)

    assert told(run) == []


def test_nothing_follows_once_each_task_of_each_begun_stage_has_ended(run: RunDir) -> None:
    reader = NewsReader(run)
    steps = [
        (start("curate", 0), False),
        (end("completed", "finish", "curate", 0), False),
        (end("exception", "stop", "curate", 1), False),
        (end("preempted", "requeue", "curate", 2), False),
        (end("completed", "finish", "curate", 2, attempt=2), True),
        (start(), False),
        (end("node_fail", "submit"), False),
        (start(attempt=2), False),
        (end("exception", "stop", attempt=2), True),
        (start(attempt=3), False),  # a person resumed it
        (end("crash", "restart", attempt=3), False),
    ]

    for event, expected in steps:
        happen(run, event)
        assert reader.nothing_follows() == expected, event


def test_a_damaged_plan_does_not_make_a_run_finished(run: RunDir) -> None:
    run.plan.write_text("{")

    assert told(run, end("completed", "finish")) == [("finished", "pretrain finished")]
    assert not NewsReader(run).nothing_follows()
