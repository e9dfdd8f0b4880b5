"""`meditron recover` on the stand-in Slurm, and on this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jobs.contract.events import append_event, read_events
from jobs.contract.files import write_json
from jobs.contract.rundir import RunDir
from meditron_cli.main import main
from meditron_cli.scheduler.base import JobState
from meditron_cli.services import Services

from ... import fake_slurm
from ...conftest import Bench
from ...exits import exit_of
from ...fake_slurm import FakeSlurm
from ...fakes import FakeClock
from ...jobs.notification.runs import tell
from ...message_servers import program
from ...ranks import wait_until

DOWN = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"
FAILED = "|FAILED|1:0|2026-01-01T10:00:00|2026-01-01T10:00:00|2026-01-01T11:00:00|cpu01\n"


@dataclass
class Desk:
    """A person at the login node of the stand-in Slurm."""

    folder: Path
    programs: FakeSlurm
    clock: FakeClock = field(default_factory=FakeClock)

    def __call__(self, *words: str) -> Result:
        environ = {**os.environ, "MEDITRON_RUNS": str(self.folder / "runs")}
        services = Services(clock=self.clock, environ=environ)
        return CliRunner().invoke(main, list(words), obj=services)

    def submit(self, *words: str) -> RunDir:
        """Submit curation as job 101, or the next, with a recovery job; its node died as
        it started.
        """
        config = str(self.folder / "experiment.yaml")
        target = ("--cluster", "test-slurm", "--size", "tiny", "--config", config, "--json")
        result = self("submit", "curate", *target, *words)
        assert result.exit_code == 0, result.stderr
        answer = json.loads(result.stdout)
        run, (job,) = RunDir(Path(answer["dir"])), answer["jobs"]["curate"]
        start = {"index": 0, "attempt": 1, "restarts": 0, "nodes": [], "began": 1.0, "step": None}
        append_event(run, "start", stage="curate", job_id=job, **start)
        self.programs.name_jobs(f"{run.name}.curate")
        self.programs.queue()
        self.programs.tell("accounting", f"{job}{FAILED}")
        return run


@pytest.fixture
def desk(project: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.chdir(project)
    programs = fake_slurm.install(project / "slurm")
    monkeypatch.setenv("PATH", programs.environ["PATH"])
    return Desk(project, programs)


def test_a_run_whose_job_is_over_is_resumed(desk: Desk) -> None:
    run = desk.submit()

    result = desk("recover", "--once")

    assert result.exit_code == 0, result.stderr
    first, last = result.stdout.splitlines()
    assert first.startswith(f"{run.name}: curate task 0: ")
    assert last == f"{run.name}: curate: job 103 resumes it"
    assert result.stderr == ""
    submits = [event for event in read_events(run) if event["event"] == "submit"]
    assert [(event["by"], event["job_ids"]) for event in submits] == [
        ("person", ["101"]),
        ("recover", ["103"]),
    ]


def test_an_end_that_a_pass_finds_is_told(desk: Desk) -> None:
    run = desk.submit("--set", "supervision.attempts_without_progress=1")
    page = program(desk.folder / "page", f"cat >{desk.folder}/.told && mv .told told")
    tell(run, {"PAGER": f"command:{page}"})

    result = desk("recover", "--once")

    assert result.exit_code == 0, result.stderr
    wait_until((desk.folder / "told").exists)
    assert "curate failed: " in (desk.folder / "told").read_text()


def test_a_second_pass_has_nothing_to_report(desk: Desk) -> None:
    desk.submit()
    desk("recover", "--once")

    result = desk("recover", "--once")
    as_json = desk("recover", "--once", "--json")

    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "1 run checked, nothing was resubmitted\n"
    assert (as_json.exit_code, as_json.stdout, as_json.stderr) == (0, "", "")


def test_runs_without_work_are_counted_and_those_of_others_are_not(desk: Desk) -> None:
    runs = [desk.submit(), desk.submit("--new"), desk.submit("--new")]
    desk("recover", "--once")
    os.chown(runs[0].events, 65534, -1)

    assert desk("recover", "--once").stderr == "2 runs checked, nothing was resubmitted\n"


def test_a_pass_without_an_answer_from_slurm_does_not_claim_a_check(desk: Desk) -> None:
    desk.submit()
    desk.programs.tell("down", DOWN)

    result = desk("recover", "--once")

    assert result.stderr == "the scheduler does not respond; nothing is resubmitted until it does\n"


def test_json_is_an_object_a_line(desk: Desk) -> None:
    run = desk.submit()

    lines = [json.loads(line) for line in desk("recover", "--once", "--json").stdout.splitlines()]

    assert lines[-1] == {
        "format": 1,
        "run": run.name,
        "stage": "curate",
        "message": "curate: job 103 resumes it",
    }


def test_only_the_named_run_is_recovered(desk: Desk) -> None:
    run = desk.submit()
    other = desk.submit("--new")

    result = desk("recover", other.name, "--once")

    assert run.name != other.name
    assert {line.split(":")[0] for line in result.stdout.splitlines()} == {other.name}


def test_a_slurm_that_does_not_answer_is_waited_for(desk: Desk) -> None:
    """Slurm answers again after two looks; then somebody interrupts."""
    desk.submit()
    desk.programs.tell("down", DOWN)
    slept = []

    def sleep() -> None:
        slept.append(desk.clock.now())
        if len(slept) == 2:
            (desk.programs.state / "down").unlink()
        if len(slept) == 4:
            raise KeyboardInterrupt

    desk.clock.when_slept = sleep

    result = desk("recover", "--interval", "30")

    assert result.exit_code == 130
    assert result.stdout.splitlines()[-1].endswith("curate: job 103 resumes it")
    assert result.stdout.count("resumes it") == 1
    assert slept[1] - slept[0] == 30
    assert result.stderr.splitlines()[0] == (
        "the scheduler does not respond; nothing is resubmitted until it does"
    )
    assert result.stderr.count("does not respond") == 1


def test_a_refusal_is_reported_once(desk: Desk) -> None:
    desk.submit()
    for call in range(3, 9):
        desk.programs.tell(f"refuse-{call}", "sbatch: error: too many jobs\n")
    looks = []

    def sleep() -> None:
        looks.append(1)
        if len(looks) == 3:
            raise KeyboardInterrupt

    desk.clock.when_slept = sleep

    result = desk("recover")

    assert result.stdout.count("sbatch refused curate: too many jobs") == 1


def test_what_a_person_cancelled_stays_cancelled(desk: Desk) -> None:
    run = desk.submit()
    desk("cancel", run.name)

    result = desk("recover", "--once")

    assert result.stdout == ""
    assert len(desk.programs.calls("sbatch")) == 2


def test_a_run_of_another_user_is_not_touched(desk: Desk) -> None:
    run = desk.submit()
    os.chown(run.events, 65534, -1)

    assert desk("recover", "--once").stdout == ""


# ---- this machine


def test_a_task_of_this_machine_whose_process_was_killed_starts_anew(meditron: Bench) -> None:
    meditron.submit("--set", "supervision.retry_delay_seconds=0", stage="curate")
    run = meditron.run()
    start = {"index": 0, "attempt": 1, "restarts": 0, "nodes": [], "began": 1.0, "step": None}
    append_event(run, "start", stage="curate", job_id="101_0", **start)
    meditron.scheduler.put_stage("curate", JobState.ENDED)

    result = meditron("recover", "--once")

    assert result.stdout.splitlines()[-1] == f"{run.name}: curate: job 102_0 resumes it"
    assert [event["by"] for event in meditron.events("submit")] == ["person", "recover"]


def test_on_this_machine_a_start_that_has_to_wait_is_waited_for(meditron: Bench) -> None:
    """The disk was full, and may have room later."""
    meditron.submit(stage="curate")
    run = meditron.run()
    start = {"index": 0, "attempt": 1, "restarts": 0, "nodes": [], "began": 1.0, "step": None}
    append_event(run, "start", stage="curate", job_id="101_0", **start)
    words = {"code": 1, "kind": "OSError", "message": "No space left on device", "hint": ""}
    place = {"rank": 0, "node": "here", "time": 2.0}
    write_json(run.attempt("curate", 1) / "rank-exit-00000-00000.json", {**words, **place})
    meditron.scheduler.put_stage("curate", JobState.ENDED)

    first = meditron("recover", "--once")
    shown = meditron("status", "--json")
    event = exit_of(run, "curate", 1)
    now = json.dumps({**event, "delay": 0.0}, sort_keys=True)
    text = run.events.read_text().splitlines()
    lines = [now if json.loads(line) == event else line for line in text]
    run.events.write_text("".join(f"{line}\n" for line in lines))
    second = meditron("recover", "--once")

    waits = first.stdout.splitlines()[-1]
    assert waits.startswith(f"{run.name}: curate: stopped until the first check after ")
    assert json.loads(shown.stdout)["runs"][0]["state"] == "stopped"
    assert second.stdout.splitlines()[-1] == f"{run.name}: curate: job 102_0 resumes it"
    assert [event["by"] for event in meditron.events("submit")] == ["person", "recover"]


def test_on_this_machine_nothing_starts_beside_a_task_that_must_not(
    meditron: Bench, finish: Callable[..., None]
) -> None:
    meditron.submit(stage="pipeline")
    run = meditron.run()
    finish(run, "curate", 0)
    for index in (0, 1):
        start = {"attempt": 1, "restarts": 0, "nodes": [], "began": 1.0, "step": None}
        append_event(run, "start", stage="tokenize", index=index, job_id="102_0", **start)
    words = {"code": 2, "kind": "TaskError", "message": "shard 1 is no JSON", "hint": ""}
    place = {"rank": 0, "node": "here", "time": 2.0}
    write_json(run.attempt("tokenize", 1) / "rank-exit-00001-00000.json", {**words, **place})
    meditron.scheduler.put_stage("tokenize", JobState.ENDED)

    result = meditron("recover", "--once")

    assert "shard 1 is no JSON" in result.stdout
    assert f"`meditron resume {run.name}`" in result.stdout.splitlines()[-1]
    assert {event["by"] for event in meditron.events("submit")} == {"person"}


def test_a_finished_run_is_not_queried(meditron: Bench, finish: Callable[..., None]) -> None:
    meditron.submit(stage="curate")
    finish(meditron.run(), "curate", 0)

    assert meditron("recover", "--once").stdout == ""
    assert meditron.scheduler.asked == []


def test_stages_behind_one_that_stopped_for_good_are_not_recovered(
    meditron: Bench, fail: Callable[..., None]
) -> None:
    meditron.submit()
    fail(meditron.run(), "curate", 0)
    for stage in ("curate", "tokenize", "index", "pretrain", "evaluate"):
        meditron.scheduler.put_stage(stage, JobState.ENDED, "CANCELLED")

    result = meditron("recover", "--once")

    assert (result.exit_code, result.stdout) == (0, "")
    assert len(meditron.scheduler.submitted) == 5
    assert [event["event"] for event in read_events(meditron.run())].count("exit") == 1


def test_on_this_machine_a_run_with_a_file_stop_stays_stopped(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    run = meditron.run()
    meditron.begin("curate")
    meditron.scheduler.put_stage("curate", JobState.ENDED)
    run.stop_file.touch()

    result = meditron("recover", "--once")

    assert (result.exit_code, result.stdout) == (0, "")
    assert run.stop_file.exists()
    assert len(meditron.scheduler.submitted) == 1
