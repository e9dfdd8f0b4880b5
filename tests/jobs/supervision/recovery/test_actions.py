"""Carrying out a decision, against stand-ins for Slurm's commands."""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.contract import rundir
from jobs.contract.errors import FAILED, SUCCESSOR
from jobs.contract.events import append_event, read_events
from jobs.contract.job import Job
from jobs.contract.outcomes import Decision, RetryAction
from jobs.contract.run_reader import RunReader
from jobs.slurm import submission
from jobs.slurm.client import Client
from jobs.slurm.submission import Submission
from jobs.supervision.allocation import Allocation
from jobs.supervision.attempt_records import AttemptRef
from jobs.supervision.recovery.actions import ActionRunner

from .... import fake_slurm

SUBMIT = Decision(RetryAction.SUBMIT, "the disk is full")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> fake_slurm.FakeSlurm:
    fake = fake_slurm.install(tmp_path / "slurm")
    monkeypatch.setenv("PATH", fake.environ["PATH"])
    return fake


@pytest.fixture
def run(tmp_path: Path) -> rundir.RunDir:
    """Return a run whose training was submitted as job 50."""
    run = rundir.RunDir(tmp_path / "runs" / "med-tiny-0")
    run.code.mkdir(parents=True)
    submitted = Submission(
        stage="pretrain", indices=(0,), attempt=1, python="/venv/bin/python", environment=(),
        parameters={"time": 60, "nodes": 2, "partition": "low", "setup": []}, lead_seconds=60,
        longest_array=100, recovery_job=None,
    )  # fmt: skip
    submission.write(run, submitted)
    fields = {"stage": "pretrain", "attempt": 1, "indices": [0], "scheduler": "slurm"}
    append_event(run, "submit", **fields, by="person", job_ids=["50"], recovery_jobs=[])
    return run


def runner_of(
    run: rundir.RunDir,
    programs: fake_slurm.FakeSlurm,
    is_interrupted: Callable[[], bool],
    **more: float,
) -> ActionRunner:
    attempt = AttemptRef(run, "pretrain", 0, 1, 1.0)
    allocation = Allocation(Job("50"), Client(programs.environ))
    return ActionRunner(attempt, allocation, RunReader(run), is_interrupted, **more)


def test_a_disk_without_room_for_an_event_is_waited_for_before_a_job_is_submitted(
    programs: fake_slurm.FakeSlurm, run: rundir.RunDir
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # stands for a full disk

    def free() -> bool:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        return False

    code = runner_of(run, programs, free).execute(Decision(RetryAction.SUBMIT, "the disk is full"))

    assert code == SUCCESSOR
    kinds = [event["event"] for event in read_events(run)]
    assert kinds == ["submit", "intent", "submit"]


def test_storage_that_refuses_files_to_the_end_gives_the_job_back_to_the_queue(
    programs: fake_slurm.FakeSlurm, run: rundir.RunDir
) -> None:
    programs.tell("requeue")
    run.lock.mkdir()  # a folder in a file's place stands for storage that takes nothing
    limits = {"requeue_seconds": 0.0, "storage_seconds": 0.0}

    code = runner_of(run, programs, lambda: False, **limits).execute(SUBMIT)

    assert code == SUCCESSOR
    assert programs.calls("scontrol requeue") == ["scontrol requeue 50"]
    assert [event["event"] for event in read_events(run)] == ["submit"]


def test_a_requeue_because_of_the_storage_is_marked_in_the_comment_of_the_job(
    programs: fake_slurm.FakeSlurm, run: rundir.RunDir
) -> None:
    programs.tell("requeue")
    programs.tell("job-50", f"JobId=50 JobState=RUNNING Comment=run={run.name},attempt=1\n")
    run.lock.mkdir()
    limits = {"requeue_seconds": 0.0, "storage_seconds": 0.0}

    codes = [runner_of(run, programs, lambda: False, **limits).execute(SUBMIT) for _ in range(2)]

    assert codes == [SUCCESSOR, SUCCESSOR]
    mark = f"scontrol update JobId=50 Comment=run={run.name},attempt=1,storage=0"
    changes = [line for line in programs.calls("scontrol") if "show" not in line]
    assert changes == 2 * [mark, "scontrol requeue 50"]


def test_a_comment_that_is_not_ours_is_not_changed_before_a_requeue(
    programs: fake_slurm.FakeSlurm, run: rundir.RunDir
) -> None:
    programs.tell("requeue")
    programs.tell("job-50", "JobId=50 JobState=RUNNING Comment=mine\n")
    run.lock.mkdir()
    limits = {"requeue_seconds": 0.0, "storage_seconds": 0.0}

    assert runner_of(run, programs, lambda: False, **limits).execute(SUBMIT) == SUCCESSOR
    assert programs.calls("scontrol update") == []


def test_the_time_waited_to_record_an_exit_is_not_waited_again_to_submit(
    programs: fake_slurm.FakeSlurm, run: rundir.RunDir, capfd: pytest.CaptureFixture[str]
) -> None:
    run.lock.mkdir()
    runner = runner_of(run, programs, lambda: False, requeue_seconds=0.0, storage_seconds=0.1)
    time.sleep(0.2)

    assert runner.execute(SUBMIT) == FAILED
    assert "waiting for the storage" not in "".join(capfd.readouterr())


def test_a_stop_request_ends_the_wait_for_storage_without_a_requeue(
    programs: fake_slurm.FakeSlurm, run: rundir.RunDir
) -> None:
    run.lock.mkdir()

    assert runner_of(run, programs, lambda: True).execute(SUBMIT) == FAILED
    assert programs.calls("scontrol requeue") == []


def test_a_removed_run_is_neither_waited_for_nor_requeued(
    programs: fake_slurm.FakeSlurm, run: rundir.RunDir
) -> None:
    programs.tell("requeue")
    shutil.rmtree(run.root)

    assert runner_of(run, programs, lambda: False).execute(SUBMIT) == FAILED
    assert programs.calls("scontrol requeue") == []


def test_a_requeue_that_slurm_accepts_and_does_not_execute_is_not_waited_for_without_end(
    programs: fake_slurm.FakeSlurm, run: rundir.RunDir
) -> None:
    programs.tell("requeue")

    runner = runner_of(run, programs, lambda: False, requeue_seconds=0.1)
    code = runner.execute(Decision(RetryAction.REQUEUE, "it was preempted"))

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

    attempt, allocation = AttemptRef(run, "curate", 0, 1, 1.0), Allocation(Job(""), None)
    acting = ActionRunner(attempt, allocation, RunReader(run), resume)
    decision = Decision(RetryAction.RESTART, "the disk is full", delay=seconds_that_never_pass)

    assert acting.execute(decision) is None
