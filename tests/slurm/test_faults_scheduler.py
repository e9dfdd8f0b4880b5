"""A scheduler that is down, lacks accounting, or gets the same request twice."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .faults import Laboratory, Trial, Truth, check_reached, kill

pytestmark = pytest.mark.slurm

AWAY_SECONDS = 120


@pytest.mark.full
def test_a_run_survives_two_minutes_without_slurmctld_and_a_fault_in_them(
    laboratory: Laboratory, truth: Truth
) -> None:
    """A rank is killed while no step can start; its restart waits for the controller."""
    trial = laboratory.begin("controller", hold=7)
    attempt = trial.reach(7)
    pid = trial.rank(1)

    laboratory.slurm.stop_service("slurmctld")
    away = time.monotonic()
    trial.hold(12)
    trial.wait_for(lambda: trial.trained()[-1].step == 12, "step 12 without slurmctld")
    since = kill(pid)
    while time.monotonic() < away + AWAY_SECONDS:
        time.sleep(1)
    laboratory.slurm.start_slurmctld()
    trial.hold()
    ended = trial.wait_exit(attempt)
    laboratory.record("slurmctld away for two minutes, and a rank killed", ended, since, "crash")

    assert ended.cause == "crash"
    check_reached(trial, truth)


def without(laboratory: Laboratory, missing: str) -> tuple[str, str]:
    """Return the change to a profile that removes a program from the PATH of jobs."""
    folder = laboratory.desk.folder / f"without-{missing}"
    folder.mkdir()
    for place in laboratory.slurm.env["PATH"].split(os.pathsep):
        for program in Path(place).glob("*"):
            if program.name != missing and not (folder / program.name).exists():
                (folder / program.name).symlink_to(program)
    return "  set:\n", f"  set:\n    PATH: {folder}\n"


def test_without_sacct_the_run_continues_all_the_same(laboratory: Laboratory, truth: Truth) -> None:
    """At a site without accounting the recovery job has only the queue to query."""
    laboratory.profile("silent", without(laboratory, "sacct"))
    trial = laboratory.begin("silent", hold=7, cluster="silent")
    attempt = trial.reach(7)

    since = kill(trial.supervisor())
    ended = trial.wait_exit(attempt)
    trial.hold()
    laboratory.record("sacct absent, supervisor killed", ended, since, "crash")

    assert ended.exit["action"] == "submit"
    check_reached(trial, truth)


@pytest.mark.full
def test_a_requeue_while_resume_is_typed_starts_one_training_only(
    laboratory: Laboratory, truth: Truth
) -> None:
    trial = laboratory.begin("twice", hold=7)
    attempt = trial.reach(7)
    job = trial.job()
    environ = {**laboratory.slurm.env, "MEDITRON_RUNS": str(laboratory.desk.runs)}
    words = [sys.executable, "-m", "meditron_cli", "resume", trial.run.name]

    since = time.time()
    typed = [
        subprocess.Popen(words, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    laboratory.slurm.run("scontrol", "requeue", job)
    errors = [process.communicate(timeout=240)[1] for process in typed]
    ended = trial.wait_exit(attempt)
    trial.hold()
    laboratory.record("requeue while resume is typed, twice", ended, since, "preempted")
    assert ended.cause == "preempted"

    assert {process.returncode for process in typed} <= {0, 2, 3}, errors
    check_reached(trial, truth)
    order = [line.attempt for line in trial.trained()]
    assert order == sorted(order), "no attempt trains while another does"


@pytest.fixture
def watched(laboratory: Laboratory) -> Iterator[Trial]:
    """Yield a trial on a site whose nodes submit nothing and whose jobs are not queued again, and a
    person who has typed `meditron recover`.
    """
    site = "slurm:\n  requeue: false\n  submit_from_jobs: false\n"
    laboratory.profile("strict", without(laboratory, "sbatch"), ("slurm:\n", site))
    trial = laboratory.begin("watched", hold=7, cluster="strict")
    environ = {**laboratory.slurm.env, "MEDITRON_RUNS": str(laboratory.desk.runs)}
    words = ["-m", "meditron_cli", "recover", trial.run.name, "--interval", "2"]
    with (laboratory.desk.folder / "watch.log").open("w") as log:
        typed = subprocess.Popen([sys.executable, *words], env=environ, stdout=log, stderr=log)
    yield trial
    typed.terminate()
    typed.wait()


def test_where_nodes_submit_nothing_meditron_recover_resubmits(
    laboratory: Laboratory, watched: Trial, truth: Truth
) -> None:
    first = watched.reach(7)
    since = kill(watched.supervisor())
    killed = watched.wait_exit(first)
    second = watched.reach(12, after=first)
    laboratory.record("no sbatch on nodes, supervisor killed", killed, since, "crash")

    since = time.time()
    take = (f"--nodelist={','.join(watched.nodes())}", "--exclusive", "--output=/dev/null")
    urgent = laboratory.slurm.submit("true", "--partition=high", *take)
    laboratory.slurm.wait_job(urgent, "COMPLETED")
    preempted = watched.wait_exit(second)
    # The exit is recorded before the next job: until then there is none to wait for.
    watched.wait_for(lambda: len(watched.events("submit")) == 3, "the job by recover")
    watched.hold()
    check_reached(watched, truth)
    laboratory.record("no sbatch on nodes and no requeue, preempted", preempted, since, "preempted")

    assert (killed.cause, preempted.cause) == ("crash", "preempted")
    assert [event["by"] for event in watched.events("submit")] == ["person", "recover", "recover"]
