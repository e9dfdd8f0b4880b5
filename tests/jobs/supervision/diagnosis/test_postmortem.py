"""Evidence about an attempt whose supervisor is gone."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from jobs.contract import attempt_history
from jobs.contract.events import StartEvent, append_event
from jobs.contract.job import Job
from jobs.contract.metrics_log import MetricsReader
from jobs.contract.outcomes import Decision, Diagnosis, RetryAction, RootCause
from jobs.slurm.client import Client
from jobs.supervision import attempt_records
from jobs.supervision.attempt_records import AttemptRef
from jobs.supervision.diagnosis import postmortem, root_cause
from jobs.supervision.diagnosis.evidence import AttemptFacts, Evidence

from .... import fake_slurm
from ...conftest import Workbench
from ..endings import AFTERWARDS, NOW

START = StartEvent(NOW - 600, "curate", 0, 1, "12", NOW - 600, nodes=("gpu01",))
SEEN = Diagnosis(RootCause.TIME_LIMIT, "job 12 reached its time limit", "", "", "save earlier")


def attempt(bench: Workbench) -> AttemptRef:
    return AttemptRef(bench.run, "curate", 0, 1, NOW - 600)


def record(bench: Workbench) -> None:
    """Leave the record of a supervisor that could submit nothing."""
    append_event(bench.run, "submit", stage="curate", indices=[0], attempt=1, job_ids=["12"])
    decision = Decision(RetryAction.WAIT, "the login node submits", diagnosis=SEEN)
    evidence = Evidence(AttemptFacts("curate", 1, "12", NOW - 600, NOW))
    record = attempt_records.exit_record(attempt(bench), Job("12"), evidence, decision)
    attempt_records.record_exit(bench.run, record)


def examine(bench: Workbench, client: Client | None = None) -> Evidence:
    history = attempt_history.read(bench.run).task("curate", 0)
    metrics = MetricsReader(bench.run, START.stage)
    return postmortem.examine(bench.run, START, None, client, AFTERWARDS, history, metrics)


def requeued(folder: Path, bench: Workbench) -> Client:
    """Return a client of a Slurm that has requeued the job of the attempt."""
    programs = fake_slurm.install(folder / "slurm")
    programs.name_jobs(f"{bench.run.name}.curate")
    began = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(START.began - 10))
    programs.tell("accounting", f"12|REQUEUED|0:0|{began}|{began}|{began}|gpu01\n")
    return Client(programs.environ)


def test_the_diagnosis_of_the_supervisor_is_kept(bench: Workbench) -> None:
    record(bench)

    found = examine(bench)

    assert (found.observed.diagnosis, found.attempt.ended) == (SEEN, NOW)
    assert attempt_history.read(bench.run).task("curate", 0).exits == ()


def test_a_supervisor_that_died_has_no_diagnosis(bench: Workbench) -> None:
    assert examine(bench).observed.diagnosis is None


def test_a_requeued_job_whose_supervisor_recorded_nothing_was_preempted(
    bench: Workbench, tmp_path: Path
) -> None:
    """``scontrol requeue`` may kill the supervisor before it records a signal."""
    diagnosis = root_cause.classify(examine(bench, requeued(tmp_path, bench)))

    assert diagnosis.cause is RootCause.PREEMPTED


@pytest.mark.parametrize(
    ("mark", "cause"), [(",storage=0", RootCause.STORAGE), (",storage=1", RootCause.PREEMPTED)]
)
def test_a_job_that_its_supervisor_requeued_for_the_storage_failed_of_storage(
    bench: Workbench, tmp_path: Path, mark: str, cause: RootCause
) -> None:
    """The mark in the job's comment names the start by its number of restarts."""
    client = requeued(tmp_path, bench)
    comment = f"Comment=run={bench.run.name},attempt=1{mark}"
    (tmp_path / "slurm" / "state" / "job-12").write_text(f"JobId=12 JobState=RUNNING {comment}\n")

    assert root_cause.classify(examine(bench, client)).cause is cause
