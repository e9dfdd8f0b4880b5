"""Run ranks as processes of this machine."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jobs.runtime import processes
from jobs.slurm import srun_output

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal a process gets when its parent dies."""


SUDDEN = tuple(
    -number
    for number in (
        signal.SIGKILL,
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGILL,
        signal.SIGFPE,
    )
)
"""Exit codes of deaths that a lost peer never leads to, so that they are the cause."""


@dataclass(frozen=True)
class LeaveTimeouts:
    """Timeouts for local ranks to exit; Slurm has its own."""

    peers_seconds: float = 30.0
    """Once one rank has failed."""
    leave_seconds: float = 45.0
    """After a stop request."""


class LocalRanks:
    """Ranks as processes of this machine, each with its own process group; they die with the
    supervisor.
    """

    def __init__(
        self,
        command: list[str],
        environments: list[dict[str, str]],
        log: Path,
        timeouts: LeaveTimeouts,
    ) -> None:
        self._timeouts = timeouts
        self._command = command
        self._deadline = float("inf")
        self._code = 0
        self._failures: list[srun_output.FailedTask] = []
        tie = tie_to_parent()
        with log.open("ab") as file:
            self._processes = [
                subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    preexec_fn=tie,  # safe: this process has one thread
                )
                for environment in environments
            ]

    def poll(self) -> int | None:
        """Return None while any rank runs, then 0 or the code of the first that failed; kill ranks
        whose time to exit is over.
        """
        codes = [process.poll() for process in self._processes]
        self._note({rank: code for rank, code in enumerate(codes) if code})
        if None not in codes:
            self._kill()  # processes that the ranks started
            return self._code
        if time.monotonic() > self._deadline:
            self._kill()
        return None

    def stop(self) -> bool:
        """Send SIGTERM to each rank, also to one that a profiler started (``jobs.runtime.nsys``):
        the profiler alone would end, and the rank be killed with its group.
        """
        self._end_within(self._timeouts.leave_seconds)
        for process in self._processes:
            if process.poll() is None:
                rank = processes.running(process.pid, self._command[1:]) or process.pid
                with suppress(ProcessLookupError):
                    os.kill(rank, signal.SIGTERM)
        return True

    def end(self) -> None:
        """Kill all ranks."""
        self._kill()

    def failures(self) -> list[srun_output.FailedTask]:
        """Return the ranks that failed, in the order of detection."""
        return self._failures

    def _note(self, failed: Mapping[int, int]) -> None:
        """Record the first failure, and start the time that the other ranks have to exit."""
        known = {failure.rank for failure in self._failures}
        node = os.uname().nodename
        self._failures += [
            srun_output.FailedTask(rank, node, code, is_cause=not known)
            for rank, code in failed.items()
            if rank not in known
        ]
        if failed and not self._code:
            codes = list(failed.values())
            self._code = next((code for code in codes if code in SUDDEN), codes[0])
            self._end_within(self._timeouts.peers_seconds)

    def _end_within(self, seconds: float) -> None:
        self._deadline = min(self._deadline, time.monotonic() + seconds)

    def _kill(self) -> None:
        for process in self._processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def tie_to_parent() -> Callable[[], None]:
    """Return the function that a child runs before its program: it makes the child lead a process
    group and die with this process, however that dies.
    """
    parent = os.getpid()
    library = ctypes.CDLL(None)

    def tie() -> None:
        os.setpgid(0, 0)
        library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent died before the call
            os.kill(os.getpid(), signal.SIGKILL)

    return tie


def look_up(pid: int) -> processes.Process | None:
    """Return the process of a pid, or None when it is gone or a zombie."""
    process = processes.read(pid)
    return None if process is None or process.state in "ZX" else process


def process_name(pid: int) -> str:
    """Return ``<host>:<pid>:<start>`` of a living process; a reused pid has another name."""
    process = look_up(pid)
    return f"{os.uname().nodename}:{pid}:{process.started if process else 0}"


def is_alive(name: str) -> bool:
    """Return whether a named process exists; valid on the host in its name."""
    _, pid, started = name.rsplit(":", 2)
    process = look_up(int(pid))
    return process is not None and process.started == int(started)
