"""Resubmission on a real Slurm: the ranks are left out, and a stand-in for
Python ends, or waits, as the test requires.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.contract import attempt_history
from jobs.contract.errors import SUCCESSOR
from jobs.contract.events import StartEvent, append_event, read_events
from jobs.contract.files import write_json
from jobs.contract.job import Job
from jobs.contract.outcomes import Decision, RetryAction
from jobs.contract.run_reader import RunReader
from jobs.contract.rundir import RunDir
from jobs.slurm import sbatch
from jobs.slurm.client import Client
from jobs.slurm.submission import Submission
from jobs.supervision.allocation import Allocation, recorded_report
from jobs.supervision.attempt_records import AttemptRef
from jobs.supervision.recovery.actions import ActionRunner
from jobs.supervision.recovery.resubmission import held_back, resubmit

from .cluster import Cluster
from .desk import REPOSITORY, wait

pytestmark = pytest.mark.slurm

WAITS = "exec sleep 600"
FAILS = "exit 3"
QUIET = ("--output=/dev/null",)


@pytest.fixture
def client(slurm: Cluster, slurm_environment: Cluster) -> Iterator[Client]:
    """Slurm, empty before and after."""
    slurm.cancel_all()
    yield Client(slurm.env)
    slurm.cancel_all()


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "runs" / "trial-tiny-0")
    run.code.mkdir(parents=True)
    run.events.touch()
    return run


@pytest.fixture
def start(run: RunDir, client: Client) -> Callable[..., Submission]:
    """Submit tasks of a stage as a person does, whose Python executes a shell line."""

    def submit(does: str, *, tasks: int = 1, stage: str = "pretrain") -> Submission:
        python = run.root / "python"
        python.write_text(f"#!/bin/sh\n{does}\n")
        python.chmod(0o755)
        run.attempt(stage, 1).mkdir(parents=True)
        asked = Submission(
            stage=stage,
            indices=tuple(range(tasks)),
            attempt=1,
            python=str(python),
            environment=(),
            parameters={"time": 30, "nodes": 1, "partition": "cpu", "array_parallelism": tasks},
            lead_seconds=30,
            longest_array=101,
            recovery_job={"time": 10, "nodes": 1, "partition": "cpu"},
        )
        fields = {
            "stage": stage,
            "attempt": 1,
            "indices": list(asked.indices),
            "scheduler": "slurm",
            "by": "person",
        }
        append_event(run, "intent", **fields)
        ids = sbatch.submit(run, asked, client)
        recovery_jobs = sbatch.submit_recovery_job(run, asked, ids, client)
        append_event(run, "submit", **fields, job_ids=ids, recovery_jobs=recovery_jobs)
        return asked

    return submit


def last_submit(run: RunDir) -> dict[str, Any]:
    return [event for event in read_events(run) if event["event"] == "submit"][-1]


def waits_for(slurm: Cluster, job: object) -> str:
    return slurm.run("squeue", "-h", "-o", "%E", "-j", str(job)).strip()


def test_what_waits_for_a_running_job_waits_for_its_successor(
    slurm: Cluster, client: Client, run: RunDir, start: Callable[..., Submission]
) -> None:
    start(WAITS)
    (old,), (recovery_job,) = last_submit(run)["job_ids"], last_submit(run)["recovery_jobs"]
    after = slurm.submit("true", f"--dependency=afterok:{old}", "--array=0-5%2", *QUIET)
    slurm.wait_job(old, "RUNNING")

    (new,) = resubmit(run, "pretrain", 0, replaces=[old], by="supervisor", client=client)

    assert waits_for(slurm, after) == f"afterok:{new}(unfulfilled)"
    assert waits_for(slurm, recovery_job) == f"afterany:{new}(unfulfilled)"
    submitted = last_submit(run)
    assert (submitted["job_ids"], submitted["recovery_jobs"], submitted["replaces"]) == (
        [new],
        [recovery_job],
        [old],
    )
    assert (submitted["attempt"], submitted["by"]) == (2, "supervisor")
    script = (run.attempt("pretrain", 2) / f"{new}_submission.sh").read_text()
    assert f"--comment=run={run.name},attempt=2\n" in script
    assert "--dependency" not in script


def test_what_could_never_start_is_revived(
    slurm: Cluster, client: Client, run: RunDir, start: Callable[..., Submission]
) -> None:
    """The recovery job of the old job has left, so that the new one gets one of its own."""
    start(FAILS)
    (old,), (gone,) = last_submit(run)["job_ids"], last_submit(run)["recovery_jobs"]
    slurm.run("scancel", gone)
    after = slurm.submit("true", f"--dependency=afterok:{old}", *QUIET)
    reason = ("squeue", "-h", "-o", "%r", "-j", str(after))
    wait(lambda: "NeverSatisfied" in slurm.run(*reason), "a dependency that never is")

    (new,) = resubmit(run, "pretrain", 0, replaces=[old], by="recovery_job", client=client)

    assert waits_for(slurm, after).startswith(f"afterok:{new}(")
    (recovery_job,) = last_submit(run)["recovery_jobs"]
    assert recovery_job != gone
    assert waits_for(slurm, recovery_job).startswith(f"afterany:{new}(")


def test_of_an_array_the_other_elements_are_still_waited_for(
    slurm: Cluster, client: Client, run: RunDir, start: Callable[..., Submission]
) -> None:
    start(WAITS, tasks=3, stage="tokenize")
    array = last_submit(run)["job_ids"][0].split("_")[0]
    after = slurm.submit("true", f"--dependency=afterok:{array}", *QUIET)
    slurm.wait_job(array, "RUNNING")
    write_json(run.done("tokenize", 0), {})

    (new,) = resubmit(run, "tokenize", 1, replaces=[f"{array}_1"], by="supervisor", client=client)

    terms = [f"afterok:{job}(unfulfilled)" for job in (new, f"{array}_2")]
    assert sorted(waits_for(slurm, after).split(",")) == sorted(terms)


def test_what_waits_for_an_array_waits_through_the_requeue_of_an_element(
    slurm: Cluster, client: Client, run: RunDir, start: Callable[..., Submission]
) -> None:
    """The other element finishes meanwhile."""
    go = run.root / "go"
    again = f'[ "$SLURM_RESTART_COUNT" ] && until [ -e {go} ]; do sleep 0.1; done && exit 0'
    start(f'{again}; [ "$SLURM_ARRAY_TASK_ID" = 1 ] || exit 0; exec sleep 600',
          tasks=2, stage="tokenize")  # fmt: skip
    array = last_submit(run)["job_ids"][0].split("_")[0]
    after = slurm.submit("true", f"--dependency=afterok:{array}", *QUIET)
    slurm.wait_job(f"{array}_1", "RUNNING")

    assert client.requeue(f"{array}_1")

    wait(lambda: restarts_of(client, f"{array}_1") == 1, "the requeue")
    assert waits_for(slurm, after) == f"afterok:{array}_*(unfulfilled)"
    go.touch()
    slurm.wait_job(after, "COMPLETED")


def test_a_delay_and_bad_nodes_reach_slurm_and_unknown_nodes_do_not(
    slurm: Cluster, client: Client, run: RunDir, start: Callable[..., Submission]
) -> None:
    start(WAITS)
    (old,) = last_submit(run)["job_ids"]

    (new,) = resubmit(
        run, "pretrain", 0, replaces=[old], by="supervisor",
        exclude=["nosuch", "cpu02", "gpu01"], delay=300, client=client,
    )  # fmt: skip

    facts = slurm.run("scontrol", "show", "job", "-o", new)
    assert "ExcNodeList=cpu02 " in facts
    wait(lambda: "BeginTime" in slurm.run("squeue", "-h", "-o", "%r", "-j", new), "its delay")
    script = (run.attempt("pretrain", 2) / f"{new}_submission.sh").read_text()
    assert "--signal=B:USR2@30\n" in script
    assert last_submit(run)["exclude"] == ["cpu02"]


def test_of_two_recoveries_at_once_one_submits(
    slurm: Cluster, client: Client, run: RunDir, start: Callable[..., Submission]
) -> None:
    start(WAITS)
    (old,) = last_submit(run)["job_ids"]
    program = (
        "import json, sys; from pathlib import Path; from jobs.contract.rundir import RunDir; "
        "from jobs.supervision.recovery.resubmission import resubmit; "
        f"print(json.dumps(resubmit(RunDir(Path({str(run.root)!r})), 'pretrain', 0, "
        f"replaces=[{old!r}], by=sys.argv[1])))"
    )
    environ = {**slurm.env, "PYTHONPATH": str(REPOSITORY)}

    rivals = [
        subprocess.Popen(
            [sys.executable, "-c", program, by], env=environ, stdout=subprocess.PIPE, text=True
        )
        for by in ("supervisor", "recovery_job", "recover")
    ]
    answers = [json.loads(rival.communicate(timeout=240)[0]) for rival in rivals]

    (new,) = [job for ids in answers for job in ids]
    assert sorted(map(len, answers)) == [0, 0, 1]
    assert sorted(slurm.run("squeue", "-h", "-o", "%i", "-n", "trial-tiny-0.pretrain").split()) == (
        sorted([old, new])
    )
    assert held_back(run, attempt_history.read(run), "pretrain", [0], [old]) == (
        f"pretrain: job {new} resumes it already"
    )


def test_a_submission_that_was_killed_is_taken_over(
    slurm: Cluster, client: Client, run: RunDir, start: Callable[..., Submission]
) -> None:
    """It was killed after sbatch had answered, and before anything was on record."""
    asked = start(WAITS, tasks=2, stage="tokenize")
    olds = last_submit(run)["job_ids"]
    after = slurm.submit("true", f"--dependency=afterok:{olds[0].split('_')[0]}", *QUIET)
    run.attempt("tokenize", 2).mkdir()
    intent = {
        "stage": "tokenize",
        "attempt": 2,
        "indices": [0, 1],
        "scheduler": "slurm",
        "by": "supervisor",
        "replaces": olds,
    }
    append_event(run, "intent", **intent)
    news = sbatch.submit(run, replace(asked, attempt=2), client)

    ids = resubmit(run, "tokenize", [0, 1], replaces=olds, by="recovery_job", client=client)

    submitted = last_submit(run)
    assert ids == []
    assert (submitted["job_ids"], submitted["by"], submitted["replaces"]) == (
        news,
        "supervisor",
        olds,
    )
    assert len(submitted["recovery_jobs"]) == 1
    terms = [f"afterok:{job}(unfulfilled)" for job in news]
    assert waits_for(slurm, after).split(",") == terms
    assert attempt_history.read(run).unanswered == []


def test_a_requeue_because_of_the_storage_is_known_to_the_next_start(
    slurm: Cluster, client: Client, run: RunDir, start: Callable[..., Submission]
) -> None:
    """``test_scheduler`` has an ordinary user's change of a comment."""
    start(WAITS, tasks=2)
    _, element = last_submit(run)["job_ids"]
    slurm.wait_job(element, "RUNNING")
    first = StartEvent(time.time(), "pretrain", 1, 1, element, time.time())
    run.lock.mkdir()  # a folder in a file's place stands for storage that takes nothing

    attempt = AttemptRef(run, "pretrain", 1, 1, first.began)
    limits = {"requeue_seconds": 0.0, "storage_seconds": 0.0}
    allocation = Allocation(Job(element), client)
    runner = ActionRunner(attempt, allocation, RunReader(run), lambda: False, **limits)
    code = runner.execute(Decision(RetryAction.SUBMIT, "the disk is full"))
    wait(lambda: restarts_of(client, element) == 1, "the requeue")
    slurm.wait_job(element, "RUNNING")
    second = replace(first, began=time.time(), restarts=1)
    wait(lambda: recorded_report(client, run.name, first).state == "REQUEUED", "the accounting")

    reports = [recorded_report(client, run.name, item) for item in (first, second)]
    assert code == SUCCESSOR
    assert [report.storage_requeue for report in reports] == [True, False]
    name, comment = f"{run.name}.pretrain", f"run={run.name},attempt=1"
    assert client.find(name, comment, run.code) == [element.partition("_")[0]]


def restarts_of(client: Client, job_id: str) -> int:
    facts = client.job(job_id)
    return facts.restarts if facts else 0


def test_after_a_cancellation_nothing_is_resumed(
    slurm: Cluster, client: Client, run: RunDir, start: Callable[..., Submission]
) -> None:
    start(WAITS)
    (old,) = last_submit(run)["job_ids"]
    append_event(run, "cancel", job_ids=[old])

    assert resubmit(run, "pretrain", 0, replaces=[old], by="recovery_job", client=client) == []
    assert run.attempts("pretrain") == [1]


def test_a_job_inside_a_job_inherits_nothing_of_it(
    slurm: Cluster, client: Client, run: RunDir, start: Callable[..., Submission]
) -> None:
    """The outer job submits the inner one, whose batch step writes down what it sees."""
    seen = run.root / "seen"
    start(f"env >{seen}.part && mv {seen}.part {seen}; exec sleep 600")
    (old,) = last_submit(run)["job_ids"]
    wait(seen.exists, "the first job")
    seen.unlink()
    program = (
        "from pathlib import Path; from jobs.contract.rundir import RunDir; "
        "from jobs.supervision.recovery.resubmission import resubmit; "
        f"resubmit(RunDir(Path({str(run.root)!r})), 'pretrain', 0, replaces=[{old!r}], by='x')"
    )
    script = run.root / "outer.sh"
    script.write_text(
        f"#!/bin/sh\nexport PYTHONPATH={REPOSITORY} SLURM_CPU_BIND=none MASTER_ADDR=x\n"
        f'exec {sys.executable} -c "{program}"\n'
    )

    outer = slurm.run("sbatch", "--parsable", "--cpus-per-task=3", *QUIET, script).strip()
    wait(seen.exists, "the second job")

    lines = dict(line.split("=", 1) for line in seen.read_text().splitlines() if "=" in line)
    assert lines["SLURM_JOB_ID"] not in (old, outer)
    assert not {"SLURM_CPU_BIND", "MASTER_ADDR", "SLURM_CPUS_PER_TASK"} & lines.keys()
    assert lines["SLURM_CONF"] == os.environ["SLURM_CONF"]
