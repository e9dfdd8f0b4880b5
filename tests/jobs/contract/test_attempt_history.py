"""The history of a run, folded from its events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contract import attempt_history, events
from jobs.contract.attempt_history import RunHistory, TaskHistory
from jobs.contract.outcomes import RetryAction, RootCause
from jobs.contract.rundir import RunDir

Event = dict[str, Any]


def submit(time: float, attempt: int, job: str, by: str = "person", **more: Any) -> Event:
    fields = {"stage": "pretrain", "attempt": attempt, "indices": [0], "job_ids": [job], "by": by}
    return {"event": "submit", "time": time, "scheduler": "slurm", **fields, **more}


def start(attempt: int, job: str = "7") -> Event:
    fields = {"stage": "pretrain", "index": 0, "attempt": attempt, "job_id": job, "restarts": 0}
    return {"event": "start", "time": 1.0, **fields, "nodes": ["a"], "began": 1.0, "step": 0}


def end(
    attempt: int, action: RetryAction = RetryAction.RESTART, cause: RootCause = RootCause.CRASH
) -> Event:
    return {
        "event": "exit",
        "time": 2.0,
        "stage": "pretrain",
        "index": 0,
        "attempt": attempt,
        "job_id": "7",
        "cause": cause.value,
        "fingerprint": "f",
        "node": "a",
        "started": 1.0,
        "ended": 2.0,
        "step_before": 0,
        "step_after": 10,
        "last_step": 12,
        "action": action.value,
    }


def fold(*lines: Event) -> TaskHistory:
    return RunHistory.of(events.parse(lines)).task("pretrain", 0)


def test_every_end_is_one_of_a_start_and_what_is_left_is_open() -> None:
    found = fold(submit(1.0, 1, "7"), start(1), end(1), start(2))

    assert [(item.attempt, item.cause, item.step_after) for item in found.exits] == [
        (1, RootCause.CRASH, 10)
    ]
    assert found.open is not None
    assert (found.open.attempt, found.open.nodes) == (2, ("a",))
    assert found.starts == (found.open,)


def test_other_tasks_and_stages_are_no_part_of_it() -> None:
    other = {**start(3), "index": 1}
    stage = {**start(4), "stage": "evaluate"}

    assert fold(submit(1.0, 1, "7"), other, stage).starts == ()


def test_one_id_may_stand_for_all_tasks_of_a_submission() -> None:
    found = fold(submit(1.0, 1, "local:a:1:2", indices=[3, 0, 4]))
    array = fold(submit(1.0, 1, "", indices=[3, 0], job_ids=["9_0", "9_1"]))

    assert [item.job_id for item in found.submissions] == ["local:a:1:2"]
    assert [item.job_id for item in array.submissions] == ["9_1"]


def test_what_was_taken_back_was_never_submitted() -> None:
    undo = {"event": "undo", "time": 2.0, "job_ids": ["7"]}

    assert fold(submit(1.0, 1, "7"), undo, submit(3.0, 2, "8")).submissions[0].job_id == "8"


def test_the_first_start_of_a_persons_submission_records_it() -> None:
    """The job was queued again, so that its second start has a number of its own."""
    lines = (
        submit(1.0, 1, "7"),
        *(start(1), end(1), start(2), end(2)),
        submit(3.0, 3, "8", by="supervisor"),
        *(start(3), end(3)),
        submit(4.0, 4, "9"),
        *(start(5), end(5)),
    )

    found = fold(*lines)

    assert [item.attempt for item in found.exits if item.by_person] == [1, 5]
    assert [number for number in (1, 2, 3, 5) if found.is_by_person(number)] == [1, 5]


def test_an_observed_attempt_stays_open_until_its_exit() -> None:
    """Its supervisor saw it end, and left it to Slurm to name the cause."""
    observed = {**end(1, RetryAction.WAIT, RootCause.UNKNOWN), "event": "observed"}
    closed = end(1, RetryAction.STOP, RootCause.CANCELLED)

    waiting = fold(submit(1.0, 1, "7"), start(1), observed)
    later = fold(submit(1.0, 1, "7"), start(1), observed, closed)

    assert ([item.attempt for item in waiting.starts], waiting.exits) == ([1], ())
    assert waiting.observed[1].cause is RootCause.UNKNOWN
    assert (later.starts, later.exits[0].action) == ((), RetryAction.STOP)


def test_the_first_exit_of_an_attempt_counts() -> None:
    found = fold(start(1), end(1, RetryAction.SUBMIT), end(1, RetryAction.STOP))

    assert [item.action for item in found.exits] == [RetryAction.SUBMIT]


def test_a_request_to_end_counts_until_the_task_is_submitted_again() -> None:
    cancel = {"event": "cancel", "time": 2.0, "job_ids": ["7"]}
    stop = {**cancel, "event": "stop"}

    assert fold(submit(1.0, 1, "7"), cancel).is_cancelled
    assert fold(submit(1.0, 1, "7"), stop).is_stopped
    again = fold(submit(1.0, 1, "7"), cancel, stop, submit(3.0, 2, "8"))
    assert (again.is_cancelled, again.is_stopped) == (False, False)
    slow_clock = fold(submit(9.0, 1, "7"), cancel)
    assert slow_clock.is_cancelled


def test_an_end_that_only_repeats_an_earlier_one_does_not_count() -> None:
    """A job was queued again on a node that had failed."""
    repeated = {**end(2, RetryAction.SUBMIT, RootCause.NODE_FAIL), "follows": 1}

    found = fold(submit(1.0, 1, "7"), start(1), end(1), start(2), repeated)

    assert ([item.attempt for item in found.exits], found.starts) == ([1], ())


def test_the_attempt_of_a_task_is_the_last_that_its_present_job_began() -> None:
    refused = end(3, RetryAction.STOP, RootCause.CONFIGURATION)

    assert fold(submit(1.0, 1, "7")).attempt == 1
    assert fold(submit(1.0, 1, "7"), start(1), end(1), start(2)).attempt == 2
    assert fold(submit(1.0, 1, "7"), start(1), submit(2.0, 2, "8")).attempt == 2
    assert fold(submit(1.0, 1, "7"), start(2), refused).attempt == 3


BAD: list[Any] = [
    {},
    {"event": "start"},
    {**start(1), "attempt": "1"},
    {**start(1), "nodes": "a"},
    {**submit(1.0, 1, "7"), "job_ids": []},
    {**submit(1.0, 1, "7"), "indices": None},
    {**end(1), "cause": "bad luck"},
    {**end(1), "ended": float("nan")},
    {"event": 7, "time": 1.0},
    [1, 2],
]


@pytest.mark.parametrize("line", BAD, ids=str)
def test_a_line_that_is_no_event_is_skipped(tmp_path: Path, line: Any) -> None:
    run = RunDir(tmp_path)
    good = [submit(1.0, 1, "7"), start(1)]
    run.events.write_text("".join(f"{json.dumps(item)}\n" for item in (line, *good, line)))

    task = attempt_history.read(run).task("pretrain", 0)

    assert ([job.job_id for job in task.submissions], [*task.started]) == (["7"], [1])


def test_a_reader_parses_only_what_was_appended(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.events.write_text(json.dumps(submit(1.0, 1, "7")) + "\n")
    reader = attempt_history.HistoryReader(run)
    before = len(reader.current().events)

    with run.events.open("a") as file:
        file.write(json.dumps(start(1)) + "\n" + json.dumps(end(1))[:20])
        file.flush()
        cut_short = len(reader.current().events)
        file.write(json.dumps(end(1))[20:] + "\n")

    assert (before, cut_short, len(reader.current().events)) == (1, 2, 3)
    assert reader.current().task("pretrain", 0).exits


lines = st.one_of(
    st.builds(
        submit,
        st.just(1.0),
        st.integers(1, 4),
        st.sampled_from("789"),
        st.sampled_from(("person", "supervisor")),
        indices=st.sampled_from(([0], [1], [0, 1])),
    ),
    st.builds(start, st.integers(1, 4), st.sampled_from("789")),
    st.builds(end, st.integers(1, 4), st.sampled_from(RetryAction), st.sampled_from(RootCause)),
    st.builds(
        lambda attempt: {**end(attempt, RetryAction.WAIT), "event": "observed"}, st.integers(1, 4)
    ),
    st.sampled_from(("cancel", "stop", "undo")).map(
        lambda kind: {"event": kind, "time": 3.0, "job_ids": ["8"]}
    ),
)


@given(st.lists(lines, max_size=20), st.integers(0, 20), st.integers(0, 20))
def test_a_history_folded_in_chunks_is_the_one_folded_at_once(
    recorded: list[Event], first: int, second: int
) -> None:
    whole = RunHistory.of(events.parse(recorded))
    chunks, (low, high) = RunHistory(), sorted((first, second))
    for part in (recorded[:low], recorded[low:high], recorded[high:]):
        chunks.add(events.parse(part))
        view(chunks)

    assert view(chunks) == view(whole)


def view(history: RunHistory) -> list[Any]:
    """Return everything that is read from a history."""
    tasks = [history.task("pretrain", index) for index in (0, 1)]
    return [
        list(history.begun),
        history.unanswered,
        history.submits("pretrain"),
        history.stop_request,
        history.submitted_at,
        [(task.is_cancelled, task.is_stopped) for task in tasks],
        [
            (task.submissions, task.attempt, dict(task.started), task.exits, dict(task.observed))
            for task in tasks
        ],
    ]
