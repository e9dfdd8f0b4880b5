"""Commands that do not end."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from jobs.runtime import subprocesses


def test_what_a_command_prints_and_how_it_ends() -> None:
    result = subprocesses.run(["sh", "-c", "echo out; echo err >&2; exit 3"], seconds=60)

    assert result == subprocesses.CommandResult(3, "out\n", "err\n")


@pytest.mark.parametrize("grace", [0.0, 0.5])
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_process_that_cannot_be_killed_is_not_awaited(
    monkeypatch: pytest.MonkeyPatch, grace: float
) -> None:
    for way in ("kill", "terminate"):  # as if stuck in the kernel
        monkeypatch.setattr(subprocess.Popen, way, lambda _: None)
    began = time.monotonic()

    result = subprocesses.run(["sh", "-c", "echo $$; echo why >&2; exec sleep 50"], 1, grace)

    assert time.monotonic() - began < 30
    os.kill(int(result.out), signal.SIGKILL)
    assert (result.code, result.err) == (None, "why\n")


def test_a_child_of_the_killed_that_keeps_its_pipes_is_not_awaited() -> None:
    began = time.monotonic()

    result = subprocesses.run(["sh", "-c", "sleep 50 & echo $!; exec sleep 50"], seconds=1)

    assert time.monotonic() - began < 30
    os.kill(int(result.out), signal.SIGKILL)
    assert result.code is None


def test_a_terminated_process_may_still_write_output() -> None:
    polite = "trap 'echo bye; kill $!; exit' TERM; sleep 50 & wait"

    result = subprocesses.run(["sh", "-c", polite], seconds=1, grace=20)

    assert result == subprocesses.CommandResult(None, "bye\n", "")


def test_a_command_that_is_not_there_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        subprocesses.run(["none-such"], seconds=1)
