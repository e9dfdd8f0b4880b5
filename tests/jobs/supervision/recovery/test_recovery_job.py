"""Recovery of tasks whose jobs are over, against stand-ins for Slurm's commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from jobs.contract import specs
from jobs.contract.events import append_event, read_events
from jobs.contract.files import write_json
from jobs.contract.rundir import RunDir
from jobs.slurm import submission
from jobs.slurm.client import Client
from jobs.slurm.submission import Submission
from jobs.supervision.recovery import recovery_job
from jobs.supervision.recovery.recovery_job import StageRecovery, recover_stage

from .... import fake_slurm
from ....corpus_specs import curate_spec
from ....fake_slurm import FakeSlurm
from ....message_servers import program
from ....task_specs import task_spec
from ...notification.runs import tell

REPOSITORY = Path(__file__).parents[4]
NOW = "2026-01-01T10:00:00"
LATER = "2026-01-01T11:00:00"


@dataclass(frozen=True)
class Stage:
    """A stage of a run on the stand-in Slurm, submitted an hour ago as job 50 with
    recovery job 51.
    """

    run: RunDir
    programs: FakeSlurm
    client: Client

    def recover(self, by: str = "recovery_job") -> StageRecovery:
        return recover_stage(self.run, "curate", self.client, by)

    def submitted(self, *job_ids: str, attempt: int = 1, by: str = "person") -> None:
        """Note that tasks were given to these jobs."""
        indices = list(range(len(job_ids)))
        fields = {"stage": "curate", "attempt": attempt, "indices": indices, "scheduler": "slurm"}
        self.event("submit", **fields, by=by, job_ids=list(job_ids), recovery_jobs=["51"])

    def started(self, job_id: str = "50", index: int = 0, attempt: int = 1) -> None:
        """Note that a supervisor has started."""
        fields = {"index": index, "attempt": attempt, "job_id": job_id, "restarts": 0}
        more = {"nodes": ["cpu01"], "began": self.ago(1800), "step": None}
        self.event("start", stage="curate", **fields, **more)

    def ended(self, action: str, job_id: str = "50", attempt: int = 1, **more: Any) -> None:
        """Record the end of an attempt as its supervisor does."""
        fields = {
            "stage": "curate",
            "index": 0,
            "attempt": attempt,
            "job_id": job_id,
            "cause": "unknown",
            "code": 1,
            "class": "failed",
            "message": "a rank left",
            "hint": "",
            "reason": "a rank failed; a new job resumes it",
            "fingerprint": "",
            "node": "",
            "started": self.ago(1800),
            "ended": self.ago(600),
            "step_before": None,
            "step_after": None,
            "last_step": None,
            "action": action,
            "delay": 0.0,
            "exclude": [],
            **more,
        }
        self.event("observed" if action == "wait" else "exit", **fields)

    def event(self, kind: str, **fields: Any) -> None:
        append_event(self.run, kind, **fields)

    def accounts(self, **states: str) -> None:
        """Set sacct's states of jobs, by ``j<id>``."""
        rows = [f"{job[1:]}|{state}|1:0|{NOW}|{NOW}|{LATER}|cpu01" for job, state in states.items()]
        self.programs.tell("accounting", "".join(f"{row}\n" for row in rows))

    def events(self, kind: str) -> list[Mapping[str, Any]]:
        return [item for item in read_events(self.run) if item["event"] == kind]

    @staticmethod
    def ago(seconds: float) -> float:
        return time.time() - seconds


def curate(index: int) -> specs.TaskSpec:
    """Return a task; only its budget matters here."""
    return task_spec(
        "curate",
        curate_spec(),
        index,
        launcher="srun",
        supervision=specs.SupervisionSpec(retry_delay_seconds=0),
        site=specs.SiteSpec("site"),
    )


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    programs = fake_slurm.install(tmp_path / "slurm")
    programs.name_jobs("med-tiny-0.curate")
    monkeypatch.setenv("PATH", programs.environ["PATH"])
    programs.tell("nodes", "cpu01\ncpu02\ncpu03\n")
    run = RunDir(tmp_path / "runs" / "med-tiny-0")
    run.code.mkdir(parents=True)
    for index in range(3):
        write_json(run.spec("curate", index), specs.to_json(curate(index)))
    template = Submission(
        stage="curate",
        indices=(0, 1, 2),
        attempt=1,
        python="/venv/bin/python",
        environment=(),
        parameters={"time": 30, "nodes": 1, "partition": "cpu"},
        lead_seconds=30,
        longest_array=100,
        recovery_job={"time": 10, "nodes": 1},
    )
    submission.write(run, template)
    return Stage(run, programs, Client(programs.environ))


def test_a_finished_stage_is_skipped_without_a_message(stage: Stage) -> None:
    stage.submitted("50")
    write_json(stage.run.done("curate", 0), {})

    assert stage.recover() == StageRecovery()
    assert stage.programs.calls() == []


def test_a_queued_or_running_job_is_skipped(stage: Stage) -> None:
    stage.submitted("50")
    stage.programs.queue("50|RUNNING|None")

    assert stage.recover() == StageRecovery()
    assert stage.programs.calls("sbatch") == []


def test_a_task_whose_supervisor_was_killed_is_resubmitted(stage: Stage) -> None:
    stage.submitted("50")
    stage.started()
    stage.accounts(j50="FAILED")

    result = stage.recover()

    (ending,) = stage.events("exit")
    (_, submitted) = stage.events("submit")
    assert (ending["by"], ending["action"], ending["ended"]) == (
        "recovery_job",
        "submit",
        time.mktime(time.strptime(LATER, "%Y-%m-%dT%H:%M:%S")),
    )
    assert (submitted["by"], submitted["job_ids"], submitted["replaces"]) == (
        "recovery_job",
        ["101"],
        ["50"],
    )
    assert submitted["recovery_jobs"] == ["102"]
    assert result.messages[-1] == "curate: job 101 resumes it"
    assert not result.unclear


def test_a_killed_start_is_only_put_on_record_once_a_later_one_was_stopped(stage: Stage) -> None:
    """The later one was refused before it could close earlier ones."""
    stage.submitted("50")
    stage.started()
    stage.submitted("60", attempt=2)
    submission.write(stage.run, replace(submission.read(stage.run, "curate", 1), attempt=2))
    stage.ended("stop", "60", attempt=2, cause="configuration")
    stage.accounts(j50="FAILED", j60="FAILED")

    stage.recover()

    assert [event["attempt"] for event in stage.events("exit")] == [2, 1]
    assert stage.programs.calls("sbatch") == []


def test_a_second_pass_resubmits_nothing(stage: Stage) -> None:
    stage.submitted("50")
    stage.started()
    stage.accounts(j50="NODE_FAIL")
    stage.recover()

    assert stage.recover("watch") == StageRecovery()
    assert len(stage.programs.calls("sbatch")) == 2
    assert len(stage.events("exit")) == 1


def test_a_job_that_a_person_cancelled_by_scancel_is_not_resubmitted(stage: Stage) -> None:
    stage.submitted("50")
    stage.started()
    stage.accounts(j50="CANCELLED by 0")

    result = stage.recover()

    assert stage.events("exit")[0]["action"] == "stop"
    assert "cancelled" in result.messages[0]
    assert stage.programs.calls("sbatch") == []


@pytest.mark.parametrize("kind", ["cancel", "stop"])
def test_after_a_stop_request_nothing_is_resubmitted(stage: Stage, kind: str) -> None:
    stage.submitted("50")
    stage.started()
    stage.event(kind, job_ids=["50"])
    stage.accounts(j50="FAILED")

    assert stage.recover() == StageRecovery()
    assert stage.events("exit") == []


def test_a_job_that_never_started_its_task_is_resubmitted(stage: Stage) -> None:
    stage.submitted("50")
    stage.accounts(j50="BOOT_FAIL")

    result = stage.recover()

    assert stage.events("exit")[0]["by"] == "recovery_job"
    assert result.messages[-1] == "curate: job 101 resumes it"


def test_a_job_just_submitted_may_be_unknown_to_the_accounting(stage: Stage) -> None:
    stage.submitted("50")

    assert stage.recover() == StageRecovery(unclear=True)


def test_an_accounting_that_lags_is_waited_for(stage: Stage) -> None:
    """The job has left the queue, and is still running there."""
    stage.submitted("50")
    stage.started()
    stage.accounts(j50="RUNNING")

    assert stage.recover() == StageRecovery(unclear=True)
    assert stage.events("exit") == []


# ---- silence


@pytest.mark.parametrize("program", ["squeue", "sacct"])
def test_silence_leads_to_nothing(stage: Stage, program: str) -> None:
    stage.submitted("50")
    stage.started()
    stage.programs.replace(program, "echo 'Connection refused' >&2; exit 1")

    assert stage.recover() == StageRecovery(unclear=True)
    assert stage.events("exit") == []


def test_without_accounting_the_controller_reports_how_a_job_ended(stage: Stage) -> None:
    stage.submitted("50")
    stage.started()
    stage.programs.replace("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    stage.programs.tell(
        "job-50", "JobId=50 JobName=med-tiny-0.curate JobState=CANCELLED Reason=None\n"
    )

    result = stage.recover()

    assert "cancelled" in result.messages[0]
    assert stage.programs.calls("sbatch") == []


def test_without_accounting_a_forgotten_job_is_resubmitted(stage: Stage) -> None:
    stage.submitted("50")
    stage.started()
    stage.programs.replace("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")

    assert stage.recover().messages[-1] == "curate: job 101 resumes it"


def test_a_recovery_job_without_an_answer_from_slurm_reports_it_and_exits(stage: Stage) -> None:
    stage.submitted("50")
    stage.programs.tell("down", "Unable to contact slurm controller")

    messages = recovery_job.recover_until_clear(stage.run, "curate", stage.client, seconds=0)

    assert messages == [
        "curate: Slurm does not report how its jobs ended; "
        f"`{stage.run.command('recover')}` retries"
    ]


def run_the_job(stage: Stage) -> subprocess.CompletedProcess[str]:
    """Run the recovery job of the stage's third attempt, with this checkout as the run's code."""
    stage.run.code.rmdir()
    stage.run.code.symlink_to(REPOSITORY)
    call = "import sys; from jobs.supervision.recovery.recovery_job import run_recovery as run; "
    return subprocess.run(
        [sys.executable, "-c", call + "run(*sys.argv[1:])", str(stage.run.root), "curate", "3"],
        cwd=REPOSITORY,
        env={**os.environ, **stage.programs.environ},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_recovery_job_sends_notifications_of_the_ends_it_finds(
    stage: Stage, tmp_path: Path
) -> None:
    stage.submitted("50", attempt=3)
    stage.started(attempt=3)
    stage.accounts(j50="OUT_OF_MEMORY")
    page = program(tmp_path / "page", f"cat >{tmp_path}/message")
    tell(stage.run, {"PAGER": f"command:{page}"})
    task = replace(curate(0), supervision=specs.SupervisionSpec(attempts_without_progress=1))
    write_json(stage.run.spec("curate", 0), specs.to_json(task))

    done = run_the_job(stage)

    assert done.returncode == 0, done.stderr
    assert "curate failed: " in (tmp_path / "message").read_text()


def test_a_bug_in_the_recovery_job_is_recorded_with_its_location(stage: Stage) -> None:
    """Its log is /dev/null."""
    stage.submitted("50")
    stage.submitted("52", attempt=2)
    write_json(stage.run.plan, {"stages": []})  # no version of ours wrote this plan

    done = run_the_job(stage)

    (event,) = stage.events("recovery_job")
    assert done.returncode == 1
    assert (event["stage"], event["attempt"]) == ("curate", 3)
    assert re.fullmatch(
        r"curate: the recovery job failed with AttributeError: 'list' object has no attribute "
        r"'items' \(jobs/supervision/recovery/recovery_job.py:\d+ in vanished\)",
        event["messages"][0],
    )


# ---- what was decided before


def test_storage_that_refuses_a_file_is_waited_for_and_the_task_resubmitted(stage: Stage) -> None:
    stage.submitted("50")
    stage.accounts(j50="BOOT_FAIL")
    stage.run.lock.mkdir()  # a folder in a file's place stands for storage that takes nothing
    repair = threading.Timer(1.0, stage.run.lock.rmdir)
    repair.start()

    sentences = recovery_job.recover_until_clear(stage.run, "curate", stage.client, 60.0)

    repair.join()
    assert sentences[-1].startswith("curate: job 101 ")
    assert [event["by"] for event in stage.events("submit")] == ["person", "recovery_job"]


def test_storage_that_refuses_files_to_the_end_is_an_error(stage: Stage) -> None:
    stage.submitted("50")
    stage.accounts(j50="BOOT_FAIL")
    stage.run.lock.mkdir()

    with pytest.raises(IsADirectoryError):
        recovery_job.recover_until_clear(stage.run, "curate", stage.client, 0.1)


def test_what_was_decided_but_not_done_is_done(stage: Stage) -> None:
    """sbatch had refused, or the supervisor was killed before it could ask."""
    stage.submitted("50")
    stage.started()
    stage.ended("submit", delay=900.0, exclude=["cpu02", "nosuch"])
    stage.accounts(j50="FAILED")

    result = stage.recover()

    script = stage.programs.script("101")
    begin = next(line for line in script.splitlines() if "--begin=now+" in line)
    assert 200 < int(begin.rpartition("+")[2]) <= 300
    assert "#SBATCH --exclude=cpu02\n" in script
    assert result.messages[0] == "curate task 0: a rank failed; a new job resumes it"
    assert len(stage.events("exit")) == 1


def test_a_job_that_a_restarted_controller_forgot_is_resubmitted(stage: Stage) -> None:
    """After ``slurmctld -c`` the accounting has CANCELLED without the UID of a person."""
    stage.submitted("50")
    stage.started()
    stage.accounts(j50="CANCELLED")

    result = stage.recover()

    assert stage.events("exit")[0]["action"] == "submit"
    assert result.messages[-1] == "curate: job 101 resumes it"


def test_what_was_decided_is_not_done_once_a_person_has_cancelled_the_job(stage: Stage) -> None:
    stage.submitted("50")
    stage.started()
    stage.ended("requeue")
    stage.accounts(j50="CANCELLED by 0")

    assert stage.recover() == StageRecovery()
    assert stage.programs.calls("sbatch") == []


def test_a_stop_stays_one(stage: Stage) -> None:
    stage.submitted("50")
    stage.started()
    stage.ended("stop")
    stage.accounts(j50="FAILED")

    assert stage.recover() == StageRecovery()


@pytest.mark.parametrize(
    ("state", "action", "scripts"), [("TIMEOUT", "submit", 2), ("CANCELLED by 0", "stop", 0)]
)
def test_the_final_state_by_slurm_decides_an_open_attempt(
    stage: Stage, state: str, action: str, scripts: int
) -> None:
    stage.submitted("50")
    stage.started()
    stage.ended("wait")
    stage.accounts(j50=state)

    stage.recover()

    (observed,), (closed,) = stage.events("observed"), stage.events("exit")
    assert (closed["action"], closed["by"]) == (action, "recovery_job")
    assert closed["ended"] == observed["ended"]
    assert len(stage.programs.calls("sbatch")) == scripts


# ---- arrays, refusals, and what comes after


def test_elements_that_failed_are_resubmitted_together(stage: Stage) -> None:
    stage.submitted("50_0", "50_1", "50_2")
    for index in range(3):
        stage.started(f"50_{index}", index)
    stage.programs.queue("50_1|RUNNING|None", "60|PENDING|Dependency|||||afterok:50_*(failed)")
    stage.accounts(j50_0="FAILED", j50_2="NODE_FAIL")

    stage.recover()

    (_, submitted) = stage.events("submit")
    assert (submitted["indices"], submitted["job_ids"]) == ([0, 2], ["101_0", "101_1"])
    waits = stage.programs.waits_for()
    assert waits["60"] == "afterok:101_0,afterok:50_1,afterok:101_1"


def test_a_refusal_is_reported_and_retried(stage: Stage) -> None:
    stage.submitted("50")
    stage.started()
    stage.accounts(j50="FAILED")
    stage.programs.tell("refuse-1", "sbatch: error: too many jobs\n")

    refused = stage.recover()
    again = stage.recover()

    assert refused.unclear
    assert refused.messages[-1] == "curate: sbatch refused curate: too many jobs"
    assert again.messages[-1] == "curate: job 102 resumes it"
    assert len(stage.events("exit")) == 1


def test_where_jobs_cannot_submit_the_message_names_recover(stage: Stage) -> None:
    stage.submitted("50")
    stage.started()
    stage.accounts(j50="FAILED")
    stage.programs.remove("sbatch")

    result = recover_stage(stage.run, "curate", Client(stage.programs.alone), "recovery_job")

    assert f"`{stage.run.command('recover')}`" in result.messages[0]
    assert not result.unclear
    assert stage.events("intent") == []


def test_later_stages_that_slurm_has_removed_are_named(stage: Stage) -> None:
    """kill_invalid_depend cancels what could never start."""
    stage.submitted("50")
    stage.started()
    fields = {"stage": "tokenize", "attempt": 1, "indices": [0], "scheduler": "slurm"}
    stage.event("submit", **fields, by="person", job_ids=["52"])
    write_json(
        stage.run.plan, {"stages": {"curate": {"after": []}, "tokenize": {"after": ["curate"]}}}
    )
    stage.accounts(j50="FAILED", j52="CANCELLED by 0")

    result = stage.recover()

    assert result.messages[-1] == (
        "tokenize: its jobs have left the queue without a start; "
        f"`{stage.run.command('resume')}` submits them again"
    )
