"""Commands that do not end."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from jobs.runtime import subprocesses
from jobs.runtime.subprocesses import CommandResult

from ...ranks import PATIENCE, is_gone

LIMITS = (1.0, 10.0, 60.0)
"""Seconds until a command is killed: the first in which it has begun, on a machine of any speed."""


def run_once_begun(script: str, grace: float = 0.0) -> CommandResult:
    """Run a shell script that does not end, until it is killed later than it printed something."""
    for seconds in LIMITS:
        result = subprocesses.run(["sh", "-c", script], seconds, grace)
        if result.out:
            break
    return result


def test_what_a_command_prints_and_how_it_ends() -> None:
    result = subprocesses.run(["sh", "-c", "echo out; echo err >&2; exit 3"], seconds=60)

    assert result == CommandResult(3, "out\n", "err\n")


@pytest.mark.parametrize("grace", [0.0, 0.5])
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_process_that_cannot_be_killed_is_not_awaited(
    monkeypatch: pytest.MonkeyPatch, grace: float
) -> None:
    for way in ("kill", "terminate"):  # as if stuck in the kernel
        monkeypatch.setattr(subprocess.Popen, way, lambda _: None)

    result = run_once_begun("echo why >&2; echo $$; exec sleep 600", grace)

    assert not is_gone(int(result.out))
    os.kill(int(result.out), signal.SIGKILL)
    assert (result.code, result.err) == (None, "why\n")


def test_a_child_of_the_killed_that_keeps_its_pipes_is_not_awaited() -> None:
    result = run_once_begun("sleep 600 & echo $!; exec sleep 600")

    assert not is_gone(int(result.out))
    os.kill(int(result.out), signal.SIGKILL)
    assert result.code is None


def test_a_terminated_process_may_still_write_output() -> None:
    polite = "sleep 600 & trap 'echo bye; kill $!; exit' TERM; wait"

    result = run_once_begun(polite, grace=PATIENCE)

    assert result == CommandResult(None, "bye\n", "")


def test_a_command_that_is_not_there_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        subprocesses.run(["none-such"], seconds=1)
