"""Run a subprocess with a hard time-out, even if it is stuck in uninterruptible sleep (state D), as
by a broken driver or a dead file server. Standard library only.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

LAST_SECONDS = 1.0
"""For the end of what was killed, which may be stuck."""


@dataclass(frozen=True)
class CommandResult:
    """The output and exit code of a command."""

    code: int | None
    """None when there was no end in time."""
    out: str
    err: str


def run(command: Sequence[str], seconds: float, grace: float = 0.0) -> CommandResult:
    """Run a command with a hard time-out; the end of a killed one is not awaited for long.

    Args:
        command: with its arguments.
        seconds: until it is killed.
        grace: seconds between SIGTERM and SIGKILL; 0 sends no SIGTERM.

    Raises:
        OSError: it cannot be started.
    """
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    try:
        out, err = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return end(child, grace)
    return CommandResult(child.returncode, out, err)


def end(child: subprocess.Popen[str], grace: float) -> CommandResult:
    """Kill a child whose time is over, and return its output so far."""
    ways = [(child.terminate, grace), (child.kill, LAST_SECONDS)]
    out, err = "", ""
    for stop, seconds in ways if grace else ways[1:]:
        stop()
        try:
            out, err = child.communicate(timeout=seconds)
            break
        except subprocess.TimeoutExpired as error:
            out, err = text(error.stdout), text(error.stderr)
    else:
        for pipe in (child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
        child.poll()  # it may be gone, with a child of its own that keeps the pipes
    return CommandResult(None, out, err)


def text(printed: str | bytes | None) -> str:
    """Decode the output so far, which Python returns as bytes."""
    return printed.decode(errors="replace") if isinstance(printed, bytes) else printed or ""
