"""Carrying out a decision, against stand-ins for Slurm's commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.contract import rundir
from jobs.contract.attempt_history import HistoryReader
from jobs.contract.errors import SUCCESSOR
from jobs.contract.events import append_event, read_events
from jobs.contract.job import Job
from jobs.contract.outcomes import Decision, RetryAction
from jobs.slurm import submission
from jobs.slurm.client import Client
from jobs.slurm.submission import Submission
from jobs.supervision.allocation import Allocation
from jobs.supervision.attempt_records import AttemptRef
from jobs.supervision.recovery.actions import ActionRunner

from ... import fake_slurm


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> fake_slurm.FakeSlurm:
    fake = fake_slurm.install(tmp_path / "slurm")
    monkeypatch.setenv("PATH", fake.environ["PATH"])
    return fake


def test_a_requeue_that_slurm_takes_and_does_not_carry_out_is_not_waited_for_for_ever(
    programs: fake_slurm.FakeSlurm, tmp_path: Path
) -> None:
    run = rundir.RunDir(tmp_path / "runs" / "med-tiny-0")
    run.code.mkdir(parents=True)
    asked = Submission(
        stage="pretrain", indices=(0,), attempt=1, python="/venv/bin/python", environment=(),
        parameters={"time": 60, "nodes": 2, "partition": "low", "setup": []}, lead_seconds=60,
        longest_array=100, recovery_job=None,
    )  # fmt: skip
    submission.write(run, asked)
    fields = {"stage": "pretrain", "attempt": 1, "indices": [0], "scheduler": "slurm"}
    append_event(run, "submit", **fields, by="person", job_ids=["50"], recovery_jobs=[])
    programs.tell("requeue")
    place, here = (
        AttemptRef(run, "pretrain", 0, 1, 1.0),
        Allocation(Job("50"), Client(programs.environ)),
    )

    acting = ActionRunner(place, here, HistoryReader(run), lambda: False, requeue_seconds=0.1)
    code = acting.carry_out(Decision(RetryAction.REQUEUE, "it was preempted"))

    assert code == SUCCESSOR
    assert programs.calls("scontrol requeue") == ["scontrol requeue 50"]
    last = [event for event in read_events(run) if event["event"] == "submit"][-1]
    assert (last["by"], last["replaces"]) == ("supervisor", ["50"])


def test_delay_before_a_restart_ends_when_the_run_is_resumed(tmp_path: Path) -> None:
    run = rundir.RunDir(tmp_path / "med-tiny-0")
    run.root.mkdir()
    seconds_that_never_pass = 10_000.0
    polls = iter(range(3))

    def resume() -> bool:
        if next(polls, None) == 1:
            run.resume_file.touch()
        return False

    place, here = AttemptRef(run, "curate", 0, 1, 1.0), Allocation(Job(""), None)
    acting = ActionRunner(place, here, HistoryReader(run), resume)
    decision = Decision(RetryAction.RESTART, "the disk is full", delay=seconds_that_never_pass)

    assert acting.carry_out(decision) is None
