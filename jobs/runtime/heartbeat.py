"""Heartbeats of a rank in memory of its own node: its phase, and its step. Standard library only.

A heartbeat is a write into a mapped file and takes about a microsecond. No shared file system is
involved, so a file system that hangs is visible: a rank that waits for it sends no more heartbeats,
while other ranks still do.

The file is unlinked after creation; other processes of the same user find it via ``/proc/PID/fd``,
in any container, and it disappears with the rank. Its name, which ``/proc`` still shows, has the
node, since the nodes of a test cluster share one host.
"""

from __future__ import annotations

import faulthandler
import hashlib
import mmap
import os
import signal
import stat
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from jobs.contract import rundir
from jobs.contract.job import node_name
from jobs.runtime import processes

STACK_SIGNAL = signal.SIGUSR1
"""Requests the stacks of a rank's threads. Slurm, submitit and torch do not use it, and only
``stack_dump`` sends it."""

MAGIC = b"mdtbeat2"
IDENTITY = struct.Struct("<8sq")
"""Magic and rank: written once, last."""
BEAT = struct.Struct("<dqqq")
"""Monotonic seconds, phase, step, ticks: written by each heartbeat. There is no lock: a reader may
get parts of two heartbeats, which is harmless."""
PACE = struct.Struct("<qddd")
"""The fields of ``Pace``, written after each step."""
PACE_OFFSET = IDENTITY.size + BEAT.size
REQUEST = struct.Struct("<q")
"""How often the rank's collectives were requested: written by others, read by the rank."""
REQUEST_OFFSET = PACE_OFFSET + PACE.size
SIZE = REQUEST_OFFSET + REQUEST.size
"""Requested stacks follow."""


class Phase(IntEnum):
    """The phase of a rank; each has its own timeout (``jobs.supervision.ranks.hang_detector``)."""

    STARTUP = 0
    """Until the attempt's first step is done."""
    STEP = 1
    CHECKPOINT = 2
    VALIDATION = 3
    LEAVING = 4

    @property
    def label(self) -> str:
        """Return the name in records and progress files."""
        return self.name.lower()


class Pace(NamedTuple):
    """Sums over the steps of a rank since it started. Differences show how fast a rank is."""

    steps: int
    seconds: float
    data: float
    """Seconds in which it waited for samples."""
    communication: float
    """Seconds from the end of its backward pass to the reduced gradients, in the reduction of the
    loss, and of its forward pass waiting for weights of other ranks, so that a rank that is faster
    than its peers has more of them."""


@dataclass(frozen=True)
class Heartbeat:
    """The newest heartbeat of a rank."""

    file: Path
    """Its path among the open files of the rank's process."""
    rank: int
    pid: int
    started: int
    """Start time of its process (``jobs.runtime.processes``), by which a reused pid is detected."""
    time: float
    """On this node's monotonic clock, seconds."""
    phase: Phase
    step: int
    ticks: int
    """Heartbeats so far, without those of ``touch``. All ranks send them at the same points of the
    program, so a rank with fewer ticks than its peers is behind them.
    """
    pace: Pace


class HeartbeatWriter:
    """The writer of one rank's heartbeats: into private memory until ``open`` creates the file."""

    def __init__(self) -> None:
        self._memory: bytearray | mmap.mmap = bytearray(SIZE)
        self._handle: int | None = None
        self._phase = Phase.STARTUP
        self._step = 0
        self._ticks = 0
        self._pace = Pace(0, 0.0, 0.0, 0.0)

    def open(self, name: str, rank: int, folders: tuple[Path, ...]) -> None:
        """Write heartbeats and requested stacks into a file until the process ends.

        Args:
            name: the result of ``label``.
            folders: of this node; the first in which the file can be created is used.

        Raises:
            OSError: the file can be created in none of them.
        """
        handle = _unlinked_file(f"{name}-{rank}", folders)
        os.lseek(handle, SIZE, os.SEEK_SET)
        # Before the first heartbeat: its readers may send the signal, which kills by default.
        faulthandler.register(STACK_SIGNAL, file=handle)
        memory = mmap.mmap(handle, SIZE)
        self._handle, self._memory = handle, memory
        self.beat()
        IDENTITY.pack_into(memory, 0, MAGIC, rank)
        os.register_at_fork(after_in_child=self._detach_child)

    def beat(self, phase: Phase | None = None, step: int | None = None) -> None:
        """Record a heartbeat, optionally with a new phase or step."""
        if phase is not None:
            self._phase = phase
        if step is not None:
            self._step = step
        self._ticks += 1
        self.touch()

    def touch(self) -> None:
        """Record that the rank lives, in work that it does alone: ticks compare the ranks."""
        BEAT.pack_into(
            self._memory, IDENTITY.size, time.monotonic(), self._phase, self._step, self._ticks
        )

    def add_step(self, seconds: float, data: float, communication: float) -> None:
        """Add the times of a step to the rank's pace."""
        pace = self._pace
        self._pace = Pace(
            pace.steps + 1,
            pace.seconds + seconds,
            pace.data + data,
            pace.communication + communication,
        )
        PACE.pack_into(self._memory, PACE_OFFSET, *self._pace)

    def record_requests(self) -> int:
        """Return how often the collectives of this rank were requested."""
        (count,) = REQUEST.unpack_from(self._memory, REQUEST_OFFSET)
        return int(count)

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """Set a phase for the block, then the previous one."""
        before = self._phase
        self.beat(phase)
        yield
        self.beat(before)

    def _detach_child(self) -> None:
        """Detach a forked process, such as a checkpoint writer, from the heartbeat file."""
        faulthandler.unregister(STACK_SIGNAL)
        if self._handle is not None and isinstance(self._memory, mmap.mmap):
            self._memory.close()
            os.close(self._handle)
        self._memory, self._handle = bytearray(SIZE), None


def find(
    run: rundir.RunDir,
    stage: str,
    index: int,
    attempt: int,
    node: str = "",
    environ: Mapping[str, str] = os.environ,
) -> dict[int, Heartbeat]:
    """Return the newest heartbeat of every live rank of an attempt on a node of this host, by rank.

    Args:
        node: by default the one in ``environ``.
    """
    name = label(run, stage, index, attempt, node or node_name(environ))
    beats = (beat for file in _open_files(f"{name}-") if (beat := read(file)) is not None)
    return {beat.rank: beat for beat in beats}


def read(file: Path) -> Heartbeat | None:
    """Return the newest heartbeat in a file from ``find``; None if the file is gone."""
    content = _content(file)
    pid = int(file.parent.parent.name)
    process = processes.read(pid)
    if content is None or process is None:
        return None
    return Heartbeat(file, content.rank, pid, process.started, *content.beat, content.pace)


def stacks(file: Path) -> str:
    """Return the stacks that a rank has written so far."""
    content = _content(file)
    return "" if content is None else content.stacks


def request_record(file: Path) -> None:
    """Request the collectives of a rank (``jobs.engine.profiling.flight_recorder``).

    Raises:
        OSError: the file is gone.
    """
    with open(os.open(file, os.O_RDWR), "r+b") as opened:
        opened.seek(REQUEST_OFFSET)
        (count,) = REQUEST.unpack(opened.read(REQUEST.size))
        opened.seek(REQUEST_OFFSET)
        opened.write(REQUEST.pack(count + 1))


def folders(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the folders for a rank's file: memory, else the folder of temporary files."""
    return Path("/dev/shm"), Path(environ.get("TMPDIR") or "/tmp")


def label(run: rundir.RunDir, stage: str, index: int, attempt: int, node: str) -> str:
    """Return the name of an attempt's ranks on a node, with a digest of the run's folder."""
    digest = hashlib.sha256(os.fsencode(run.root.resolve())).hexdigest()[:12]
    return f"meditron-{digest}-{node}-{stage}-{index:05d}-{attempt}"


class _Content(NamedTuple):
    rank: int
    beat: tuple[float, Phase, int, int]
    pace: Pace
    stacks: str


def _content(file: Path) -> _Content | None:
    """Return the content of a rank's file; None if it is not such a file, not ready, or gone."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK)  # the descriptor may now be a pipe
    except OSError:
        return None
    with open(handle, "rb") as opened:
        is_file = stat.S_ISREG(os.fstat(handle).st_mode)
        data = opened.read() if is_file else b""
    if len(data) < SIZE or not data.startswith(MAGIC):
        return None
    _, rank = IDENTITY.unpack_from(data, 0)
    moment, phase, step, ticks = BEAT.unpack_from(data, IDENTITY.size)
    pace = Pace(*PACE.unpack_from(data, PACE_OFFSET))
    text = data[SIZE:].decode(errors="replace")
    return _Content(rank, (moment, Phase(phase), step, ticks), pace, text)


def _open_files(text: str) -> Iterator[Path]:
    """Yield open files of this host's processes whose original name contains a text.

    Processes of other users are skipped, since their files are not visible.
    """
    for pid in filter(str.isdigit, os.listdir("/proc")):
        folder = f"/proc/{pid}/fd/"
        with suppress(OSError):
            for number in os.listdir(folder):
                if text in _target(folder + number):
                    yield Path(folder, number)


def _target(link: str) -> str:
    """Return the target of a link; empty if the link is gone."""
    try:
        return os.readlink(link)
    except OSError:
        return ""


def _unlinked_file(name: str, folders: tuple[Path, ...]) -> int:
    """Create a file of SIZE zeros, unlink it, and return its descriptor.

    Raises:
        OSError: it can be created in no folder.
    """
    problem = OSError(f"no folder for {name}")
    for folder in folders:
        path = folder / f"{name}-{uuid4().hex[:8]}"
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            problem = error
            continue
        path.unlink()
        try:
            os.posix_fallocate(handle, 0, SIZE)  # or a full tmpfs would kill the rank with SIGBUS
        except OSError as error:
            os.close(handle)
            problem = error
        else:
            return handle
    raise problem
