"""How a start ended, told by somebody who was not there."""

from __future__ import annotations

from jobs.contract import attempt_history
from jobs.contract.events import StartEvent, append_event
from jobs.contract.job import Job
from jobs.contract.outcomes import Decision, Diagnosis, RetryAction, RootCause
from jobs.supervision import attempt_records
from jobs.supervision.attempt_records import AttemptRef
from jobs.supervision.diagnosis import postmortem
from jobs.supervision.diagnosis.evidence import AttemptFacts, Evidence

from ..conftest import Workbench
from .endings import AFTERWARDS, NOW

START = StartEvent(NOW - 600, "curate", 0, 1, "12", NOW - 600, nodes=("gpu01",))
SEEN = Diagnosis(RootCause.TIME_LIMIT, "job 12 came to its time limit", "", "", "save earlier")


def place(bench: Workbench) -> AttemptRef:
    return AttemptRef(bench.run, "curate", 0, 1, NOW - 600)


def record(bench: Workbench) -> None:
    """Leave the record of a supervisor that could submit nothing."""
    append_event(bench.run, "submit", stage="curate", indices=[0], attempt=1, job_ids=["12"])
    decision = Decision(RetryAction.WAIT, "the login node goes on", verdict=SEEN)
    evidence = Evidence(AttemptFacts("curate", 1, "12", NOW - 600, NOW))
    record = attempt_records.exit_record(place(bench), Job("12"), evidence, decision)
    attempt_records.record_exit(bench.run, record)


def examine(bench: Workbench) -> Evidence:
    past = attempt_history.read(bench.run).task("curate", 0)
    return postmortem.examine(bench.run, START, None, None, AFTERWARDS, past)


def test_what_the_supervisor_has_said_of_the_end_is_kept(bench: Workbench) -> None:
    record(bench)

    found = examine(bench)

    assert (found.observed.diagnosis, found.attempt.ended) == (SEEN, NOW)
    assert attempt_history.read(bench.run).task("curate", 0).exits == ()


def test_a_supervisor_that_died_has_said_nothing(bench: Workbench) -> None:
    assert examine(bench).observed.diagnosis is None
