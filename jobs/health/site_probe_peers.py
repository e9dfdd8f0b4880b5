"""Two nodes of the probe job compare clocks and locks over the shared file system and TCP."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TextIO

from jobs.contract.files import read_json, write_json

PEER_SECONDS = 70.0
"""For a file to be seen on another node: NFS believes for up to a minute that it is not there
(nfs(5), acdirmax).
"""


TALK_SECONDS = 10.0
"""For an answer of a node that was reached."""


ROUNDS = 5
"""Questions for the time; the quickest answer counts."""


def wait_for_peer(folder: Path) -> dict[str, Any]:
    """The first node: hold the lock, say where it listens, and tell the time to who asks."""
    with open(folder / "shared.lock", "ab") as lock, closing(socket.socket()) as listener:
        fcntl.flock(lock, fcntl.LOCK_EX)
        listener.bind(("", 0))
        listener.listen()
        listener.settimeout(PEER_SECONDS)
        host, port = socket.gethostname(), listener.getsockname()[1]
        write_json(folder / "peer-0.json", {"host": host, "port": port})
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            return {"peer": {"answered": False}}
        with connection, connection.makefile("rw") as lines:
            connection.settimeout(TALK_SECONDS)
            for line in lines:
                if line == "done\n":
                    break
                answer(lines, str(time.time()))
    return {"peer": {"answered": True, "seen": (folder / "peer-1.json").exists()}}


def find_peer(folder: Path) -> dict[str, Any]:
    """The second node: find the first by its file, then ask for the time, and for the lock."""
    deadline = time.monotonic() + PEER_SECONDS
    write_json(folder / "peer-1.json", {})
    where = read_when_there(folder / "peer-0.json", deadline)
    if where is None:
        return {"peer": {"seen": False}}
    found: dict[str, Any] = {"seen": True, "host": where["host"]}
    try:
        left = max(1.0, deadline - time.monotonic())
        connection = socket.create_connection((where["host"], where["port"]), left)
    except OSError as error:
        return {"peer": {**found, "reached": False, "error": str(error.strerror or error)}}
    with connection, connection.makefile("rw") as lines:
        connection.settimeout(TALK_SECONDS)
        found["clock_offset"] = clock_offset(lines)
        found["lock"] = try_lock(folder / "shared.lock")
        answer(lines, "done")
    return {"peer": {**found, "reached": True}}


def read_when_there(path: Path, deadline: float) -> dict[str, Any] | None:
    """A file that another node writes, once it is seen here; None when it is not in time."""
    while time.monotonic() < deadline:
        with suppress(FileNotFoundError):
            return read_json(path)
        os.listdir(path.parent)  # has a network file system look again
        time.sleep(0.2)
    return None


def answer(lines: TextIO, text: str) -> None:
    """Send one line."""
    lines.write(f"{text}\n")
    lines.flush()


def clock_offset(lines: TextIO) -> float:
    """Seconds by which the other node's clock is ahead, give or take half of the quickest round."""
    rounds = []
    for _ in range(ROUNDS):
        asked = time.time()
        answer(lines, "time")
        theirs = float(lines.readline())
        answered = time.time()
        rounds.append((answered - asked, theirs - (asked + answered) / 2))
    return min(rounds)[1]


def try_lock(path: Path) -> str:
    """``held`` when the other node's lock is felt here, ``free`` when it is not, else the error."""
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "held"
        except OSError as error:
            return os.strerror(error.errno or errno.EIO)
    return "free"
