"""`meditron status`, from the run directories and two questions at most."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from jobs.contract.events import append_event
from jobs.contract.files import FORMAT, write_json
from jobs.contract.rundir import RunDir
from meditron_cli.reporting import follow
from meditron_cli.reporting.goodput import BUCKETS
from meditron_cli.runs import state
from meditron_cli.scheduler.base import JobInfo, JobState

from ...conftest import Bench
from ...jobs.checkpoint_files import write_checkpoint
from ...progress_files import write_progress
from ..task_records import TaskRecords, interrupt_once


def state_of(meditron: Bench) -> str:
    found: dict[str, Any] = json.loads(meditron("status", "--json").stdout)["runs"][0]
    return str(found["state"])


def test_no_runs_is_an_answer(meditron: Bench) -> None:
    result = meditron("status")

    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith(f"no runs in {meditron.runs}")


def test_truncated_prompts_are_warned_about(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    result = {"benchmark": "quiz", "checkpoint_step": 20, "n": 6, "accuracy": 0.5, "chance": 0.25,
              "ci95": [0.2, 0.8], "p_value": 0.1, "truncated": 2, "prompts": 18}  # fmt: skip
    write_json(meditron.run().path("evaluations/quiz/last/results.json"), result)

    shown = meditron("status", meditron.run().name)
    as_json = json.loads(meditron("status", meditron.run().name, "--json").stdout)

    warning = (
        "quiz/last: 2 of 18 prompts had more tokens than the model reads and lost their beginning"
    )
    assert f"warning: {warning}\n" in shown.stderr
    assert as_json["runs"][0]["warnings"] == [warning]


def test_json_has_exactly_the_promised_keys(meditron: Bench) -> None:
    meditron.submit(stage="curate")

    found = json.loads(meditron("status", "--json").stdout)

    assert found == {
        "format": 1,
        "runs": [
            {
                "run": meditron.run().name,
                "state": "pending",
                "stopping": False,
                "cluster": "local",
                "stages": {
                    "curate": {
                        "state": "pending",
                        "done": 0,
                        "total": 1,
                        "step": None,
                        "target_step": None,
                        "tokens": None,
                        "target_tokens": None,
                        "attempts": 1,
                        "pending_reason": "",
                        "expected_start": None,
                    }
                },
                "loss": None,
                "eta_s": None,
                "goodput": None,
            }
        ],
    }


def test_a_run_that_saves_and_stops_is_shown_as_such_until_its_jobs_have_ended(
    meditron: Bench, training: RunDir
) -> None:
    before = meditron("status").stdout

    meditron("cancel", training.name, "--save")
    row = " ".join(meditron("status").stdout.splitlines()[1].split())
    one = meditron("status", training.name).stdout
    found = json.loads(meditron("status", "--json").stdout)["runs"][0]
    meditron.scheduler.put_stage("pretrain", JobState.ENDED)

    assert "saves and stops" not in before
    assert row.startswith(f"{training.name} running (saves and stops) pretrain")
    assert one.startswith(f"run {training.name}: running (saves and stops)\n")
    assert (found["state"], found["stopping"]) == ("running", True)
    assert "saves and stops" not in meditron("status").stdout


def test_a_run_whose_jobs_are_being_cancelled_is_shown_as_such(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    run = meditron.run()
    meditron("cancel", run.name)
    meditron.scheduler.put_stage("curate", JobState.ACTIVE, "COMPLETING")

    assert "running (is being cancelled)" in meditron("status").stdout


def test_only_stages_that_read_the_file_stop_are_shown_as_stopping(meditron: Bench) -> None:
    meditron.submit()
    meditron.scheduler.put_stage("curate", JobState.ACTIVE)
    meditron.run().stop_file.touch()

    assert "stops" not in meditron("status").stdout


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("Priority", ""),
        (
            "JobHeldUser",
            "curate: its owner holds job 101_0\nhint: `scontrol release 101` lets it start\n",
        ),
        (
            "launch failed requeued held",
            "curate: Slurm holds job 101_0, after a failed launch\n"
            "hint: `meditron resume {run}` releases it\n",
        ),
        (
            "JobHeldAdmin",
            "curate: Slurm holds job 101_0, as an administrator asked or a launch failed\n"
            "hint: `meditron resume {run}` releases it\n",
        ),
    ],
)
def test_a_pending_job_shows_slurms_reason_and_expected_start(
    meditron: Bench, reason: str, advice: str
) -> None:
    meditron.submit(stage="curate")
    start = datetime(2026, 1, 2, 3, 4).timestamp()
    info = JobInfo("101_0", JobState.QUEUED, "PENDING", reason, start)
    meditron.scheduler.jobs["101_0"] = info
    run = meditron.run().name

    every, one = meditron("status").stdout, meditron("status", run).stdout
    stage = json.loads(meditron("status", "--json").stdout)["runs"][0]["stages"]["curate"]

    assert f"pending ({reason})" in every
    assert f"pending ({reason})" in one
    assert "curate: starts about 2026-01-02 03:04, as Slurm estimates\n" in one
    assert advice.format(run=run) in one
    assert (stage["pending_reason"], stage["expected_start"]) == (reason, start)


def test_training_shows_step_loss_and_time_left(
    meditron: Bench, finish: Callable[..., None]
) -> None:
    meditron.submit()
    run = meditron.run()
    finish(run, "curate", 0)
    finish(run, "tokenize", 0, 1, 2)
    finish(run, "index", 0)
    meditron.scheduler.put_stage("pretrain", JobState.ACTIVE)
    target = 600 * 32 * 128
    write_progress(
        run,
        "pretrain",
        time=meditron.clock.time,
        done=150,
        tokens=target // 4,
        target_tokens=target,
        loss=3.25,
        tokens_per_s=target / 400,
    )

    result = meditron("status")

    assert result.stdout.splitlines()[1].split() == [
        run.name, "running", "pretrain", "150/500", "steps", "3.25", "5m", "00s",
    ]  # fmt: skip


def test_a_scheduler_that_does_not_answer_makes_a_run_unknown(meditron: Bench) -> None:
    meditron.submit()
    meditron.scheduler.silent = True

    assert state_of(meditron) == "unknown"


def test_a_task_that_ends_between_the_two_reads_is_not_taken_for_failed(
    meditron: Bench, finish: Callable[..., None]
) -> None:
    meditron.submit(stage="curate")

    def end() -> None:
        finish(meditron.run(), "curate", 0)
        meditron.scheduler.put_stage("curate", JobState.ENDED, "COMPLETED")

    meditron.scheduler.when_asked = end

    assert state_of(meditron) == "succeeded"


def test_a_cancelled_array_member_is_missing_not_running(
    meditron: Bench, finish: Callable[..., None]
) -> None:
    meditron.submit()
    finish(meditron.run(), "curate", 0)
    meditron.scheduler.put_stage("tokenize", JobState.ACTIVE)
    del meditron.scheduler.jobs["102_1"]
    for index in (0, 2):
        finish(meditron.run(), "tokenize", index)
    meditron.clock.time = time.time() + 1_000

    stages = json.loads(meditron("status", "--json").stdout)["runs"][0]["stages"]

    assert (stages["tokenize"]["state"], stages["tokenize"]["done"]) == ("failed", 2)


def test_one_run_shows_its_last_error_and_what_to_do(
    meditron: Bench, fail: Callable[..., None]
) -> None:
    meditron.submit()
    run = meditron.run()
    fail(run, "curate", 0)

    result = meditron("status", run.name)

    assert result.exit_code == 0
    assert result.stdout.splitlines()[-3:] == [
        "curate task 0: docs.jsonl:7: no text",
        "hint: fix the line",
        f"hint: `meditron resume {run.name}` continues it",
    ]


def table_row(meditron: Bench, *cells: str) -> str:
    """Return the first line of `meditron status RUN` with these cells first, single-spaced."""
    lines = meditron("status", meditron.run().name).stdout.splitlines()
    rows = [" ".join(line.split()) for line in lines]
    return next(row for row in rows if row.startswith(" ".join(cells)))


@pytest.mark.parametrize(
    ("state_now", "word", "shown"),
    [
        (JobState.ACTIVE, "RUNNING", "running -"),
        (JobState.QUEUED, "PENDING", "not recorded pending"),
        (JobState.ENDED, "CANCELLED by 1000", "not recorded cancelled"),
        (JobState.ENDED, "NODE_FAIL", "not recorded failed"),
        (JobState.UNKNOWN, "", "not recorded unknown"),
    ],
)
def test_attempt_without_a_recorded_end_runs_only_while_its_job_does(
    resumed: TaskRecords, meditron: Bench, state_now: JobState, word: str, shown: str
) -> None:
    meditron.scheduler.put_stage("pretrain", state_now, word)
    meditron.clock.time = resumed.zero + 1_000

    assert table_row(meditron, "pretrain 0 2").endswith(shown)


def test_suspended_training_has_no_time_left(meditron: Bench, finish: Callable[..., None]) -> None:
    meditron.submit()
    run = meditron.run()
    finish(run, "curate", 0)
    finish(run, "tokenize", 0, 1, 2)
    finish(run, "index", 0)
    meditron.scheduler.put_stage("pretrain", JobState.ACTIVE, "SUSPENDED")
    now = meditron.clock.time
    write_progress(run, "pretrain", tokens=1, target_tokens=9, tokens_per_s=1.0, time=now)

    assert json.loads(meditron("status", "--json").stdout)["runs"][0]["eta_s"] is None


def test_failed_tasks_of_many_are_counted(
    meditron: Bench, finish: Callable[..., None], fail: Callable[..., None]
) -> None:
    meditron.submit(stage="pipeline")
    run = meditron.run()
    finish(run, "curate", 0)
    finish(run, "tokenize", 0, 2)
    fail(run, "tokenize", 1)

    assert table_row(meditron, "tokenize failed").startswith(
        "tokenize failed 1 of 3 tasks failed, 2 done"
    )


def test_running_task_shows_how_far_it_is(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    meditron.scheduler.put_stage("curate", JobState.ACTIVE)
    run = meditron.run()
    amount = {"done": 516_000_000, "total": 1_200_000_000, "unit": "bytes"}
    write_progress(run, "curate", **amount)

    shown = meditron("status").stdout
    write_progress(run, "curate", **amount, attempt=9)

    assert "0/1 task, 43% of 1.2 GB" in shown
    assert "43%" not in meditron("status").stdout


def test_stages_behind_a_failed_one_have_one_line(
    meditron: Bench, fail: Callable[..., None]
) -> None:
    """The jobs of some have ended, as those of this machine do; others wait in Slurm for ever."""
    meditron.submit()
    run = meditron.run()
    fail(run, "curate", 0)
    for stage in ("curate", "tokenize"):
        meditron.scheduler.put_stage(stage, JobState.ENDED, "FAILED")
    for stage in ("pretrain", "evaluate"):
        meditron.scheduler.put_stage(stage, JobState.QUEUED, "PENDING", state.NEVER)
    meditron.clock.time = time.time() + 1_000

    shown = meditron("status", run.name).stdout
    as_json = one(meditron)

    assert shown.endswith(
        "\ntokenize, index, pretrain, evaluate: wait for curate, which failed\n"
        "curate task 0: docs.jsonl:7: no text\n"
        "hint: fix the line\n"
        f"hint: `meditron resume {run.name}` continues it\n"
    )
    assert [error["stage"] for error in as_json["errors"]] == ["curate"]
    stages = ["tokenize", "index", "pretrain", "evaluate"]
    assert as_json["blocked"] == [{"stages": stages, "origin": "curate", "state": "failed"}]


def test_the_same_error_of_several_tasks_is_shown_once(
    meditron: Bench, finish: Callable[..., None], fail: Callable[..., None]
) -> None:
    meditron.submit()
    run = meditron.run()
    finish(run, "curate", 0)
    for index in (0, 2):
        fail(run, "tokenize", index)

    lines = meditron("status", run.name).stdout.splitlines()

    assert lines[-4:] == [
        "index, pretrain, evaluate: wait for tokenize, which failed",
        "tokenize tasks 0, 2: docs.jsonl:7: no text",
        "hint: fix the line",
        f"hint: `meditron resume {run.name}` continues it",
    ]


def test_a_held_task_of_a_stage_that_runs_is_shown(meditron: Bench) -> None:
    """The stage runs, and cannot finish."""
    meditron.submit()
    meditron.scheduler.put_stage("tokenize", JobState.ACTIVE)
    for job in ("102_1", "102_2"):
        meditron.scheduler.put(job, JobState.QUEUED, "PENDING", "JobHeldUser")

    assert meditron("status", meditron.run().name).stdout.splitlines()[-2:] == [
        "tokenize: its owner holds job 102_1 and 1 more",
        "hint: `scontrol release 102` lets it start",
    ]


def test_an_unconfirmed_submission_is_shown_with_what_to_do(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    run = meditron.run()
    append_event(run, "intent", stage="curate", attempt=2, indices=[0], scheduler="slurm")

    assert one(meditron)["unconfirmed"] == ["curate"]
    lines = meditron("status", run.name).stdout.splitlines()

    assert lines[-2:] == [
        "curate: the submission is unconfirmed: it is in progress, was killed, or got no answer",
        f"hint: `meditron resume {run.name}` completes it, `meditron cancel {run.name}` withdraws "
        "it",
    ]


@pytest.fixture
def unrecorded(meditron: Bench) -> Bench:
    """Return a run whose first job died before its supervisor wrote anything."""
    meditron.submit(stage="curate")
    meditron.scheduler.put_stage("curate", JobState.ENDED, "FAILED")
    meditron.clock.time = time.time() + 1_000
    log = meditron.run().attempt("curate", 1) / "101_0_0_log.out"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("Traceback (most recent call last):\nMemoryError\n\nsubmitit INFO (x) - end\n")
    log.with_name("7_0_log.out").write_text("finished: curate reached its target\n")  # another's
    return meditron


def test_job_without_an_exit_record_is_explained_by_the_last_line_of_its_log(
    unrecorded: Bench,
) -> None:
    name = unrecorded.run().name

    shown = unrecorded("status", name)
    error = json.loads(unrecorded("status", name, "--json").stdout)["runs"][0]["errors"][0]
    report = json.loads(unrecorded("report", name, "--json").stdout)["errors"]

    message = (
        "job 101_0 ended without an exit record; "
        "the last line of stages/curate/attempts/1/101_0_0_log.out: MemoryError"
    )
    assert f"curate task 0: {message}" in shown.stdout.splitlines()
    assert (error["message"], error["code"]) == (message, 1)
    assert [item["message"] for item in report] == [message]


def test_job_that_died_of_damaged_code_is_explained_by_the_damage(unrecorded: Bench) -> None:
    """Code that cannot be loaded cannot check itself either."""
    run = unrecorded.run()
    for path in run.code.rglob("*.py"):
        path.write_bytes(b"")
    (run.code / "jobs" / "__main__.py").unlink()

    lines = unrecorded("status", run.name).stdout.splitlines()
    error = json.loads(unrecorded("status", run.name, "--json").stdout)["runs"][0]["errors"][0]
    restored = unrecorded("resume", run.name)

    damage = re.escape(f"the run's code in {run.code} is damaged: jobs/__init__.py")
    message = rf"job 101_0 ended without an exit record; {damage} and \d+ more"
    assert re.fullmatch(message, error["message"])
    assert f"curate task 0: {error['message']}" in lines
    (hint,) = [line for line in lines if "meditron resume" in line]
    assert hint == f"hint: `meditron resume {run.name}` restores it"
    assert error["code"] == 2
    assert restored.exit_code == 0
    assert "is damaged" not in unrecorded("status", run.name).stdout


def test_waiting_for_a_job_without_an_exit_record_ends_with_the_last_line_of_its_log(
    unrecorded: Bench,
) -> None:
    sentence, _, code = follow.first_error(unrecorded.services(), unrecorded.reader())

    assert sentence.startswith("curate task 0: job 101_0 ended without")
    assert sentence.endswith(": MemoryError")
    assert code == 1


def test_one_run_in_json_has_its_errors_and_jobs(
    meditron: Bench, fail: Callable[..., None]
) -> None:
    meditron.submit(stage="curate")
    run = meditron.run()
    fail(run, "curate", 0)

    found = json.loads(meditron("status", run.name[:8], "--json").stdout)["runs"][0]

    assert found["jobs"] == {"curate": ["101_0"]}
    assert found["errors"][0]["message"] == "docs.jsonl:7: no text"
    assert found["errors"][0]["class"] == "configuration"


def test_ended_runs_are_not_queried(
    meditron: Bench, finish: Callable[..., None], fail: Callable[..., None]
) -> None:
    meditron.submit(stage="curate")
    finish(meditron.run(), "curate", 0)
    meditron.submit("--new", stage="curate")
    fail(meditron.run(1), "curate", 0)

    meditron("status")

    assert meditron.scheduler.asked == []


def test_a_run_cancelled_long_ago_is_not_queried(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    meditron("cancel", meditron.run().name)
    meditron.clock.time = time.time() + 4_000

    assert state_of(meditron) == "cancelled"
    assert meditron.scheduler.asked == []


def test_a_run_of_an_earlier_format_is_unknown_and_hides_no_other(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    meditron.submit("--new", stage="curate")
    plan = meditron.run().plan
    plan.write_text(plan.read_text().replace(f'"format": {FORMAT}', '"format": 1'))

    result = meditron("status")

    assert [line.split()[1] for line in result.stdout.splitlines()[1:]] == ["unknown", "pending"]
    assert f"format 1, this program reads format {FORMAT}" in result.stderr


def test_a_thousand_runs_cost_one_question(meditron: Bench, finish: Callable[..., None]) -> None:
    meditron.submit(stage="curate")
    live = meditron.run()
    shutil.rmtree(live.code)
    finish(live, "curate", 0)
    for number in range(2, 1001):
        shutil.copytree(live.root, live.root.with_name(f"{live.name}-{number}"))
    for number in range(2, 102):
        RunDir(live.root.with_name(f"{live.name}-{number}")).done("curate", 0).unlink()

    result = meditron("status", "--json")

    states = [run["state"] for run in json.loads(result.stdout)["runs"]]
    assert (len(states), states.count("succeeded"), states.count("pending")) == (1000, 900, 100)
    assert len(meditron.scheduler.asked) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "no run is called 'absent' in {runs}"),
        ("../trial", "no run is called '../trial' in {runs}"),
    ],
)
def test_a_run_that_is_not_there(meditron: Bench, name: str, message: str) -> None:
    meditron.runs.mkdir()

    result = meditron("status", name)

    assert result.exit_code == 2
    assert result.stderr == (
        f"error: {message.format(runs=meditron.runs)}\nhint: `meditron status` lists the runs\n"
    )


def test_a_misspelt_run_is_answered_with_the_right_name(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    name = meditron.run().name

    result = meditron("status", name.replace("trial", "trail"))

    assert f"; did you mean '{name}'?" in result.stderr


def test_watching_ends_with_an_interruption(meditron: Bench) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    meditron.clock.when_slept = interrupt

    result = meditron("status", "--watch")

    assert result.exit_code == 130
    assert result.stderr.endswith("interrupted\n")


@pytest.fixture
def resumed(meditron: Bench, finish: Callable[..., None]) -> TaskRecords:
    """Return a run that was preempted once and trains again, 290 s after it was submitted."""
    meditron.submit()
    run = meditron.run()
    finish(run, "curate", 0)
    finish(run, "tokenize", 0, 1, 2)
    finish(run, "index", 0)
    records = interrupt_once(run)
    meditron.clock.time = records.zero + 290
    meditron.scheduler.put_stage("pretrain", JobState.ACTIVE)
    return records


def one(meditron: Bench) -> dict[str, Any]:
    found = json.loads(meditron("status", meditron.run().name, "--json").stdout)
    assert found["format"] == 1
    run: dict[str, Any] = found["runs"][0]
    return run


def test_json_of_one_run_has_its_attempts_and_interruptions(
    resumed: TaskRecords, meditron: Bench
) -> None:
    found = one(meditron)

    assert (found["state"], found["stages"]["pretrain"]["attempts"]) == ("running", 2)
    assert found["attempts"][1] == {
        "stage": "pretrain", "task": 0, "attempt": 2, "job_id": resumed.job, "restarts": 1,
        "nodes": ["node1", "node2"], "began": resumed.zero + 220, "ended": None, "step_from": 8,
        "step_to": 12, "cause": "", "action": "", "reason": "", "node": "",
    }  # fmt: skip
    assert found["interruptions"] == [
        {
            "stage": "pretrain", "task": 0, "attempt": 1, "job_id": resumed.job, "node": "",
            "cause": "preempted", "action": "requeue", "reason": "the partition was taken",
            "ended": resumed.zero + 180, "detect_s": None, "step": 10, "steps_redone": 2,
            "resume_s": pytest.approx(90.0),
        }
    ]  # fmt: skip


def test_json_of_one_run_has_where_its_time_went(resumed: TaskRecords, meditron: Bench) -> None:
    spent = one(meditron)["time"]

    training = spent["training"]
    assert training["wall_s"] == pytest.approx(290.0)
    assert sum(training[f"{name}_s"] for name in BUCKETS) == pytest.approx(290.0)
    assert one(meditron)["goodput"] == training["goodput"] == pytest.approx(120 / 290)
    assert spent["total_s"] > 290.0
    assert spent["node_hours"] == pytest.approx((160 + 70) / 3600)


def test_one_run_shows_attempts_reason_and_time(resumed: TaskRecords, meditron: Bench) -> None:
    lines = meditron("status", meditron.run().name).stdout.splitlines()

    rows = [" ".join(line.split()) for line in lines]
    assert "goodput: 41%" in rows
    assert "used: 0.06 node-hours" in rows
    assert "last interruption: pretrain attempt 1: the partition was taken" in rows
    assert any(row.endswith("0:02:40 to 10 preempted requeue") for row in rows)
    assert any(row.endswith("0:01:10 8 to 12 running -") for row in rows)
    assert "pretrain 1 preempted 10 2 - 0:01:30" in rows
    assert "queue 0:01:00 20.7% waiting for the scheduler" in rows


def test_the_reason_for_no_retry_is_reported_with_what_to_do(
    resumed: TaskRecords, meditron: Bench
) -> None:
    resumed.exit(
        2, 285, "non_finite", "stop", code=1, message="the loss of step 13 is nan",
        reason="it was no number twice from the same checkpoint", hint="lower the learning rate",
    )  # fmt: skip

    lines = meditron("status", meditron.run().name).stdout.splitlines()

    assert lines[-4:] == [
        "pretrain task 0: the loss of step 13 is nan",
        "it was no number twice from the same checkpoint",
        "hint: lower the learning rate",
        f"hint: `meditron resume {meditron.run().name}` continues it",
    ]


def test_a_job_that_waits_for_ever_is_shown_with_what_helps(
    resumed: TaskRecords, meditron: Bench
) -> None:
    meditron.scheduler.put_stage("evaluate", JobState.QUEUED, "PENDING", state.NEVER)
    run = meditron.run()

    lines = meditron("status", run.name).stdout.splitlines()

    assert f"hint: `meditron resume {run.name}` gives it a new dependency" in lines
    assert one(meditron)["stuck"][0][0] == "evaluate"


def test_the_checkpoint_that_training_would_resume_from_is_shown(
    resumed: TaskRecords, meditron: Bench
) -> None:
    before = one(meditron)["checkpoint_step"]
    write_checkpoint(meditron.run().path("checkpoints"), 8)

    result = meditron("status", meditron.run().name)

    assert before is None
    assert one(meditron)["checkpoint_step"] == 8
    assert "resumes from: the checkpoint of step 8" in result.stdout.splitlines()


def test_a_hint_names_a_runs_directory_that_was_given(meditron: Bench) -> None:
    meditron.submit()
    other = meditron.runs.rename(meditron.folder / "other runs")

    result = meditron("status", "nope", "--runs-dir", str(other))

    assert result.stderr.endswith(f"hint: `meditron status --runs-dir '{other}'` lists the runs\n")
