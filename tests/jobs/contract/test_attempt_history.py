"""The ledger of a task, from the events of its run."""

from __future__ import annotations

from typing import Any

from jobs.contract import attempt_history
from jobs.contract.outcomes import RetryAction, RootCause

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


def fold(*events: Event) -> attempt_history.History:
    return attempt_history.fold(events, "pretrain", 0)


def test_every_end_is_one_of_a_start_and_what_is_left_is_open() -> None:
    found = fold(submit(1.0, 1, "7"), start(1), end(1), start(2))

    assert [(item.attempt, item.cause, item.step_after) for item in found.endings] == [
        (1, RootCause.CRASH, 10)
    ]
    assert found.open is not None
    assert (found.open.attempt, found.open.nodes) == (2, ("a",))
    assert found.unsettled == found.starts == (found.open,)


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


def test_the_first_start_of_a_persons_submission_says_so() -> None:
    """The job was queued again, so that its second start has a number of its own."""
    events = (
        submit(1.0, 1, "7"),
        *(start(1), end(1), start(2), end(2)),
        submit(3.0, 3, "8", by="supervisor"),
        *(start(3), end(3)),
        submit(4.0, 4, "9"),
        *(start(5), end(5)),
    )

    found = fold(*events)

    assert [item.attempt for item in found.endings if item.by_person] == [1, 5]
    assert [number for number in (1, 2, 3, 5) if found.is_by_person(number)] == [1, 5]


def test_a_start_whose_end_slurm_had_to_name_is_unsettled_until_another_is_over() -> None:
    waiting = end(1, RetryAction.WAIT, RootCause.UNKNOWN)

    found = fold(submit(1.0, 1, "7"), start(1), waiting)
    later = fold(submit(1.0, 1, "7"), start(1), waiting, start(2), end(2))

    assert (found.starts, [item.attempt for item in found.unsettled]) == ((), [1])
    assert later.unsettled == ()


def test_the_last_word_about_a_start_counts() -> None:
    first = end(1, RetryAction.WAIT, RootCause.UNKNOWN)

    found = fold(
        submit(1.0, 1, "7"), start(1), first, end(1, RetryAction.STOP, RootCause.CANCELLED)
    )

    assert [(item.cause, item.action) for item in found.endings] == [
        (RootCause.CANCELLED, RetryAction.STOP)
    ]


def test_a_request_to_end_counts_until_the_task_is_submitted_again() -> None:
    cancel = {"event": "cancel", "time": 2.0, "job_ids": ["7"]}
    stop = {**cancel, "event": "stop"}

    assert fold(submit(1.0, 1, "7"), cancel).is_cancelled
    assert fold(submit(1.0, 1, "7"), stop).is_stopped
    again = fold(submit(1.0, 1, "7"), cancel, stop, submit(3.0, 2, "8"))
    assert (again.is_cancelled, again.is_stopped) == (False, False)
    slow_clock = fold(submit(9.0, 1, "7"), cancel)
    assert slow_clock.is_cancelled


def test_an_end_that_only_tells_of_an_earlier_one_does_not_count() -> None:
    """A job was queued again on a node that had failed."""
    told = {**end(2, RetryAction.SUBMIT, RootCause.NODE_FAIL), "follows": 1}

    found = fold(submit(1.0, 1, "7"), start(1), end(1), start(2), told)

    assert ([item.attempt for item in found.endings], found.unsettled) == ([1], ())


def test_ends_without_a_cause_are_of_an_older_version_and_only_close_their_start() -> None:
    old = end(1)
    del old["cause"]

    found = fold(submit(1.0, 1, "7"), start(1), old)

    assert (found.endings, found.starts) == ((), ())
