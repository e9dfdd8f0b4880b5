"""The display of a run in progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meditron_cli.errors import ConfigError
from meditron_cli.reporting.follow import ProgressBars, ProgressLines, first_error, until_end
from meditron_cli.runs.record import RunRecord, StageRecord
from meditron_cli.runs.state import derive_view
from meditron_cli.runs.views import RunView
from meditron_cli.scheduler.base import JobState

from ...conftest import Bench
from ...progress_files import progress
from ..task_records import TaskRecords


def training(step: int) -> RunView:
    """Return a run that has trained some of 40 steps."""
    written = progress(done=float(step), loss=2.5)
    pretrain = StageRecord("pretrain", range(1), target_step=40, step_tokens=8, progress=written)
    curate = StageRecord("curate", range(1), done={0})
    stages = {"curate": curate, "pretrain": pretrain}
    return derive_view(RunRecord("run", Path("run"), stages=stages), {}, 0.0)


def test_a_log_gets_a_line_for_each_change_and_each_tenth(
    capsys: pytest.CaptureFixture[str],
) -> None:
    board = ProgressLines()

    for step in (1, 2, 3, 4, 5, 7):
        board.show(training(step))

    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        "curate: succeeded 1/1 task",
        "pretrain: stopped 1/40 steps, loss 2.500",
        "pretrain: stopped 4/40 steps, loss 2.500",
    ]
    assert captured.out == ""


def test_bars_count_steps_of_training_and_tasks_of_the_rest(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")  # not those of the terminal that the tests run in
    with ProgressBars() as board:
        board.show(training(10))
        board.show(training(30))

    captured = capsys.readouterr()
    assert "curate succeeded" in captured.err
    assert "30/40 steps, loss 2.500" in captured.err
    assert captured.out == ""


def followed(meditron: Bench, moments: Iterator[Callable[[], None]]) -> str:
    """Follow the run; what happens comes one thing a look, a question to the scheduler apart."""

    def advance() -> None:
        meditron.clock.time += 15
        next(moments, lambda: None)()

    meditron.clock.when_slept = advance
    return until_end(meditron.services(), meditron.reader(), ProgressLines())


@pytest.fixture
def training_run(meditron: Bench, finish: Callable[..., None]) -> TaskRecords:
    """Return a run whose training has begun."""
    meditron.submit()
    run = meditron.run()
    finish(run, "curate", 0)
    finish(run, "tokenize", 0, 1, 2)
    finish(run, "index", 0)
    (submitted,) = [event for event in meditron.events("submit") if event["stage"] == "pretrain"]
    records = TaskRecords(run, float(str(submitted["time"])))
    meditron.clock.time = records.zero
    meditron.scheduler.put_stage("pretrain", JobState.ACTIVE)
    records.start(1, 0)
    return records


def test_following_continues_through_restart_requeue_and_successor(
    training_run: TaskRecords,
    meditron: Bench,
    finish: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    records, scheduler = training_run, meditron.scheduler

    def requeue() -> None:
        records.exit(2, 40, "preempted", "requeue", reason="the partition was taken")
        scheduler.put_stage("pretrain", JobState.QUEUED)

    def succeed() -> None:
        records.exit(3, 80, "time_limit", "submit", reason="its time was over")
        records.submit(81, 4, "900_0")
        scheduler.put_stage("pretrain", JobState.ENDED, "COMPLETED")
        scheduler.put("900_0", JobState.QUEUED)

    def end() -> None:
        records.exit(4, 200, "completed", "finish", code=0)
        finish(records.run, "pretrain", 0)
        finish(records.run, "evaluate", 0, 1)

    state = followed(
        meditron,
        iter(
            [
                lambda: records.exit(
                    1, 10, "crash", "restart", reason="rank 1 was killed by SIGKILL"
                ),
                lambda: records.start(2, 20),
                requeue,
                lambda: records.start(3, 60, restarts=1),
                succeed,
                lambda: records.start(4, 100, job="900_0"),
                end,
            ]
        ),
    )

    stderr = capsys.readouterr().err.splitlines()
    assert state == "succeeded"
    assert [line for line in stderr if " ended: " in line] == [
        "pretrain task 0 attempt 1 ended: crash, restart: rank 1 was killed by SIGKILL",
        "pretrain task 0 attempt 2 ended: preempted, requeue: the partition was taken",
        "pretrain task 0 attempt 3 ended: time limit, submit: its time was over",
    ]
    assert not [line for line in stderr if "failed" in line or "stopped" in line]


def test_following_waits_for_the_recovery_job_of_a_job_that_vanished(
    training_run: TaskRecords, meditron: Bench, finish: Callable[..., None]
) -> None:
    records, scheduler = training_run, meditron.scheduler
    records.submit(1, 1, records.job, recovery_jobs=["700"])
    scheduler.put("700", JobState.QUEUED)

    def vanish() -> None:
        scheduler.put(records.job, JobState.ENDED, "NODE_FAIL")
        scheduler.put("700", JobState.ACTIVE)

    def succeed() -> None:
        records.exit(1, 30, "node_fail", "submit", by="recovery_job")
        records.submit(31, 2, "900_0", by="recovery_job")
        scheduler.put("900_0", JobState.QUEUED)
        scheduler.put("700", JobState.ENDED)

    def end() -> None:
        finish(records.run, "pretrain", 0)
        finish(records.run, "evaluate", 0, 1)

    assert followed(meditron, iter([vanish, succeed, end])) == "succeeded"


def test_following_ends_when_nothing_is_retried(
    training_run: TaskRecords, meditron: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop() -> None:
        training_run.exit(1, 30, "data", "stop", code=1, reason="a token is out of range")

    state = followed(meditron, iter([stop]))

    assert state == "failed"
    assert first_error(meditron.services(), meditron.reader()) == (
        "pretrain task 0: it ended: data",
        "",
        1,
    )
    assert "a token is out of range" in capsys.readouterr().err


def test_following_a_stage_ignores_an_earlier_failure_of_another(
    training_run: TaskRecords, meditron: Bench
) -> None:
    training_run.exit(1, 30, "data", "stop", code=2, reason="a token is out of range")
    services, reader = meditron.services(), meditron.reader()

    tokenized = until_end(services, reader, ProgressLines(), {"curate", "tokenize"})

    assert tokenized == "succeeded"
    assert first_error(services, reader, {"curate", "tokenize"}) == ("", "", 0)
    assert until_end(services, reader, ProgressLines(), {"pretrain"}) == "failed"
    assert first_error(services, reader, {"pretrain"})[2] == 2


def test_bars_have_interruptions_above_them(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBars() as board:
        board.show(training(10))
        board.note("attempt 1 ended: [crash]")

    assert "attempt 1 ended: [crash]" in capsys.readouterr().err


def test_a_run_that_is_moved_away_ends_the_wait(
    meditron: Bench, training_run: TaskRecords, tmp_path: Path
) -> None:
    run = meditron.run()
    moments = iter([lambda: None, lambda: run.root.rename(tmp_path / "elsewhere") and None])

    with pytest.raises(ConfigError, match=r"the run directory was moved or removed$"):
        followed(meditron, moments)

    assert not run.root.exists()
