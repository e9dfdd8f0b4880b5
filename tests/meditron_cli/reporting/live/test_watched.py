"""Pages of the live view, read from run directories that change."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.contract.events import append_event
from jobs.health.monitor import records
from meditron_cli.errors import ConfigError
from meditron_cli.reporting.live.readers import CurveReader, LogReader, ReportReader
from meditron_cli.reporting.live.watched import (
    REPORT_SECONDS,
    TIMES_SECONDS,
    WatchedRun,
    WatchedRuns,
)
from meditron_cli.runs import state
from meditron_cli.scheduler.base import JobState

from .... import metric_lines
from ....conftest import Bench
from ....monitor_reports import write_report
from ....progress_files import write_progress
from ...task_records import TaskRecords, interrupt_once

FINDINGS = [
    {"verdict": "WARN", "subject": {"gpu": 1}},
    {"verdict": "DRAIN", "subject": {"gpu": 1}},
    {"verdict": "OK", "subject": {"gpu": 1}},
    {"verdict": "WARN", "subject": {"gpu": None}},
]
GPU = {"index": 0, "utilisation": 98, "temperature": 61, "power": 650_000}


def report(folder: Path, node: str = "node1", **gpu: object) -> None:
    """Write the report of a node with a GPU that was read and one that was not."""
    newest = [{**GPU, **gpu}, {"index": 1}]
    write_report(folder, node, time=100.0, findings=FINDINGS, newest=newest)


@pytest.fixture
def trained(meditron: Bench, finish: Callable[..., None]) -> TaskRecords:
    """Return a run that was preempted once and trains again, 290 s after it was submitted."""
    meditron.submit()
    run = meditron.run()
    finish(run, "curate", 0)
    finish(run, "tokenize", 0, 1, 2)
    finish(run, "index", 0)
    found = interrupt_once(run)
    meditron.clock.time = found.zero + 290
    meditron.scheduler.put_stage("pretrain", JobState.ACTIVE)
    return found


def page(meditron: Bench, watched: WatchedRun | WatchedRuns, later: float = 0.0) -> Any:
    """Return the page once a query that was due has ended."""
    meditron.clock.time += later
    found = watched.read(meditron.clock.now())
    while watched.poll.asked.asking:
        found = watched.read(meditron.clock.now())
    return found


def test_a_run_has_its_curve_speed_attempts_and_goodput(
    meditron: Bench, trained: TaskRecords
) -> None:
    metric_lines.append(trained.run, metric_lines.period(12, 2, mfu=0.4))
    found = page(meditron, WatchedRun(meditron.services(), trained.run))

    assert found.view.state == "running"
    assert found.training == "pretrain"
    assert found.curve is not None
    assert list(found.curve.steps) == list(range(1, 13))
    assert found.curve.validation == (10, 3.0)
    assert found.speed is not None
    assert found.speed.mfu == 0.4
    assert found.goodput == pytest.approx(120 / 290)
    assert [(item.number, item.cause) for item in found.attempts] == [(1, "preempted"), (2, "")]
    assert found.open_attempts == {("pretrain", 0, 2): "running"}
    assert found.last_steps == {("pretrain", 0, 1): 10, ("pretrain", 0, 2): 12}


def test_new_lines_appear_and_times_are_summed_again_later(
    meditron: Bench, trained: TaskRecords
) -> None:
    watched = WatchedRun(meditron.services(), trained.run)
    before = page(meditron, watched)
    trained.steps(2, 13, 14, begin=280)
    soon, later = page(meditron, watched, 20), page(meditron, watched, 2 * TIMES_SECONDS)

    assert soon.curve is not None
    assert soon.curve.steps[-1] == 14
    assert soon.last_steps == before.last_steps
    assert later.last_steps["pretrain", 0, 2] == 14


def test_a_clock_that_is_set_back_postpones_nothing(meditron: Bench, trained: TaskRecords) -> None:
    watched = WatchedRun(meditron.services(), trained.run)
    meditron.clock.time += 1_000_000
    page(meditron, watched)
    trained.steps(2, 13, 14, begin=280)
    folder = trained.run.attempt("pretrain", 2)
    report(folder)
    (folder / "ranks-00000.log").write_text("first\n")
    found = page(meditron, watched, -1_000_000)

    assert found.last_steps["pretrain", 0, 2] == 14
    assert [node.node for node in found.nodes] == ["node1"]
    assert found.log is not None


def test_a_job_that_ended_before_the_answer_has_its_exit_record(
    meditron: Bench, trained: TaskRecords
) -> None:
    """It is not taken for failed where its record was read before the query ended."""

    def end() -> None:
        trained.exit(2, 300, "preempted", "requeue", last_step=12)
        meditron.scheduler.put_stage("pretrain", JobState.QUEUED, "PENDING", "BeginTime")
        meditron.scheduler.when_asked = lambda: None

    meditron.scheduler.when_asked = end
    found = page(meditron, WatchedRun(meditron.services(), trained.run))

    assert found.attempts[-1].cause == "preempted"
    assert found.view.stages["pretrain"].state == "pending"


def test_in_the_list_too_a_job_that_ended_has_its_exit_record(
    meditron: Bench, trained: TaskRecords
) -> None:
    def end() -> None:
        trained.exit(2, 300, "preempted", "submit", last_step=12)
        meditron.scheduler.put_stage("pretrain", JobState.ENDED, "FAILED")
        meditron.scheduler.when_asked = lambda: None

    meditron.scheduler.when_asked = end
    (row,) = page(meditron, WatchedRuns(meditron.services(), meditron.runs)).rows

    assert row.view.stages["pretrain"].state == "stopped"


def test_a_task_that_is_done_before_its_exit_is_recorded_is_closing(
    meditron: Bench, trained: TaskRecords, finish: Callable[..., None]
) -> None:
    finish(trained.run, "pretrain", 0)
    found = page(meditron, WatchedRun(meditron.services(), trained.run))

    assert found.open_attempts == {("pretrain", 0, 2): "succeeded"}


def test_an_event_is_shown_at_once(meditron: Bench, trained: TaskRecords) -> None:
    watched = WatchedRun(meditron.services(), trained.run)
    page(meditron, watched)
    fields = {"code": "load", "verdict": "WARN", "node": "node1", "message": "too many processes"}
    trained.event("alarm", 285, stage="pretrain", index=0, attempt=2, **fields)
    trained.exit(2, 300, "node_fail", "submit", last_step=12)
    found = page(meditron, watched, 15)

    assert [alarm.code for alarm in found.alarms] == ["load"]
    assert found.attempts[-1].cause == "node_fail"
    assert found.open_attempts == {}


def test_a_run_that_ends_is_asked_about_no_more(
    meditron: Bench, trained: TaskRecords, finish: Callable[..., None]
) -> None:
    watched = WatchedRun(meditron.services(), trained.run)
    page(meditron, watched)
    for stage, count in (("pretrain", 1), ("evaluate", 2), ("export", 1)):
        if stage in watched.read(meditron.clock.now()).view.stages:
            finish(trained.run, stage, *range(count))
    found, calls = page(meditron, watched, 1000), watched.poll.calls
    page(meditron, watched, 1000)

    assert found.view.state == "succeeded"
    assert found.asked.kind == ""
    assert watched.poll.calls == calls


def test_a_run_that_is_removed_is_an_error(meditron: Bench, trained: TaskRecords) -> None:
    watched = WatchedRun(meditron.services(), trained.run)
    page(meditron, watched)
    shutil.rmtree(trained.run.root)

    with pytest.raises(ConfigError, match="the run directory was moved or removed"):
        watched.read(meditron.clock.now())


def test_a_run_that_is_moved_while_it_is_read_is_the_same_error(
    meditron: Bench, trained: TaskRecords, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    meditron.scheduler.when_asked = lambda: trained.run.root.rename(elsewhere) and None

    with pytest.raises(ConfigError, match="the run directory was moved or removed"):
        page(meditron, WatchedRun(meditron.services(), trained.run))


def test_a_log_is_read_again_that_grew_within_a_tick_of_the_file_system(
    meditron: Bench, trained: TaskRecords
) -> None:
    attempt = page(meditron, WatchedRun(meditron.services(), trained.run)).attempts[-1]
    log = trained.run.attempt("pretrain", 2) / "ranks-00000.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    reader = LogReader(trained.run)
    for text in ("first\n", "first\nsecond\n"):
        log.write_text(text)
        os.utime(log, (1000, 1000))
        found = reader.read(attempt, 0)

    assert found is not None
    assert found.lines == ("first", "second")


def hold(meditron: Bench, fail: Callable[..., None]) -> None:
    meditron.scheduler.put_stage("curate", JobState.QUEUED, "PENDING", "JobHeldUser")


def hold_after_launch(meditron: Bench, fail: Callable[..., None]) -> None:
    reason = "launch failed requeued held"
    meditron.scheduler.put_stage("curate", JobState.QUEUED, "PENDING", reason)


def leave_unconfirmed(meditron: Bench, fail: Callable[..., None]) -> None:
    intent = {"stage": "curate", "attempt": 2, "indices": [0], "scheduler": "slurm"}
    append_event(meditron.run(), "intent", **intent)


def let_a_stage_fail(meditron: Bench, fail: Callable[..., None]) -> None:
    fail(meditron.run(), "curate", 0)


def let_a_stage_wait_for_ever(meditron: Bench, fail: Callable[..., None]) -> None:
    meditron.scheduler.put_stage("tokenize", JobState.QUEUED, "PENDING", state.NEVER)


@pytest.mark.parametrize(
    ("change", "count"),
    [
        (hold, 2),
        (hold_after_launch, 2),
        (leave_unconfirmed, 2),
        (let_a_stage_fail, 4),
        (let_a_stage_wait_for_ever, 2),
    ],
)
def test_what_stops_a_run_has_the_words_of_status(
    meditron: Bench, fail: Callable[..., None], change: Callable[..., None], count: int
) -> None:
    meditron.submit()
    run = meditron.run()
    change(meditron, fail)
    found = page(meditron, WatchedRun(meditron.services(), run))
    printed = meditron("status", run.name).stdout.splitlines()

    assert [*found.waiting, *found.errors] == printed[-count:]


def test_a_run_that_cannot_be_read_stays_with_the_reason_until_it_can(
    meditron: Bench, trained: TaskRecords
) -> None:
    watched = WatchedRun(meditron.services(), trained.run)
    page(meditron, watched)
    events, aside = trained.run.events, trained.run.root / "aside"
    events.rename(aside)
    events.mkdir()  # root may read any file
    before = page(meditron, watched, 2)
    events.rmdir()
    aside.rename(events)
    found = page(meditron, watched, 2)

    assert before.problem == f"{events} cannot be read: Is a directory"
    assert [item.number for item in before.attempts] == [1, 2]
    assert found.problem == ""
    assert found.now == before.now + 4


def test_gpus_are_those_of_the_running_attempt(meditron: Bench, trained: TaskRecords) -> None:
    for attempt, used in ((1, 5), (2, 98)):
        report(trained.run.attempt("pretrain", attempt), utilisation=used)
    watched = WatchedRun(meditron.services(), trained.run)
    found = page(meditron, watched)
    report(trained.run.attempt("pretrain", 2), "node2")
    later = page(meditron, watched, REPORT_SECONDS)

    assert [gpu.utilisation for node in found.nodes for gpu in node.gpus] == [98, None]
    assert [node.node for node in later.nodes] == ["node1", "node2"]


def test_a_gpu_has_the_worst_of_its_findings(meditron: Bench, trained: TaskRecords) -> None:
    folder = trained.run.attempt("pretrain", 2)
    report(folder)
    attempts = page(meditron, WatchedRun(meditron.services(), trained.run)).attempts
    (node,) = ReportReader(trained.run).read(attempts[-1:])

    assert [gpu.verdict for gpu in node.gpus] == ["", "DRAIN"]
    assert [gpu.power_w for gpu in node.gpus] == [650.0, None]


def test_monitors_and_logs_are_read_while_slurm_is_silent(
    meditron: Bench, trained: TaskRecords
) -> None:
    meditron.scheduler.silent = True
    folder = trained.run.attempt("pretrain", 2)
    report(folder)
    found = page(meditron, WatchedRun(meditron.services(), trained.run))

    assert found.view.state == "unknown"
    assert found.open_attempts == {("pretrain", 0, 2): "unknown"}
    assert [node.node for node in found.nodes] == ["node1"]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"format": 3}', '{"format": 3, "node": 1, "now": 2, "newest": []}',
                '{"format": 99, "node": "node1", "time": 1, "now": [], "newest": []}']
)  # fmt: skip
def test_a_damaged_report_is_left_out(meditron: Bench, trained: TaskRecords, content: str) -> None:
    folder = trained.run.attempt("pretrain", 2)
    folder.mkdir(parents=True, exist_ok=True)
    records.report_path(folder, 0, "node1").write_text(content)

    assert page(meditron, WatchedRun(meditron.services(), trained.run)).nodes == []


def test_a_run_without_metrics_or_attempts_is_shown(meditron: Bench) -> None:
    meditron.submit()
    found = page(meditron, WatchedRun(meditron.services(), meditron.run()))

    assert (found.training, found.curve, found.attempts, found.log) == ("", None, (), None)


def test_a_log_is_the_one_that_was_written_last(meditron: Bench, trained: TaskRecords) -> None:
    attempt = page(meditron, WatchedRun(meditron.services(), trained.run)).attempts[-1]
    folder = trained.run.attempt("pretrain", 2)
    folder.mkdir(parents=True, exist_ok=True)
    reader = LogReader(trained.run)
    (folder / "ranks-00000.log").write_text("")
    (folder / f"{attempt.job_id}_0_log.out").write_text("submitit INFO (x)\nfirst\n\nsecond\n")
    found = reader.read(attempt, 0)
    (folder / "ranks-00000.log").write_text("x" * 20_000 + "\nthird\n")
    later = reader.read(attempt, 1)

    assert found is not None
    assert found.lines == ("first", "second")
    assert later is not None
    assert (later.name, later.lines) == ("stages/pretrain/attempts/2/ranks-00000.log", ("third",))


@pytest.mark.parametrize("end", ["", "\n"])
def test_of_a_line_longer_than_what_is_read_the_end_is_shown(
    meditron: Bench, trained: TaskRecords, end: str
) -> None:
    attempt = page(meditron, WatchedRun(meditron.services(), trained.run)).attempts[-1]
    folder = trained.run.attempt("pretrain", 2)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ranks-00000.log").write_text("first\n" + "x" * 100_000 + "last" + end)
    found = LogReader(trained.run).read(attempt, 0)

    assert found is not None
    assert [text[-5:] for text in found.lines] == ["xlast"]


def test_of_a_progress_bar_the_last_state_is_a_line(meditron: Bench, trained: TaskRecords) -> None:
    attempt = page(meditron, WatchedRun(meditron.services(), trained.run)).attempts[-1]
    folder = trained.run.attempt("pretrain", 2)
    folder.mkdir(parents=True, exist_ok=True)
    bar = "".join(f"\r{percent}%" for percent in range(100))
    (folder / "ranks-00000.log").write_bytes(f"first\n{bar}\n\x1b[2K\n\x00\xff\n".encode())
    found = LogReader(trained.run).read(attempt, 0)

    assert found is not None
    assert found.lines[:2] == ("first", "99%")


def test_steps_that_are_trained_again_replace_later_ones() -> None:
    lines = [*map(metric_lines.step, range(1, 11)), metric_lines.step(4, 2, loss=9.0)]
    reader = CurveReader()
    reader.add(lines[:10])
    reader.add(lines)

    assert reader.curve is not None
    assert (list(reader.curve.steps), reader.curve.losses[-1]) == ([1, 2, 3, 4], 9.0)


def test_the_list_reads_runs_that_have_ended_only_after_an_event(
    meditron: Bench, fail: Callable[..., None]
) -> None:
    meditron.submit(stage="curate")
    run = meditron.run()
    fail(run, "curate", 0)
    meditron.clock.time = 5_000_000_000.0
    watched = WatchedRuns(meditron.services(), meditron.runs)
    first = watched.read(meditron.clock.now())
    calls = watched.poll.calls
    second = watched.read(meditron.clock.now() + 1000)

    assert [row.view.state for row in (*first.rows, *second.rows)] == ["failed", "failed"]
    assert second.rows[0].view is first.rows[0].view
    assert watched.poll.calls == calls == 0


def test_the_list_follows_runs_that_come_and_go(meditron: Bench) -> None:
    watched = WatchedRuns(meditron.services(), meditron.runs)
    none = watched.read(meditron.clock.now())
    meditron.submit(stage="curate")
    one = watched.read(meditron.clock.now() + 2)
    shutil.rmtree(meditron.run().root)
    gone = watched.read(meditron.clock.now() + 4)

    assert [len(found.rows) for found in (none, one, gone)] == [0, 1, 0]


def test_a_run_that_cannot_be_read_stays_in_the_list(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    meditron.run().plan.write_text("{")
    (row,) = WatchedRuns(meditron.services(), meditron.runs).read(meditron.clock.now()).rows

    assert row.view.state == "unknown"
    assert "damaged" in row.view.problem


def test_the_end_of_a_task_is_estimated_from_its_pace(
    meditron: Bench, finish: Callable[..., None]
) -> None:
    meditron.submit()
    run = meditron.run()
    meditron.begin("curate")
    began = json.loads(run.events.read_text().splitlines()[-1])["began"]
    meditron.clock.time = began + 100
    write_progress(run, "curate", done=1.0, total=4.0, unit="bytes")
    found = page(meditron, WatchedRun(meditron.services(), run))

    assert found.etas == {"curate": pytest.approx(300)}


def test_status_and_the_view_estimate_the_end_from_the_newest_period(
    meditron: Bench, trained: TaskRecords
) -> None:
    now = meditron.clock.now()
    speeds = {"tokens": 1000.0, "target_tokens": 61_000.0, "tokens_per_s": 10.0}
    write_progress(trained.run, "pretrain", time=now - 5, **speeds)
    of_step = page(meditron, WatchedRun(meditron.services(), trained.run)).etas
    metric_lines.append(trained.run, metric_lines.period(12, 2, tokens_per_s=1000.0))
    of_period = page(meditron, WatchedRun(meditron.services(), trained.run)).etas
    status = json.loads(meditron("status", trained.run.name, "--json").stdout)["runs"][0]

    assert of_step == {"pretrain": 6000 - 5}
    assert of_period == {"pretrain": 60 - 5}
    assert status["eta_s"] == 60 - 5


def test_the_curve_of_a_finetuning_has_the_name_of_its_model(
    meditron: Bench, finish: Callable[..., None]
) -> None:
    item = {"id": "q1", "question": "Which?", "choices": ["this", "that"], "answer": 0}
    (meditron.folder / "train.jsonl").write_text(f"{json.dumps(item)}\n")
    model = "{name: %s, data: [{path: train.jsonl}], train_steps: 9}"
    models = ", ".join(model % name for name in ("a", "b"))
    done = meditron.submit("--set", f"finetune={{sequence_length: 64, models: [{models}]}}")
    assert done.exit_code == 0, done.stderr
    run = meditron.run()
    meditron.begin("finetune")
    metric_lines.append(run, metric_lines.step(1, 1), stage="finetune", index=1)
    names = [page(meditron, WatchedRun(meditron.services(), run)).training]
    finish(run, "finetune", 0)
    names.append(page(meditron, WatchedRun(meditron.services(), run)).training)

    assert names == ["finetune a", "finetune b"]
