"""`meditron rm`: what it removes, what it refuses, and what a kill leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jobs.checkpoints import leases
from jobs.contract.rundir import RunDir
from meditron_cli.main import main
from meditron_cli.runs import remove
from meditron_cli.runs.views import bytes_text
from meditron_cli.scheduler.base import JobState

from ...conftest import Bench

ROOT = Path(__file__).parents[3]


@pytest.fixture
def run(meditron: Bench) -> RunDir:
    """Return a run whose jobs have all ended."""
    assert meditron.submit().exit_code == 0
    for job in meditron.scheduler.jobs:
        meditron.scheduler.put(job, JobState.ENDED, "COMPLETED")
    run = meditron.run()
    run.path("checkpoints").mkdir()
    (run.path("checkpoints") / "shard").write_bytes(b"1" * 2_000_000)
    return run


def answer(meditron: Bench, text: str, *words: str) -> Result:
    """Run `meditron rm` with an answer on stdin."""
    return CliRunner().invoke(main, ["rm", *words], input=text, obj=meditron.services())


def test_a_run_is_removed_once_it_is_confirmed(meditron: Bench, run: RunDir) -> None:
    size = remove.disk_usage(run.root)

    result = answer(meditron, "y\n", run.name)

    assert result.exit_code == 0, result.stderr
    assert list(meditron.runs.iterdir()) == []
    assert f"{run.root}: {bytes_text(size)}\n" in result.stderr
    assert f"remove 1 run, {bytes_text(size)}?" in result.stderr
    assert result.stdout.startswith(f"run {run.name} removed, {bytes_text(size)} freed\n")


@pytest.mark.parametrize("text", ["n\n", "\n", ""])
def test_a_run_stays_without_a_yes(meditron: Bench, run: RunDir, text: str) -> None:
    result = answer(meditron, text, run.name)

    assert result.exit_code == 2
    assert result.stderr.endswith(
        f"error: nothing was removed\nhint: `meditron rm --yes {run.name}` removes without asking\n"
    )
    assert run.record.exists()


def test_the_freed_bytes_are_printed_as_json(meditron: Bench, run: RunDir) -> None:
    free = remove.disk_usage(run.root)

    result = meditron("rm", run.name, "--yes", "--json")

    expected = {"format": 1, "removed": [{"run": run.name, "bytes": free}], "finished": []}
    assert json.loads(result.stdout) == expected
    assert free > 2_000_000


def test_a_file_with_two_names_counts_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1" * 1_000_000)
    before = remove.disk_usage(tmp_path)
    os.link(tmp_path / "a", tmp_path / "b")

    assert remove.disk_usage(tmp_path) == before


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.ACTIVE])
def test_a_run_with_jobs_that_may_be_running_is_refused(
    meditron: Bench, run: RunDir, state: JobState
) -> None:
    job = next(iter(meditron.scheduler.jobs))
    meditron.scheduler.put(job, state)

    result = meditron("rm", run.name, "--yes")

    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        f"error: run {run.name} has jobs that may be alive: {job} ({state.value})",
        f"hint: `meditron cancel {run.name}` cancels them",
    ]
    assert run.record.exists()


def test_a_run_is_refused_while_the_scheduler_does_not_answer(meditron: Bench, run: RunDir) -> None:
    meditron.scheduler.silent = True

    result = meditron("rm", run.name, "--yes")

    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        f"error: the scheduler does not report whether job 101_0 of run {run.name} is alive",
        f"hint: `meditron rm {run.name}` once it answers, or on the machine where the run was "
        "started",
    ]
    assert run.record.exists()


def test_a_run_with_a_leased_checkpoint_is_refused(meditron: Bench, run: RunDir) -> None:
    reader = leases.Holder("verify", 0, 0, "", "n1", 1)

    with leases.leased(run.path("checkpoints"), "iter_0000100", reader, seconds=1e10):
        result = meditron("rm", run.name, "--yes")

    assert result.exit_code == 2
    assert f"error: run {run.name}: iter_0000100 is leased by verify on n1" in result.stderr
    assert run.record.exists()


def test_the_lease_of_a_rank_that_was_killed_keeps_no_run(meditron: Bench, run: RunDir) -> None:
    reader = leases.Holder("evaluate", 0, 1, "77", "n1", 1)

    with leases.leased(run.path("checkpoints"), "iter_0000100", reader, seconds=1e10):
        result = meditron("rm", run.name, "--yes")

    assert result.exit_code == 0
    assert not run.root.exists()


def test_of_several_runs_one_in_use_keeps_all(meditron: Bench, run: RunDir) -> None:
    assert meditron.submit("--new").exit_code == 0

    result = meditron("rm", run.name, f"{run.name}-2", "--yes")

    assert result.exit_code == 2
    assert run.record.exists()


def test_a_beginning_that_is_too_short_is_refused(meditron: Bench, run: RunDir) -> None:
    assert meditron("rm", run.name[:3], "--yes").exit_code == 2
    assert run.record.exists()


def test_a_link_in_the_place_of_a_run_is_refused(meditron: Bench, run: RunDir) -> None:
    elsewhere = meditron.folder / "elsewhere"
    shutil.move(run.root, elsewhere)
    run.root.symlink_to(elsewhere)

    result = meditron("rm", run.name, "--yes")

    assert result.exit_code == 2
    assert f"is a symbolic link to {elsewhere}" in result.stderr
    assert (elsewhere / "run.json").exists()


def test_the_rest_of_a_killed_removal_is_removed_by_the_next(meditron: Bench, run: RunDir) -> None:
    hidden = run.root.with_name(f".{run.name}.removing")
    run.root.rename(hidden)
    (hidden / "run.json").unlink()

    again = meditron("rm", run.name, "--yes")

    assert again.exit_code == 0, again.stderr
    assert again.stderr == f"run {run.name}: an interrupted removal is finished\n"
    assert list(meditron.runs.iterdir()) == []


def test_after_a_killed_removal_no_run_is_visible(meditron: Bench, run: RunDir) -> None:
    run.events.write_text("")  # no jobs to ask a scheduler about
    for number in range(20_000):
        (run.path("checkpoints") / str(number)).touch()
    command = [sys.executable, "-m", "meditron_cli", "rm", run.name, "--yes"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "MEDITRON_RUNS": str(meditron.runs)}
    process = subprocess.Popen(command, env=environ, cwd=meditron.folder)
    while run.root.exists() and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()

    assert [path.name for path in meditron.runs.iterdir()] in (
        [],
        [f".{run.name}.removing"],
    )
    assert meditron("status").exit_code == 0
    assert remove.finish_removals(meditron.runs) in ([], [run.name])
    assert list(meditron.runs.iterdir()) == []
