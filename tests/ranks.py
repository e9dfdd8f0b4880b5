"""Stand-ins for ranks: programs that a task's `python` starts instead of an interpreter."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from jobs.supervision.ranks import local_ranks

PATIENCE = 240.0
"""Seconds that something may take that is soon done where the machine is idle."""

PRELUDE = """
import os, signal, sys, time
from pathlib import Path
from jobs.runtime.context import context_from
from jobs.runtime.rank_exit import describe_error, write_rank_exit
stage, run, index = sys.argv[4:7]
context = context_from(Path(run), stage, int(index), os.environ)
rank = context.rank

def say(code, message, hint=""):
    write_rank_exit(context, code, "TaskError", message, hint)
    sys.exit(code)

def die(number):
    os.kill(os.getpid(), number)
    time.sleep(60)

def wait_for(name):
    while not context.path(name).exists():
        time.sleep(0.01)
"""
"""The program is started as `python -u -m jobs STAGE RUN INDEX` would be."""

FINISH = "context.finish([], [], {})"

LINGER = (
    "context.stop.install()",
    "context.path(f'there-{context.rank}').touch()",
    "there = [context.path(f'there-{rank}') for rank in range(context.world_size)]",
    "while not all(path.exists() for path in there): time.sleep(0.01)",
    "context.path('ready').write_text(str(os.getpid()))",
    "while not context.stop: time.sleep(0.01)",
)
"""Lines that announce that all ranks run, and wait for a stop request."""

DEAF = (
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "context.path('ready').write_text(str(os.getpid()))",
    "time.sleep(600)",
)


def rank_program(folder: Path, *lines: str) -> tuple[str, ...]:
    """Write a stand-in that runs these lines, and return the `python` of its task."""
    script = folder / f"rank-{uuid4().hex}.py"
    script.write_text(PRELUDE + "\n".join(lines) + "\n")
    return sys.executable, "-u", str(script)


def waits_for_a_lock(thread: threading.Thread) -> bool:
    """Return whether a thread is in the loop that waits for a lock."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame and frame.f_code.co_name != "locked_within":
        frame = frame.f_back
    return frame is not None


def wait_until(fact: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait for a condition that becomes true soon."""
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    """Return whether a process has ended, reaped or not."""
    return local_ranks.look_up(pid) is None


def kill_processes_about(folder: Path) -> None:
    """Kill the processes that ``processes_about`` lists, and those that they start meanwhile."""

    def is_empty() -> bool:
        found = processes_about(folder)
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return found == []

    wait_until(is_empty)


def processes_about(folder: Path) -> list[int]:
    """Return the other running processes whose command line names something in a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(folder) in words and not is_gone(int(entry.name)):
                found.append(int(entry.name))
    return found
