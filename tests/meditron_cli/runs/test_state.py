"""The state that follows from a run directory and the scheduler's report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contract.attempt_history import RunHistory
from jobs.contract.errors import STOPPED
from jobs.contract.events import Event, StartEvent, SubmitEvent
from jobs.contract.exit_record import ExitRecord
from jobs.contract.files import read_json, write_json
from jobs.contract.outcomes import RetryAction, RootCause
from jobs.contract.rundir import RunDir
from meditron_cli.runs import record
from meditron_cli.runs.open_jobs import (
    FORGET_SECONDS,
    REQUEUE_SECONDS,
    has_ended,
    open_jobs,
    recovery_job_ids,
)
from meditron_cli.runs.record import (
    RecordReader,
    RunRecord,
    StageRecord,
    StopRequest,
    TaskJob,
    exit_records,
    read,
)
from meditron_cli.runs.state import (
    NEVER,
    PRECEDENCE,
    derive_view,
    eta,
    first_of,
    steps_and_tokens,
    stuck_jobs,
    task_state,
)
from meditron_cli.scheduler.base import JobInfo, JobState

from ...progress_files import progress
from ..task_records import TaskRecords

NOW = 10_000.0
LONG_AGO = TaskJob("7", 1, 1_000.0, "slurm")
JUST_NOW = TaskJob("7", 1, NOW - 10, "slurm")
LOCAL = TaskJob("7", 1, NOW - 10, "local")


def report(state: JobState, word: str = "", reason: str = "") -> JobInfo:
    return JobInfo("7", state, word, reason)


def exit_record(code: int, ended: float = 5_000.0, action: str = "", **more: Any) -> ExitRecord:
    """Return the exit record of a task that is not retried; with code 130 it is left open."""
    then = action or ("wait" if code == STOPPED else "stop")
    cause = more.pop("cause", RootCause.CRASH)
    return ExitRecord("pretrain", 0, 1, "7", cause, RetryAction(then), 1.0, ended, code, **more)


def decided(action: str, code: int = 75, cause: str = "crash") -> ExitRecord:
    return exit_record(code, action=action, cause=RootCause(cause))


@pytest.mark.parametrize(
    ("job", "info", "ended", "ending", "expected"),
    [
        (None, None, None, None, "stopped"),
        (LONG_AGO, report(JobState.QUEUED), None, None, "pending"),
        (LONG_AGO, report(JobState.QUEUED, reason=NEVER), None, None, "stopped"),
        (LONG_AGO, report(JobState.ACTIVE), None, None, "running"),
        (LONG_AGO, report(JobState.UNKNOWN), None, None, "unknown"),
        (LONG_AGO, report(JobState.ENDED, "TIMEOUT"), None, None, "failed"),
        (LONG_AGO, report(JobState.ENDED, "CANCELLED by 0"), None, None, "cancelled"),
        (LONG_AGO, report(JobState.ENDED, "CANCELLED"), None, None, "failed"),  # by nobody
        (LONG_AGO, report(JobState.MISSING), None, None, "failed"),
        (JUST_NOW, report(JobState.MISSING), None, None, "pending"),
        (LOCAL, report(JobState.MISSING), None, None, "failed"),
        (LONG_AGO, None, exit_record(1), None, "failed"),
        (LONG_AGO, None, exit_record(2), None, "failed"),
        (LONG_AGO, None, exit_record(0), None, "failed"),
        (LONG_AGO, report(JobState.ENDED), exit_record(130), None, "stopped"),
        (LONG_AGO, report(JobState.QUEUED), exit_record(130), None, "pending"),
        (LONG_AGO, report(JobState.UNKNOWN), exit_record(130), None, "unknown"),
        (LONG_AGO, report(JobState.ENDED), None, StopRequest(2_000.0, "cancelled"), "cancelled"),
        (LONG_AGO, report(JobState.ENDED), None, StopRequest(2_000.0, "stopped"), "stopped"),
        (LONG_AGO, report(JobState.ACTIVE), None, StopRequest(2_000.0, "cancelled"), "running"),
        (LONG_AGO, None, exit_record(1), StopRequest(2_000.0, "cancelled"), "cancelled"),
        (LONG_AGO, None, exit_record(1), StopRequest(6_000.0, "cancelled"), "failed"),
        (LONG_AGO, report(JobState.ENDED), None, StopRequest(500.0, "cancelled"), "failed"),
        (JUST_NOW, None, None, None, "pending"),
        (LONG_AGO, report(JobState.ACTIVE), decided("restart"), None, "running"),
        (LONG_AGO, report(JobState.QUEUED), decided("requeue"), None, "pending"),
        (LONG_AGO, report(JobState.ACTIVE), decided("submit"), None, "running"),
        (LONG_AGO, report(JobState.UNKNOWN), decided("wait", 130), None, "unknown"),
        (LONG_AGO, report(JobState.QUEUED), decided("wait", 130), None, "pending"),
        (LONG_AGO, report(JobState.ENDED, "PREEMPTED"), decided("wait", 130), None, "stopped"),
        (
            LONG_AGO,
            report(JobState.ENDED, "CANCELLED by 0"),
            decided("wait", 130),
            None,
            "cancelled",
        ),
        (LONG_AGO, report(JobState.ENDED), decided("submit"), None, "stopped"),
        (LONG_AGO, report(JobState.ACTIVE), decided("stop", 1), None, "failed"),
        (LONG_AGO, None, decided("stop", 2), None, "failed"),
        (LONG_AGO, None, decided("stop", 5), None, "failed"),
        (LONG_AGO, None, decided("stop", 130), None, "stopped"),
        (LONG_AGO, None, decided("stop", 130, "cancelled"), None, "cancelled"),
        (LONG_AGO, None, decided("stop", 130), StopRequest(2_000.0, "cancelled"), "cancelled"),
    ],
)
def test_the_state_of_a_task(
    job: TaskJob | None,
    info: JobInfo | None,
    ended: dict[str, object] | None,
    ending: StopRequest | None,
    expected: str,
) -> None:
    stage = StageRecord(
        "curate", range(1), jobs={0: job} if job else {}, exits={0: ended} if ended else {}
    )

    assert task_state(stage, 0, ending, {"7": info} if info else {}, NOW) == expected


@pytest.mark.parametrize(
    ("state", "word", "expected"),
    [
        (JobState.QUEUED, "PENDING", "pending"),
        (JobState.ACTIVE, "RUNNING", "pending"),
        (JobState.ENDED, "COMPLETED", "failed"),
        (JobState.MISSING, "", "failed"),
    ],
)
def test_a_task_whose_job_is_gone_is_pending_while_a_recovery_job_waits(
    state: JobState, word: str, expected: str
) -> None:
    stage = StageRecord("pretrain", range(1), jobs={0: LONG_AGO}, recovery_jobs=("9",))
    infos = {"7": report(JobState.ENDED, "NODE_FAIL"), "9": JobInfo("9", state, word)}

    assert task_state(stage, 0, None, infos, NOW) == expected


def test_a_recovery_job_is_queried_only_while_its_stage_may_need_it() -> None:
    stage = StageRecord("pretrain", range(1), jobs={0: LONG_AGO}, recovery_jobs=("9",))
    record = RunRecord("run", Path("run"), stages={"pretrain": stage})
    before = recovery_job_ids(record, NOW)
    stage.exits[0] = decided("stop", 1)

    assert before == {"slurm": {"9"}}
    assert recovery_job_ids(record, NOW) == {}


@pytest.mark.parametrize(
    ("word", "training", "state"),
    [("RUNNING", JobState.ACTIVE, "pending"), ("FAILED", JobState.ENDED, "stopped")],
)
def test_what_waits_for_a_job_that_ended_is_stuck_unless_a_successor_is_at_work(
    word: str, training: JobState, state: str
) -> None:
    record = RunRecord("run", Path("run"))
    record.stages["pretrain"] = StageRecord("pretrain", range(1), jobs={0: LONG_AGO})
    waiting = {0: TaskJob("8", 1, 1_000.0, "slurm")}
    record.stages["evaluate"] = StageRecord("evaluate", range(1), after=("pretrain",), jobs=waiting)
    never = JobInfo("8", JobState.QUEUED, "PENDING", NEVER)
    infos = {"7": report(training, word), "8": never}

    assert derive_view(record, infos, NOW).stages["evaluate"].state == state
    assert stuck_jobs(record, infos) == [("evaluate", "8")]


@pytest.mark.parametrize(
    ("states", "whole"),
    [
        (["succeeded", "succeeded"], "succeeded"),
        (["succeeded", "pending"], "pending"),
        (["failed", "running"], "running"),
        (["failed", "pending"], "failed"),
        (["failed", "unknown"], "failed"),
        (["unknown", "pending"], "unknown"),
        (["stopped", "cancelled"], "cancelled"),
        ([], "succeeded"),
    ],
)
def test_the_state_of_the_whole_is_the_first_by_precedence(states: list[str], whole: str) -> None:
    assert first_of(states) == whole


@pytest.mark.parametrize(
    ("said_before", "expected"), [(None, "stopped"), (exit_record(1), "failed")]
)
def test_a_job_that_is_gone_before_its_inputs_were_whole_has_not_started(
    said_before: dict[str, object] | None, expected: str
) -> None:
    record = RunRecord("trial", Path())
    record.stages["curate"] = StageRecord(
        "curate", range(1), exits={0: exit_record(2)}, jobs={0: LOCAL}
    )
    exits = {0: said_before} if said_before else {}
    record.stages["tokenize"] = StageRecord(
        "tokenize", range(1), after=("curate",), jobs={0: LOCAL}, exits=exits
    )

    found = derive_view(record, {"7": report(JobState.ENDED)}, NOW)

    assert found.stages["tokenize"].state == expected
    assert found.state == "failed"


def test_a_local_job_that_waits_for_an_earlier_stage_is_pending() -> None:
    record = RunRecord("run", Path("run"))
    record.stages["curate"] = StageRecord("curate", range(1), jobs={0: LONG_AGO})
    record.stages["tokenize"] = StageRecord(
        "tokenize", range(1), after=("curate",), jobs={0: LOCAL}
    )

    seen = derive_view(record, {"7": report(JobState.ACTIVE)}, NOW)

    assert {name: stage.state for name, stage in seen.stages.items()} == {
        "curate": "running",
        "tokenize": "pending",
    }


infos = st.builds(
    JobInfo,
    st.just("7"),
    st.sampled_from(list(JobState)),
    st.sampled_from(["", "COMPLETED", "CANCELLED by 0", "TIMEOUT"]),
    st.sampled_from(["", NEVER]),
)
exits = st.builds(exit_record, st.sampled_from([0, 1, 2, 5, 75, 130]), st.floats(0, NOW)) | (
    st.builds(decided, st.sampled_from(["restart", "requeue", "submit", "wait", "stop"]))
)
stages = st.builds(
    StageRecord,
    stage=st.just("curate"),
    indices=st.just(range(3)),
    done=st.sets(st.integers(0, 2)),
    jobs=st.dictionaries(st.integers(0, 2), st.sampled_from([LONG_AGO, JUST_NOW, LOCAL])),
    exits=st.dictionaries(st.integers(0, 2), exits),
)


@given(
    stages,
    st.none() | infos,
    st.none() | st.builds(StopRequest, st.floats(0, NOW), st.just("cancelled")),
)
def test_a_stage_has_succeeded_exactly_when_every_marker_is_there(
    stage: StageRecord, info: JobInfo | None, ending: StopRequest | None
) -> None:
    record = RunRecord("run", Path("run"), stages={"curate": stage}, ending=ending)

    seen = derive_view(record, {"7": info} if info else {}, NOW)

    assert seen.state in PRECEDENCE
    assert (seen.state == "succeeded") == (stage.done == {0, 1, 2})
    assert seen.state == seen.stages["curate"].state


@given(stages)
def test_an_unresponsive_scheduler_is_never_taken_for_an_end(stage: StageRecord) -> None:
    record = RunRecord("run", Path("run"), stages={"curate": stage})
    asked = open_jobs(record, NOW)

    seen = derive_view(record, {"7": report(JobState.UNKNOWN)} if asked else {}, NOW)

    undecided = set(stage.jobs) - stage.done - {i for i in stage.exits if has_ended(stage, i)}
    assert (seen.state in ("unknown", "failed")) or not undecided


def recorded(stage: StageRecord, *events: Event) -> StageRecord:
    """Return the stage with what these events record of it."""
    record.apply_history(
        RunRecord("run", Path("run"), stages={stage.stage: stage}), RunHistory.of(events)
    )
    return stage


def test_of_two_submissions_of_a_task_the_later_counts() -> None:
    both = SubmitEvent(1.0, "tokenize", 1, (0, 1), "slurm", job_ids=("5_0", "5_1"))
    again = SubmitEvent(2.0, "tokenize", 2, (1,), "slurm", job_ids=("6",))

    stage = recorded(StageRecord("tokenize", range(2)), both, again)

    assert [stage.jobs[index].job_id for index in (0, 1)] == ["5_0", "6"]


def test_one_job_id_may_stand_for_all_tasks() -> None:
    event = SubmitEvent(1.0, "tokenize", 1, (0, 1, 2), "local", job_ids=("local:9:1",))

    stage = recorded(StageRecord("tokenize", range(3)), event)

    assert {job.job_id for job in stage.jobs.values()} == {"local:9:1"}


def test_a_training_that_starts_again_has_not_lost_its_checkpoint() -> None:
    stage = StageRecord(
        "pretrain", range(1), target_step=40, step_tokens=8, progress=progress(done=0.0)
    )

    recorded(stage, StartEvent(1.0, "pretrain", 0, 2, "7", 1.0, step=30))

    assert steps_and_tokens(stage) == (30, 240)


@pytest.mark.parametrize(("step", "tokens"), [(0, 0), (20, 160), (21, 184), (30, 400), (31, 402)])
def test_the_tokens_of_a_step_follow_the_phases(step: int, tokens: int) -> None:
    stage = StageRecord("pretrain", range(1), target_step=40, step_tokens=8, began_from=step)
    stage.later_phases = [[20, 160, 24], [30, 400, 2]]

    assert steps_and_tokens(stage) == (step, tokens)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"tokens_per_s": 0.0}, None),
        ({"tokens_per_s": 10.0, "tokens": 100, "target_tokens": 600, "time": NOW}, 50.0),
        ({"tokens_per_s": 10.0, "tokens": 100, "target_tokens": 600, "time": NOW - 20}, 30.0),
        ({"tokens_per_s": 10.0, "tokens": 100, "target_tokens": 600, "time": NOW - 90}, None),
    ],
)
def test_time_left_follows_the_speed(fields: dict[str, float], expected: float | None) -> None:
    assert eta(progress(**fields), NOW) == expected


def test_a_submission_without_a_job_id_makes_its_tasks_unknown(run: TaskRecords) -> None:
    run.event("intent", 5, stage="tokenize", attempt=2, indices=[1])
    during = read(run.run).stages["tokenize"]
    run.event("withdraw", 6, stage="tokenize", attempt=2)
    after = read(run.run).stages["tokenize"]

    infos = {"5_1": report(JobState.ACTIVE)}
    states = [task_state(stage, 1, None, infos, NOW) for stage in (during, after)]
    assert states == ["unknown", "running"]


@pytest.mark.parametrize(("age", "asked"), [(60.0, {"slurm": {"8"}}), (FORGET_SECONDS + 60.0, {})])
def test_what_waits_for_a_stage_that_failed_long_ago_is_not_queried(
    age: float, asked: dict[str, set[str]]
) -> None:
    """Every failed run leaves such jobs; asking about all of them for ever would be slow."""
    waiting = TaskJob("8", 1, 0.0, "slurm")
    stages = {
        "pretrain": StageRecord(
            "pretrain", range(1), jobs={0: LONG_AGO}, exits={0: exit_record(1, NOW - age)}
        ),
        "evaluate": StageRecord("evaluate", range(1), after=("pretrain",), jobs={0: waiting}),
    }

    assert open_jobs(RunRecord("run", Path("run"), stages=stages), NOW) == asked


@pytest.mark.parametrize(("age", "asked"), [(60.0, {"slurm": {"7"}}), (REQUEUE_SECONDS + 60.0, {})])
def test_a_task_that_stopped_very_long_ago_is_over(age: float, asked: dict[str, set[str]]) -> None:
    stopped = StageRecord(
        "pretrain", range(1), jobs={0: LONG_AGO}, exits={0: exit_record(130, NOW - age)}
    )

    assert open_jobs(RunRecord("run", Path("run"), stages={"pretrain": stopped}), NOW) == asked


@pytest.fixture
def run(tmp_path: Path) -> TaskRecords:
    """Return a run of one stage with two tasks, which was submitted as jobs 5_0 and 5_1."""
    run = RunDir(tmp_path)
    resources = {"nodes": 1, "gpus_per_node": 0}
    stage = {"tasks": [0, 1], "after": [], "resources": resources}
    write_json(run.plan, {"cluster": "trial", "stages": {"tokenize": stage}})
    records = TaskRecords(run, 1_000.0, stage="tokenize", job="5_1", index=1)
    fields = {"stage": "tokenize", "attempt": 1, "indices": [0, 1], "scheduler": "slurm"}
    records.event("submit", 0, job_ids=["5_0", "5_1"], recovery_jobs=["6"], **fields)
    return records


def test_a_start_moves_its_task_on_to_a_later_attempt_of_the_same_job(run: TaskRecords) -> None:
    run.start(1, 10)
    run.exit(1, 20, "preempted", "requeue")
    run.start(2, 30, restarts=1)

    stage = read(run.run).stages["tokenize"]

    assert stage.jobs == {
        0: TaskJob("5_0", 1, 1_000.0, "slurm"),
        1: TaskJob("5_1", 2, 1_000.0, "slurm"),
    }
    assert (stage.attempts, stage.exits, stage.recovery_jobs) == (2, {}, ("6",))


def test_the_exit_of_the_last_attempt_is_the_one_that_counts(run: TaskRecords) -> None:
    run.start(1, 10)
    run.exit(1, 20, "crash", "restart")
    run.start(2, 30)
    run.exit(2, 40, "crash", "stop", code=1)

    seen = derive_view(read(run.run), {"5_0": report(JobState.ACTIVE)}, NOW)

    assert exit_records(read(run.run))[0].attempt == 2
    assert (seen.stages["tokenize"].state, seen.stages["tokenize"].attempts) == ("running", 2)


def test_a_task_that_the_last_plan_no_longer_has_is_no_failure(run: TaskRecords) -> None:
    run.start(1, 10)
    run.exit(1, 20, "completed", "finish", code=0)
    plan = read_json(run.run.plan)
    plan["stages"]["tokenize"]["tasks"] = [0]
    write_json(run.run.plan, plan)

    assert exit_records(read(run.run)) == []


@pytest.mark.parametrize(("action", "attempts"), [("stop", 2), ("wait", 1)])
def test_a_task_refused_in_a_later_attempt_has_ended_there_unless_it_works_elsewhere(
    run: TaskRecords, action: str, attempts: int
) -> None:
    run.start(1, 10)
    run.exit(1, 20, "preempted", "requeue")
    run.exit(2, 30, "configuration", action, code=2)

    stage = read(run.run).stages["tokenize"]

    assert (stage.attempts, stage.exits[1].attempt) == (attempts, attempts)


def test_a_successor_replaces_the_job_and_brings_its_own_recovery_job(run: TaskRecords) -> None:
    run.start(1, 10)
    run.exit(1, 20, "time_limit", "submit")
    run.submit(21, 2, "8", replaces=["5_1"], recovery_jobs=["9"])
    infos = {"5_0": report(JobState.ACTIVE), "8": JobInfo("8", JobState.QUEUED, "PENDING")}

    record = read(run.run)
    stage = record.stages["tokenize"]

    assert (stage.jobs[1].job_id, stage.jobs[1].attempt, stage.recovery_jobs) == ("8", 2, ("9",))
    assert stage.exits == {}
    assert task_state(stage, 1, None, infos, NOW) == "pending"
    assert open_jobs(record, NOW) == {"slurm": {"5_0"}, "local": {"8"}}


def test_a_submission_that_was_undone_does_not_affect_the_jobs_before_it(run: TaskRecords) -> None:
    run.submit(21, 2, "8")
    run.event("undo", 22, job_ids=["8"], reason="no place")

    assert read(run.run).stages["tokenize"].jobs[1].job_id == "5_1"


def test_the_attempts_of_a_finished_stage_are_counted_without_reading_its_exits(
    run: TaskRecords,
) -> None:
    for job, index in (("5_0", 0), ("5_1", 1)):
        task = replace(run, job=job, index=index)
        task.start(1, 10)
        task.exit(1, 20, "preempted", "requeue")
        task.start(2, 30, restarts=1)
        task.exit(2, 40, "completed", "finish", code=0)
        write_json(run.run.done("tokenize", index), {})

    in_part = read(run.run).stages["tokenize"]
    in_full = RecordReader(run.run, in_full=True).read().stages["tokenize"]

    assert (in_part.attempts, in_part.done, in_part.exits) == (2, {0, 1}, {})
    assert (in_full.attempts, in_full.done, in_full.exits) == (2, {0, 1}, {})
