"""Checks between two nodes of the probe job: shared storage, locks, host names, clock skew.

The first node writes its address to a file, accepts one TCP connection and sends its time.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from jobs.contract.files import read_json, write_json

PEER_SECONDS = 70.0
"""For a file to appear on another node: an NFS client may cache its absence for up to a minute
(nfs(5), acdirmax).
"""
REPLY_SECONDS = 30.0
"""For the reply of a connected node."""


def serve_peer(folder: Path) -> dict[str, Any]:
    """Run the first node's part: hold the lock, and send the time to the node that connects."""
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
        with connection:
            connection.settimeout(REPLY_SECONDS)
            connection.sendall(f"{time.time()}\n".encode())
            connection.recv(1)  # returns when the peer has tried the lock and closes
    return {"peer": {"answered": True, "seen": (folder / "peer-1.json").exists()}}


def contact_peer(folder: Path) -> dict[str, Any]:
    """Run the second node's part: connect to the first, compare clocks, and try its lock."""
    deadline = time.monotonic() + PEER_SECONDS
    write_json(folder / "peer-1.json", {})
    address = read_when_visible(folder / "peer-0.json", deadline)
    if address is None:
        return {"peer": {"seen": False}}
    result: dict[str, Any] = {"seen": True, "host": address["host"]}
    try:
        timeout = max(1.0, deadline - time.monotonic())
        connection = socket.create_connection((address["host"], address["port"]), timeout)
    except OSError as error:
        return {"peer": {**result, "reached": False, "error": str(error.strerror or error)}}
    with connection, connection.makefile() as lines:
        connection.settimeout(REPLY_SECONDS)
        # Too small by the message's delay: milliseconds, where seconds matter.
        result["clock_offset"] = float(lines.readline()) - time.time()
        result["lock"] = try_lock(folder / "shared.lock")
    return {"peer": {**result, "reached": True}}


def read_when_visible(path: Path, deadline: float) -> dict[str, Any] | None:
    """Read a file of another node once it appears here; None if it does not by the deadline."""
    while time.monotonic() < deadline:
        with suppress(FileNotFoundError):
            return read_json(path)
        os.listdir(path.parent)  # makes a network file system check again
        time.sleep(0.2)
    return None


def try_lock(path: Path) -> str:
    """Return ``held`` if another process holds the lock, ``free`` if none does, else the error."""
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "held"
        except OSError as error:
            return os.strerror(error.errno or errno.EIO)
    return "free"
