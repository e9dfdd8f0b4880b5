"""Jobs of this machine as processes: a job's id, the state of its background process, and the
session that all its processes belong to.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from jobs.supervision.ranks import local_ranks
from meditron_cli.errors import SchedulerError
from meditron_cli.scheduler.base import JobState

PREFIX = "local:"
POLL_SECONDS = 0.1


def pid_of(name: str) -> int:
    """Return the process in a job id, which leads the session of the same number."""
    return int(name.rsplit(":", 2)[1])


def state_of(name: str) -> tuple[str, JobState]:
    """Return a job id with its state.

    Tasks may outlive a background process that was killed until their supervisors notice.
    """
    process = name.removeprefix(PREFIX)
    if process.rsplit(":", 2)[0] != os.uname().nodename:
        return name, JobState.UNKNOWN
    pid = pid_of(name)
    leader = local_ranks.look_up(pid)
    alive = local_ranks.is_alive(process) if leader else bool(members([pid]))
    return name, JobState.ACTIVE if alive else JobState.ENDED


def all_pids() -> list[int]:
    """Return the processes of this machine."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def command_line(pid: int) -> list[bytes]:
    """Return the arguments of a process's command; none when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def members(leaders: Iterable[int]) -> list[int]:
    """Return the processes of the sessions that these processes lead, or led."""
    sessions = set(leaders)
    pids = all_pids()
    return [
        pid for pid in pids if (process := local_ranks.look_up(pid)) and process.session in sessions
    ]


def send_signal(pids: Iterable[int], number: int) -> None:
    """Send a signal to processes; those that are gone are ignored.

    Raises:
        SchedulerError: a process belongs to another user.
    """
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
        except PermissionError as error:
            raise SchedulerError(
                f"process {pid} belongs to another user", hint="only its owner can stop it"
            ) from error


def wait_for_sessions(leaders: Sequence[int], seconds: float) -> None:
    """Wait until the sessions are empty, but no longer than that."""
    deadline = time.monotonic() + seconds
    while members(leaders) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
