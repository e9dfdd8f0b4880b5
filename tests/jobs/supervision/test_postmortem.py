"""How a start ended, told by somebody who was not there."""

from __future__ import annotations

import pytest

from jobs.contract.attempt_history import Start
from jobs.contract.events import append_event
from jobs.contract.files import read_json, write_json
from jobs.contract.job import Job
from jobs.contract.outcomes import Decision, Diagnosis, RetryAction, RootCause
from jobs.supervision import attempt_records
from jobs.supervision.attempt_records import AttemptRef
from jobs.supervision.diagnosis import postmortem
from jobs.supervision.diagnosis.evidence import Evidence

from ..conftest import Workbench
from .endings import AFTERWARDS, NOW

START = Start("curate", 0, 1, "12", 0, ("gpu01",), NOW - 600, None)
SEEN = Diagnosis(RootCause.TIME_LIMIT, "job 12 came to its time limit", "", "", "save earlier")


def place(bench: Workbench) -> AttemptRef:
    return AttemptRef(bench.run, "curate", 0, 1, NOW - 600)


def record(bench: Workbench) -> None:
    """Leave the record of a supervisor that could submit nothing."""
    append_event(bench.run, "submit", stage="curate", indices=[0], attempt=1, job_ids=["12"])
    decision = Decision(RetryAction.WAIT, "the login node goes on", verdict=SEEN)
    evidence = Evidence("curate", 1, "12", NOW - 600, NOW)
    attempt_records.record_exit(place(bench), Job("12"), evidence, decision)


def examine(bench: Workbench) -> Evidence:
    return postmortem.examine(bench.run, START, None, None, AFTERWARDS)


def test_what_the_supervisor_has_said_of_the_end_is_kept(bench: Workbench) -> None:
    record(bench)

    assert examine(bench).known == SEEN


def test_a_supervisor_that_died_has_said_nothing(bench: Workbench) -> None:
    assert examine(bench).known is None


@pytest.mark.parametrize("change", [{"cause": "moonlight"}, {"fingerprint": None}])
def test_a_record_of_another_version_says_nothing(
    bench: Workbench, change: dict[str, str | None]
) -> None:
    record(bench)
    path = bench.run.exit_record("curate", 1, 0)
    told = {**read_json(path), **change}
    write_json(path, {name: value for name, value in told.items() if value is not None})

    assert examine(bench).known is None
