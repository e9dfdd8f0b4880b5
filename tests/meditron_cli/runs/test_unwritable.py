"""Commands that change a run whose directory is read-only, full, or denied: one whole hint."""

from __future__ import annotations

import mmap
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from ... import system
from ...conftest import Bench
from ...permissions import run_plainly


@pytest.fixture
def mounted(meditron: Bench) -> Iterator[Bench]:
    """Yield a project with a run on a file system of its own, of 8 MiB."""
    system.require_root("mount a small disk")
    meditron.runs.mkdir()
    mount(meditron, "-t", "tmpfs", "-o", "size=8m", "tmpfs")
    try:
        meditron.submit()
        yield meditron
    finally:
        subprocess.run(["umount", "--lazy", meditron.runs], check=True)


def mount(meditron: Bench, *words: str) -> None:
    subprocess.run(["mount", *words, meditron.runs], check=True)


def hint_of(meditron: Bench, *words: str) -> tuple[str, str]:
    """Run a command on the project's run, which fails; return its error and its hint."""
    command, *options = words
    result = meditron(command, meditron.run().name, *options)
    assert result.exit_code == 2, result.output
    error, hint = result.stderr.splitlines()[-2:]
    return error, hint


COMMANDS = ("cancel", "cancel --save", "resume", "rm --yes")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_read_only_run_names_the_command_for_another_machine(
    mounted: Bench, command: str
) -> None:
    mounted.scheduler.end_all()
    mount(mounted, "-o", "remount,ro")

    error, hint = hint_of(mounted, *command.split())

    again, run = command.removesuffix(" --yes"), mounted.run()
    assert error == f"error: run {run.name} cannot be written: {run.lock}: Read-only file system"
    assert hint == (
        f"hint: `meditron {again} {run.name} --runs-dir {mounted.runs}` where the file system can "
        "be written to"
    )


@pytest.mark.parametrize("command", ["cancel", "resume"])
def test_a_full_disk_names_the_same_command_once_there_is_space(
    mounted: Bench, command: str
) -> None:
    run = mounted.run()
    if command == "resume":
        mounted.scheduler.end_all()
    with run.events.open("a") as log:  # the next event needs a new page
        log.write("\n" * (-run.events.stat().st_size % mmap.PAGESIZE))
    (mounted.runs / ".ballast").write_bytes(bytes(shutil.disk_usage(mounted.runs).free))

    error, hint = hint_of(mounted, command)

    assert error.startswith(f"error: run {run.name} cannot be written: ")
    assert hint == (
        f"hint: free some space, then `meditron {command} {run.name} --runs-dir {mounted.runs}`"
    )


def test_a_denied_cancellation_names_the_file_that_stops_the_jobs(meditron: Bench) -> None:
    meditron.submit()
    run = meditron.run()
    run.lock.chmod(0)

    result = run_plainly("cancel", run.name, "--save", "--runs-dir", str(meditron.runs))

    assert result.returncode == 2
    assert f"error: run {run.name} cannot be written: {run.lock}: Permission denied" in (
        result.stderr
    )
    assert f"hint: `touch {run.stop_file}`" in result.stderr
    assert not run.stop_file.exists()
