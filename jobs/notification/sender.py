"""Start the process that sends a run's notifications, and wait for it before a job ends. Nothing
here ever fails or delays a run. Standard library only.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress

from jobs.contract.rundir import RunDir
from jobs.notification.delivery import SECONDS, child_environment
from jobs.runtime.log import log

WAIT_SECONDS = SECONDS + 5.0
"""At the end of a job, whose processes Slurm kills: for what is being sent."""


def has_receivers(run: RunDir) -> bool:
    """Return whether a run has receivers; False where the storage does not answer."""
    return os.path.exists(run.notify)


def command(run: RunDir) -> list[str]:
    """Return the command that sends a run's notifications."""
    return [sys.executable, "-m", "jobs.notification", str(run.root)]


def send_apart(run: RunDir) -> None:
    """Send a run's notifications in a process that nobody waits for and that prints nothing."""
    if has_receivers(run):
        with suppress(OSError):
            subprocess.run(
                ["/bin/sh", "-c", '"$0" "$@" &', *command(run)],
                env=child_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                check=False,
            )


class Sender:
    """Sends the notifications of a run in processes of their own."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._children: list[subprocess.Popen[bytes]] = []

    def send(self) -> None:
        """Send what was appended to the run's log, without waiting for it."""
        self._children = [child for child in self._children if child.poll() is None]
        if not has_receivers(self._run):
            return
        try:
            child = subprocess.Popen(
                command(self._run),
                env=child_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            log(f"no notification is sent: {error.strerror}")
            return
        self._children.append(child)

    def wait(self, seconds: float = WAIT_SECONDS) -> None:
        """Wait for what is being sent, but no longer than that."""
        deadline = time.monotonic() + seconds
        for child in self._children:
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, deadline - time.monotonic()))
