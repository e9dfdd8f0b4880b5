"""Signs of life that a rank leaves in memory of its own node: what it is doing, and how far it is.

A beat is a write into a mapped file, about a microsecond. No file system that nodes share is
involved, so that one which hangs looks like what it is: a rank that no longer beats because it
waits, beside others that still do. Standard library only.

The file has no name any more once it is made: others of the same user find it among the open files
of the rank's process, whatever container that is in, and whatever kills the rank takes the file
along. What the rank's name for it tells, the node above all, since the nodes of a test cluster are
one host, is left in ``/proc``.
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
"""Asks a rank for the stacks of its threads. Slurm, submitit and torch leave it alone, and nobody
sends it while ranks work: only an autopsy does."""

MAGIC = b"mdtbeat1"
IDENTITY = struct.Struct("<8sq")
"""Magic and rank: written once, last."""
BEAT = struct.Struct("<dqqq")
"""Monotonic seconds, phase, step, ticks: written by each beat. Nobody waits for anybody here: a
reader may see the old half of one beat and the new half of the next, which harms nothing."""
SIZE = IDENTITY.size + BEAT.size
"""The stacks that were asked for follow."""


class Phase(IntEnum):
    """What a rank is doing; each has a limit of its own
    (``jobs.supervision.ranks.hang_detector``).
    """

    STARTUP = 0
    """Until the first step of the attempt is done."""
    STEP = 1
    CHECKPOINT = 2
    VALIDATION = 3
    LEAVING = 4

    @property
    def label(self) -> str:
        """As records and progress files have it."""
        return self.name.lower()


@dataclass(frozen=True)
class Heartbeat:
    """The newest beat of a rank."""

    file: Path
    """Among the open files of its process."""
    rank: int
    pid: int
    started: int
    """Start of its process (``jobs.runtime.processes``), which tells it from a later one of the
    same pid.
    """
    time: float
    """On this node's monotonic clock, seconds."""
    phase: Phase
    step: int
    ticks: int
    """Beats so far. All ranks beat at the same places of the program: one that has fewer ticks than
    its peers is behind them.
    """


class HeartbeatWriter:
    """Beats for one rank: into memory nobody sees until ``open`` gives it a file."""

    def __init__(self) -> None:
        self._memory: bytearray | mmap.mmap = bytearray(SIZE)
        self._handle: int | None = None
        self._phase = Phase.STARTUP
        self._step = 0
        self._ticks = 0

    def open(self, name: str, rank: int, places: tuple[Path, ...]) -> None:
        """Beat into a file from now on, and show stacks in it on request, to the end of the
        process.

        Args:
            name: ``label``.
            places: folders of this node, the first that takes the file gets it.

        Raises:
            OSError: none of them does.
        """
        handle = _nameless_file(f"{name}-{rank}", places)
        os.lseek(handle, SIZE, os.SEEK_SET)
        # Before the beats: who finds one may send the signal, which ends a process otherwise.
        faulthandler.register(STACK_SIGNAL, file=handle)
        memory = mmap.mmap(handle, SIZE)
        self._handle, self._memory = handle, memory
        self.beat()
        IDENTITY.pack_into(memory, 0, MAGIC, rank)
        os.register_at_fork(after_in_child=self._leave_to_parent)

    def beat(self, phase: Phase | None = None, step: int | None = None) -> None:
        """Say that this rank lives, and what it begins with or how many steps it has done."""
        if phase is not None:
            self._phase = phase
        if step is not None:
            self._step = step
        self._ticks += 1
        BEAT.pack_into(
            self._memory, IDENTITY.size, time.monotonic(), self._phase, self._step, self._ticks
        )

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """Be in a phase, then in the one before again."""
        before = self._phase
        self.beat(phase)
        yield
        self.beat(before)

    def _leave_to_parent(self) -> None:
        """A process that the rank forks, as to write a checkpoint, is not the rank."""
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
    """The newest beat of every living rank of an attempt on a node of this host, by rank.

    Args:
        node: the one that ``environ`` tells, unless it is named.
    """
    name = label(run, stage, index, attempt, node or node_name(environ))
    beats = (beat for file in _open_files(f"{name}-") if (beat := read(file)) is not None)
    return {beat.rank: beat for beat in beats}


def read(file: Path) -> Heartbeat | None:
    """The newest beat in a file that ``find`` has found; None when it is gone."""
    content = _content(file)
    pid = int(file.parent.parent.name)
    process = processes.read(pid)
    if content is None or process is None:
        return None
    return Heartbeat(file, content.rank, pid, process.started, *content.beat)


def stacks(file: Path) -> str:
    """What a rank has shown of its threads so far."""
    content = _content(file)
    return "" if content is None else content.stacks


def places(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Where a rank may have its file: in memory, else where temporary files go."""
    return Path("/dev/shm"), Path(environ.get("TMPDIR") or "/tmp")


def label(run: rundir.RunDir, stage: str, index: int, attempt: int, node: str) -> str:
    """Tells the ranks of one attempt of a task on one node; two runs may have one name."""
    digest = hashlib.sha256(os.fsencode(run.root.resolve())).hexdigest()[:12]
    return f"meditron-{digest}-{node}-{stage}-{index:05d}-{attempt}"


class _Content(NamedTuple):
    rank: int
    beat: tuple[float, Phase, int, int]
    stacks: str


def _content(file: Path) -> _Content | None:
    """What a rank's file holds; None when it is none, not yet, or no more."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK)  # it may have become a pipe meanwhile
    except OSError:
        return None
    with open(handle, "rb") as opened:
        is_file = stat.S_ISREG(os.fstat(handle).st_mode)
        data = opened.read() if is_file else b""
    if len(data) < SIZE or not data.startswith(MAGIC):
        return None
    _, rank = IDENTITY.unpack_from(data, 0)
    moment, phase, step, ticks = BEAT.unpack_from(data, IDENTITY.size)
    return _Content(rank, (moment, Phase(phase), step, ticks), data[SIZE:].decode(errors="replace"))


def _open_files(text: str) -> Iterator[Path]:
    """Open files of this host's processes whose name, as they were made, holds a text.

    Processes of others are passed over: their files cannot be seen.
    """
    for process in filter(str.isdigit, os.listdir("/proc")):
        folder = f"/proc/{process}/fd/"
        with suppress(OSError):
            for number in os.listdir(folder):
                if text in _target(folder + number):
                    yield Path(folder, number)


def _target(link: str) -> str:
    """What a link says; nothing when it is gone."""
    try:
        return os.readlink(link)
    except OSError:
        return ""


def _nameless_file(name: str, places: tuple[Path, ...]) -> int:
    """An open file of SIZE zeros that is in no folder any more.

    Raises:
        OSError: no place takes it.
    """
    problem = OSError(f"no place for {name}")
    for place in places:
        path = place / f"{name}-{uuid4().hex[:8]}"
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            problem = error
            continue
        path.unlink()
        try:
            os.posix_fallocate(handle, 0, SIZE)  # or a full tmpfs would end the rank with SIGBUS
        except OSError as error:
            os.close(handle)
            problem = error
        else:
            return handle
    raise problem
