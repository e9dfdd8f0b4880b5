"""A run of another user can be read, and changed by nobody but its owner."""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path

import pytest

from jobs.contract.rundir import RunDir

from ...conftest import Bench

NOBODY = 65534


def give_away(run: RunDir) -> str:
    """Let another user own a run, and return the user's name."""
    if os.geteuid() == 0:
        os.chown(run.events, NOBODY, -1)
    else:
        run.events.unlink()
        run.events.symlink_to("/etc/hostname")
    return pwd.getpwuid(run.events.stat().st_uid).pw_name


@pytest.mark.parametrize(
    ("words", "action"),
    [
        (("resume",), "resume"),
        (("cancel",), "cancel"),
        (("cancel", "--save"), "cancel"),
        (("rm", "--yes"), "remove"),
    ],
)
def test_a_run_of_another_user_is_refused_by_its_owners_name(
    meditron: Bench, words: tuple[str, ...], action: str
) -> None:
    meditron.submit()
    run, before = meditron.run(), len(meditron.scheduler.submitted)
    owner = give_away(run)

    command, *options = words
    result = meditron(command, run.name, *options)

    assert result.exit_code == 2
    assert result.stderr.startswith(
        f"error: run {run.name} belongs to {owner}; no other user can {action} it\nhint: `"
    )
    assert len(meditron.scheduler.submitted) == before
    assert meditron.scheduler.cancelled == []
    assert not run.stop_file.exists()


def test_submitting_the_same_as_another_user_does_not_continue_their_run(meditron: Bench) -> None:
    meditron.submit()
    before = len(meditron.scheduler.submitted)
    owner = give_away(meditron.run())

    result = meditron.submit()

    assert result.exit_code == 2
    assert f"belongs to {owner}; no other user can resume it" in result.stderr
    assert len(meditron.scheduler.submitted) == before


def test_a_cancellation_that_the_scheduler_refuses_is_not_on_record(
    meditron: Bench, tmp_path: Path
) -> None:
    meditron.submit()
    meditron.scheduler.refuses_to_cancel = "Slurm refused to cancel: Access/permission denied"

    result = meditron("cancel", meditron.run().name)

    assert result.exit_code == 3
    assert "Access/permission denied" in result.stderr
    assert meditron.events("cancel") == []


@pytest.mark.parametrize("options", [(), ("--save",)])
def test_a_copy_does_not_cancel_the_jobs_of_the_original(
    meditron: Bench, tmp_path: Path, options: tuple[str, ...]
) -> None:
    meditron.submit()
    run = meditron.run()
    copy = tmp_path / "copies" / run.name
    shutil.copytree(run.root, copy, symlinks=True)

    result = meditron("cancel", run.name, *options, "--runs-dir", str(copy.parent))

    assert result.exit_code == 2
    assert f"{copy} is a copy: its jobs work on {run.root}" in result.stderr
    assert meditron.scheduler.cancelled == []
    assert not RunDir(copy).stop_file.exists()


def test_a_moved_run_cancels_its_jobs(meditron: Bench, tmp_path: Path) -> None:
    meditron.submit()
    run = meditron.run()
    (tmp_path / "moved").mkdir()
    run.root.rename(tmp_path / "moved" / run.name)

    result = meditron("cancel", run.name, "--runs-dir", str(tmp_path / "moved"))

    assert result.exit_code == 0
    assert meditron.scheduler.cancelled


def test_a_run_whose_original_cannot_be_read_does_not_cancel_its_jobs(
    meditron: Bench, tmp_path: Path
) -> None:
    meditron.submit()
    run = meditron.run()
    (tmp_path / "copies").mkdir()
    run.root.rename(tmp_path / "copies" / run.name)
    run.root.symlink_to(run.root)  # a path that cannot be resolved

    result = meditron("cancel", run.name, "--runs-dir", str(tmp_path / "copies"))

    assert result.exit_code == 2
    assert f"the jobs work on {run.root}, which cannot be read" in result.stderr
    assert "hint: `scancel 101_0 102_0" in result.stderr
    assert meditron.scheduler.cancelled == []
