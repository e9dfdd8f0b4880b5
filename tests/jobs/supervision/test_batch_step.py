"""The callable that submitit calls: which code it runs, and how it leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from jobs.contract import done_markers, rundir, specs
from jobs.contract.files import FORMAT, write_json

from ...exits import exit_of
from ..conftest import Workbench

REPOSITORY = Path(__file__).parents[3]

NEVER = "not retried: a retry would fail the same way"
CALL = "import sys; from jobs.supervision import batch_step; batch_step.run_task(*sys.argv[1:])"


def call(run: rundir.RunDir, indices: str = "0", **more: str) -> subprocess.CompletedProcess[str]:
    """Call the entry point as submitit does in the batch step: four strings."""
    return subprocess.run(
        [sys.executable, "-c", CALL, str(run.root), "curate", indices, "1"],
        cwd=REPOSITORY,
        env={**os.environ, **more},
        capture_output=True,
        text=True,
        check=False,
    )


def test_other_code_than_the_runs_own_is_refused_and_recorded(tmp_path: Path) -> None:
    run = rundir.RunDir(tmp_path)
    run.code.mkdir()

    done = call(run)

    sentence = f"the code in {REPOSITORY} was loaded instead of the run's own in {run.code}"
    assert done.returncode == 2
    assert done.stderr == f"configuration: {sentence}; {NEVER}\n"
    record = exit_of(run, "curate", 1)
    assert (record["code"], record["class"], record["message"]) == (2, "configuration", sentence)


def test_damaged_code_of_the_run_is_refused_and_recorded(tmp_path: Path) -> None:
    run = rundir.RunDir(tmp_path)
    run.code.symlink_to(REPOSITORY)
    good = {"path": "jobs/__init__.py", "bytes": 0, "sha256": ""}
    write_json(run.code_record, {"files": [good, {**good, "path": "jobs/gone.py"}]})

    done = call(run)

    sentence = (
        f"the run's code in {run.code} is damaged: jobs/__init__.py and 1 more; "
        f"`{run.command('resume')}` restores it"
    )
    assert done.returncode == 2
    assert exit_of(run, "curate", 1)["message"] == sentence


def test_the_exit_code_of_a_task_is_that_of_its_batch_step(tmp_path: Path) -> None:
    run = rundir.RunDir(tmp_path)
    run.code.symlink_to(REPOSITORY)
    path = run.spec("curate", 0)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"format": 9}))

    done = call(run)

    assert done.returncode == 2
    reason = f"format 9, this program reads format {FORMAT}"
    assert done.stderr == f"configuration: {path}: {reason}; {NEVER}\n"


def test_a_finished_task_that_is_requeued_starts_no_ranks(bench: Workbench) -> None:
    bench.run.code.symlink_to(REPOSITORY)
    task = bench.curate()
    digest = specs.digest(task.spec)
    done_markers.write_done(
        bench.run, "curate", 0, spec_digest=digest, inputs=[], outputs=[], summary={}, seconds=1.0
    )

    done = call(bench.run)

    assert (done.returncode, done.stderr) == (0, "curate task 0 has finished already\n")
    assert not bench.run.events.exists()
    assert not bench.run.attempt("curate", 1).exists()


def test_each_element_of_an_array_runs_its_own_task(tmp_path: Path) -> None:
    run = rundir.RunDir(tmp_path)
    run.code.mkdir()

    call(run, "3,7", SLURM_ARRAY_JOB_ID="50", SLURM_ARRAY_TASK_ID="1")

    record = exit_of(run, "curate", 1, 7)
    assert (record["index"], record["job_id"]) == (7, "50_1")


def test_a_job_of_one_task_runs_it_whatever_array_it_was_submitted_from(tmp_path: Path) -> None:
    run = rundir.RunDir(tmp_path)
    run.code.mkdir()

    call(run, "3", SLURM_ARRAY_JOB_ID="50", SLURM_ARRAY_TASK_ID="1")

    assert exit_of(run, "curate", 1, 3)["index"] == 3
