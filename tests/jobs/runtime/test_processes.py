"""Processes of ``/proc``: those that a process has started."""

from __future__ import annotations

import subprocess
import sys

from jobs.runtime import processes

from ...ranks import wait_until

END = """
import subprocess
from jobs.runtime import processes

command = ["sh", "-c", "sleep 600 & echo $$ $!; wait"]
child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
print(child.stdout.readline(), flush=True)
processes.end_children()
"""


def test_children_end_with_what_they_started() -> None:
    done = subprocess.run([sys.executable, "-c", END], capture_output=True, text=True, check=True)

    first, second = map(int, done.stdout.split())
    wait_until(lambda: is_gone(first) and is_gone(second))


def is_gone(pid: int) -> bool:
    """Return whether a process has ended."""
    found = processes.read(pid)
    return found is None or found.state == "Z"
