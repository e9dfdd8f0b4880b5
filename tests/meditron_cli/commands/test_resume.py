"""`meditron resume` of a run whose jobs only wait before their next attempt."""

from __future__ import annotations

import pytest

from jobs.contract.rundir import RunDir
from meditron_cli.scheduler.base import JobState

from ...conftest import Bench
from ..task_records import TaskRecords


def after_a_failure(meditron: Bench, state: JobState, word: str, reason: str = "") -> TaskRecords:
    """Return a curation whose first attempt ended with a delay before the next."""
    meditron.submit(stage="curate")
    (submitted,) = meditron.events("submit")
    records = TaskRecords(meditron.run(), float(str(submitted["time"])), "curate", 0, "101_0")
    records.start(1, 10)
    records.exit(1, 20, "storage", "restart", delay=3600.0)
    meditron.scheduler.put_stage("curate", state, word, reason)
    return records


RELEASED = "curate: job 101_0 waited before the next attempt, which starts now\n"


def test_resume_ends_the_delay_of_a_job_that_waits_in_its_allocation(meditron: Bench) -> None:
    after_a_failure(meditron, JobState.ACTIVE, "RUNNING")

    result = meditron("resume", meditron.run().name)

    assert result.stderr == RELEASED
    assert meditron.run().resume_file.exists()
    assert meditron.scheduler.started_now == []


def test_resume_drops_the_start_time_of_a_pending_job(meditron: Bench) -> None:
    after_a_failure(meditron, JobState.QUEUED, "PENDING", "BeginTime")

    result = meditron("resume", meditron.run().name)

    assert result.stderr == RELEASED
    assert meditron.scheduler.started_now == ["101_0"]
    assert not meditron.run().resume_file.exists()


def test_submit_again_ends_the_delay_too(meditron: Bench) -> None:
    after_a_failure(meditron, JobState.ACTIVE, "RUNNING")

    assert RELEASED in meditron.submit(stage="curate").stderr


@pytest.mark.parametrize(
    ("state", "word", "reason"),
    [(JobState.QUEUED, "PENDING", "Priority"), (JobState.ACTIVE, "RUNNING", "")],
)
def test_resume_does_not_touch_a_job_that_does_not_wait(
    meditron: Bench, state: JobState, word: str, reason: str
) -> None:
    records = after_a_failure(meditron, state, word, reason)
    records.start(2, 40)

    result = meditron("resume", meditron.run().name)

    assert result.stderr.startswith("nothing to submit: curate has job 101_0")
    assert meditron.scheduler.started_now == []
    assert not meditron.run().resume_file.exists()


def test_resume_of_a_run_at_work_prints_one_line(meditron: Bench) -> None:
    meditron.submit(stage="pipeline")
    meditron.scheduler.put_stage("curate", JobState.ACTIVE, "RUNNING")
    for stage in ("tokenize", "index", "pretrain", "evaluate"):
        meditron.scheduler.put_stage(stage, JobState.QUEUED, "PENDING", "Dependency")

    result = meditron("resume", meditron.run().name)

    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == (
        "nothing to submit: curate has job 101_0 (active), "
        "tokenize has job 102_0 and 2 more (queued: Dependency), "
        "index has job 103_0 (queued: Dependency), "
        "pretrain has job 104_0 (queued: Dependency), "
        "evaluate has job 105_0 and 1 more (queued: Dependency)\n"
    )


def test_resume_reports_that_it_withdraws_a_stop_request(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    meditron.scheduler.put_stage("curate", JobState.ACTIVE, "RUNNING")
    meditron.run().stop_file.touch()

    result = meditron("resume", meditron.run().name)

    assert result.stderr == (
        "nothing to submit: curate has job 101_0 (active); the request to save and stop is "
        "withdrawn\n"
    )
    assert not meditron.run().stop_file.exists()


@pytest.mark.parametrize(
    ("words", "ending"),
    [(["cancel", "--save"], "saves and stops"), (["cancel"], "is being cancelled")],
)
def test_resume_of_a_run_that_is_ending_as_requested_changes_nothing(
    meditron: Bench, training: RunDir, words: list[str], ending: str
) -> None:
    """Its ranks have received the request, and jobs behind them would never start."""
    meditron(*words, training.name)
    meditron.scheduler.put_stage("pretrain", JobState.ACTIVE, "COMPLETING")
    before, dismissed = training.events.read_bytes(), list(meditron.scheduler.dismissed)

    results = [meditron("resume", training.name), meditron.submit()]

    for result in results:
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.endswith(
            f"error: run {training.name} is ending as requested: pretrain {ending}\n"
            f"hint: `meditron resume {training.name}` once it has ended; "
            f"`meditron cancel {training.name}` ends it at once\n"
        )
    assert training.events.read_bytes() == before
    assert training.stop_file.exists() == (words != ["cancel"])
    assert meditron.scheduler.dismissed == dismissed


def test_resume_of_a_run_whose_running_jobs_have_a_stop_file_keeps_it(
    meditron: Bench, training: RunDir
) -> None:
    training.stop_file.touch()

    result = meditron("resume", training.name)

    assert result.exit_code == 2
    assert "pretrain saves and stops" in result.stderr
    assert training.stop_file.exists()


@pytest.mark.parametrize("words", [["cancel", "--save"], ["cancel"]])
@pytest.mark.parametrize("state", [JobState.ACTIVE, JobState.QUEUED])
def test_resume_replaces_jobs_that_end_by_request_before_they_begin(
    meditron: Bench, training: RunDir, words: list[str], state: JobState
) -> None:
    """On this machine a job of a later stage is active while it waits, and ends a moment after the
    one before it.
    """
    meditron(*words, training.name)
    meditron.scheduler.put_stage("pretrain", JobState.ENDED)
    meditron.scheduler.put_stage("evaluate", state)

    result = meditron("resume", training.name)

    assert result.exit_code == 0, result.stderr
    jobs = {event["stage"]: event["job_ids"] for event in meditron.events("submit")}
    assert result.stdout == "".join(
        f"{stage}: {', '.join(jobs[stage] if stage in ('pretrain', 'evaluate') else [])}\n"
        if stage in ("pretrain", "evaluate")
        else f"{stage}: finished already\n"
        for stage in ("curate", "tokenize", "index", "pretrain", "evaluate")
    )
    assert {event["attempt"] for event in meditron.events("submit")[-2:]} == {2}


def test_resume_of_a_stopped_run_reports_no_withdrawal(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    meditron.scheduler.put_stage("curate", JobState.ENDED, "COMPLETED")
    meditron.run().stop_file.touch()

    result = meditron("resume", meditron.run().name)

    assert (result.stdout, result.stderr) == ("curate: 102_0\n", "")


@pytest.mark.parametrize("command", [("resume",), ("recover", "--once")])
@pytest.mark.parametrize("reason", ["launch failed requeued held", "JobHeldAdmin"])
def test_a_job_held_after_a_failed_launch_is_released(
    meditron: Bench, command: tuple[str, ...], reason: str
) -> None:
    meditron.submit(stage="curate")
    meditron.scheduler.put_stage("curate", JobState.QUEUED, "PENDING", reason)

    result = meditron(command[0], meditron.run().name, *command[1:])

    sentence = "released job 101_0, held by Slurm after a failed launch"
    assert sentence in result.stdout + result.stderr
    assert meditron.scheduler.released == ["101_0"]
    assert [event["job_ids"] for event in meditron.events("release")] == [["101_0"]]


def test_a_job_that_its_owner_holds_is_not_touched(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    meditron.scheduler.put_stage("curate", JobState.QUEUED, "PENDING", "JobHeldUser")

    result = meditron("resume", meditron.run().name)

    assert result.stderr == "nothing to submit: curate has job 101_0 (queued: JobHeldUser)\n"
    assert meditron.scheduler.released == []


def test_recover_does_not_end_a_delay(meditron: Bench) -> None:
    after_a_failure(meditron, JobState.QUEUED, "PENDING", "BeginTime")

    meditron("recover", "--once")

    assert meditron.scheduler.started_now == []
