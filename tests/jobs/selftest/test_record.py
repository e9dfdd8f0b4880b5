"""The record of a selftest over attempts that trials have ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.contract.files import FormatError, write_json
from jobs.contract.rundir import RunDir
from jobs.selftest import record
from jobs.selftest.record import Record

FACTS = {"device": "cpu", "ranks": 2}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def trials(run: RunDir) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = record.read(run, "selftest")["trials"]
    return found


def test_each_trial_is_recorded_as_it_begins_and_ends(run: RunDir) -> None:
    book = Record(run, "selftest", FACTS)

    book.begin("speeds")
    begun = trials(run)
    book.end("speeds", {"exact": True})
    book.leave_out("layers", "no GPU")

    assert begun == {"speeds": {"state": "begun", "tries": 1}}
    assert trials(run) == {
        "speeds": {"state": "done", "exact": True},
        "layers": {"state": "not run", "reason": "no GPU"},
    }
    assert record.read(run, "selftest")["ranks"] == 2


def test_a_trial_that_ended_its_ranks_has_failed_with_the_error_of_the_lowest(run: RunDir) -> None:
    Record(run, "selftest", FACTS).begin("shape")
    for rank in (1, 0):
        record.write_error(run, "selftest", "shape", rank, RuntimeError(f"out of\n memory {rank}"))

    book = Record(run, "selftest", FACTS)

    assert book.has("shape")
    error = "RuntimeError: out of memory 0"
    assert trials(run) == {"shape": {"state": "failed", "error": error, "tries": 1}}


def test_ranks_that_died_without_a_word_try_once_more_before_their_trial_has_failed(
    run: RunDir,
) -> None:
    Record(run, "selftest", FACTS).begin("shape")

    second = Record(run, "selftest", FACTS)
    again = not second.has("shape")
    second.begin("shape")
    third = Record(run, "selftest", FACTS)

    assert again
    assert third.has("shape")
    assert trials(run)["shape"] == {"state": "failed", "error": record.DIED, "tries": 2}


def test_a_trial_that_was_stopped_on_request_was_no_try(run: RunDir) -> None:
    book = Record(run, "selftest", FACTS)
    book.begin("shape")

    book.withdraw("shape")

    assert trials(run) == {}


def test_a_run_without_ranks_so_far_has_an_empty_record(run: RunDir) -> None:
    assert record.read(run, "selftest") == {}


def test_a_damaged_record_is_refused(run: RunDir) -> None:
    path = run.path("selftest") / record.RESULTS
    path.parent.mkdir()
    write_json(path, {"trials": []})

    with pytest.raises(FormatError, match="it has no trials"):
        record.read(run, "selftest")
