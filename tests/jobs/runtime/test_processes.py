"""Processes of ``/proc``: those that a process has started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from jobs.runtime import processes

from ...ranks import wait_until

END = """
import subprocess
from jobs.runtime import processes

def start():
    command = ["sh", "-c", "sleep 600 & echo $$ $!; wait"]
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    print(child.stdout.readline(), end="", flush=True)

start()
with processes.ending_children():
    start()
"""


def test_children_end_with_what_they_started_and_earlier_ones_stay() -> None:
    done = subprocess.run([sys.executable, "-c", END], capture_output=True, text=True, check=True)

    shell, sleep, *later = map(int, done.stdout.split())
    try:
        wait_until(lambda: all(map(is_gone, later)))
        assert len(later) == 2
        assert not is_gone(shell)
        assert not is_gone(sleep)
    finally:
        for pid in (shell, sleep):
            os.kill(pid, signal.SIGKILL)


def is_gone(pid: int) -> bool:
    """Return whether a process has ended."""
    found = processes.read(pid)
    return found is None or found.state == "Z"
