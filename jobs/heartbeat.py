"""Signs of life that a rank leaves in memory of its own node: what it is doing, and how far it is.

A beat is a write into a mapped file, about a microsecond. No file system that nodes share is
involved, so that one which hangs looks like what it is: a rank that no longer beats because it
waits, beside others that still do. Standard library only.

A task of an attempt has one folder on each of its nodes, which only its owner can enter, with
``<rank>.beat`` and ``<rank>.stack`` (what ``jobs.autopsy`` asks a rank for). Its name holds that of
the node, since the nodes of a test cluster are one host.
"""

from __future__ import annotations

import faulthandler
import hashlib
import mmap
import os
import shutil
import signal
import stat
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from jobs import processes, rundir

STACK_SIGNAL = signal.SIGUSR1
"""Asks a rank for the stacks of its threads. Slurm, submitit and torch leave it alone, and nobody
sends it while ranks work: only an autopsy does."""

MAGIC = b"mdtbeat1"
IDENTITY = struct.Struct("<8sqqq")
"""Magic, pid, start of the process in clock ticks, rank: written once."""
BEAT = struct.Struct("<dqqq")
"""Monotonic seconds, phase, step, ticks: written by each beat. Nobody waits for anybody here: a
reader may see the old half of one beat and the new half of the next, which harms nothing."""
SIZE = IDENTITY.size + BEAT.size


class Phase(IntEnum):
    """What a rank is doing; each has a limit of its own (``jobs.hangs``)."""

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
class Beat:
    """The newest beat of a rank."""

    file: Path
    rank: int
    pid: int
    started: int
    """Start of its process (``jobs.processes``), which tells it from a later one of the same pid.
    """
    time: float
    """On this node's monotonic clock, seconds."""
    phase: Phase
    step: int
    ticks: int
    """Beats so far. All ranks beat at the same places of the program: one that has fewer ticks than
    its peers is behind them.
    """

    @property
    def stack_file(self) -> Path:
        """Where the rank writes the stacks of its threads."""
        return stack_file(self.file)


class Heart:
    """Beats for one rank: into memory nobody sees until ``open`` gives it a file."""

    def __init__(self) -> None:
        self._memory: bytearray | mmap.mmap = bytearray(SIZE)
        self._path: Path | None = None
        self._phase = Phase.STARTUP
        self._step = 0
        self._ticks = 0

    def open(self, path: Path, rank: int) -> None:
        """Beat into a file from now on, which appears whole, with the first beat in it.

        Raises:
            OSError: it cannot be made, or the node's memory is full.
        """
        part = path.with_suffix(".part")
        handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            os.posix_fallocate(handle, 0, SIZE)  # or a full tmpfs would end the rank with SIGBUS
            memory = mmap.mmap(handle, SIZE)
        finally:
            os.close(handle)
        own = processes.read(os.getpid())
        IDENTITY.pack_into(memory, 0, MAGIC, os.getpid(), own.started if own else 0, rank)
        self._memory = memory
        self.beat()
        part.replace(path)
        self._path = path

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

    def close(self) -> None:
        """Take this rank's files away; the last rank of the node takes the folder."""
        if self._path is None:
            return
        for path in (self._path, stack_file(self._path)):
            path.unlink(missing_ok=True)
        with suppress(OSError):
            self._path.parent.rmdir()
        self._path = None


def begin(heart: Heart, folder: str, rank: int, environ: Mapping[str, str]) -> str:
    """Let a rank beat where its supervisor looks, and show its stacks when asked.

    Args:
        folder: its name (``folder_name``).

    Returns:
        why this node takes no beats, or nothing.
    """
    reason = ""
    for place in places(environ):
        try:
            path = _private_folder(place / folder) / f"{rank:05d}.beat"
            # In this order: who finds a beat may send the signal, which ends a process otherwise.
            show_stacks_on_request(stack_file(path))
            heart.open(path, rank)
        except OSError as error:
            reason = f"{error.filename or place}: {error.strerror}"
        else:
            return ""
    return reason


def show_stacks_on_request(path: Path) -> None:
    """Have STACK_SIGNAL write the stacks of all threads into a file from now on.

    It stays open to the end of the process: the signal must not meet a closed one, or no handler.

    Raises:
        OSError: the file cannot be made.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    faulthandler.register(STACK_SIGNAL, file=handle)


def find(
    run: rundir.RunDir,
    stage: str,
    index: int,
    attempt: int,
    node: str = "",
    environ: Mapping[str, str] = os.environ,
) -> dict[int, Beat]:
    """The newest beat of every rank of an attempt on a node of this host, by rank.

    Args:
        node: this one unless it is named.
        environ: of the ranks; its TMPDIR is looked into where ``/dev/shm`` holds nothing.
    """
    name = folder_name(run, stage, index, attempt, node or node_name(environ))
    found = {}
    for place in places(environ):
        if _is_ours(place / name):
            beats = map(read, (place / name).glob("*.beat"))
            found.update({beat.rank: beat for beat in beats if beat is not None})
    return found


def read(path: Path) -> Beat | None:
    """The newest beat in a file; None when it is no such file, or gone."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if len(data) != SIZE or not data.startswith(MAGIC):
        return None
    _, pid, started, rank = IDENTITY.unpack_from(data, 0)
    moment, phase, step, ticks = BEAT.unpack_from(data, IDENTITY.size)
    return Beat(path, rank, pid, started, moment, Phase(phase), step, ticks)


def forget(
    run: rundir.RunDir,
    stage: str,
    index: int,
    keep: int | None = None,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Remove what attempts of a task left on this node, all but those of attempt ``keep``.

    Two attempts of a task never work at once (``jobs.supervisor``), so that the others are dead.
    """
    kept = "" if keep is None else folder_name(run, stage, index, keep, node_name(environ))
    prefix = _prefix(run, stage, index, node_name(environ))
    for place in places(environ):
        for path in place.glob(f"{prefix}*"):
            if path.name != kept and _is_ours(path):
                shutil.rmtree(path, ignore_errors=True)


def places(environ: Mapping[str, str]) -> tuple[Path, Path]:
    """Where the folder may lie, best first: in memory, else where temporary files go."""
    return Path("/dev/shm"), Path(environ.get("TMPDIR") or "/tmp")


def folder_name(run: rundir.RunDir, stage: str, index: int, attempt: int, node: str) -> str:
    """The folder of one attempt of a task on one node."""
    return f"{_prefix(run, stage, index, node)}{attempt}"


def stack_file(beats: Path) -> Path:
    """Beside the file a rank beats into, where it writes the stacks of its threads."""
    return beats.with_suffix(".stack")


def node_name(environ: Mapping[str, str]) -> str:
    """This node as Slurm knows it, else as the kernel does."""
    return environ.get("SLURMD_NODENAME") or os.uname().nodename


def _prefix(run: rundir.RunDir, stage: str, index: int, node: str) -> str:
    """What the names of a task's folders on a node begin with; two runs may have one name."""
    digest = hashlib.sha256(os.fsencode(run.root.resolve())).hexdigest()[:12]
    return f"meditron-{os.getuid()}-{digest}-{node}-{stage}-{index:05d}-"


def _private_folder(path: Path) -> Path:
    """A folder that only this user enters, made if need be.

    Raises:
        OSError: it cannot be made, or somebody else has put something there.
    """
    path.mkdir(mode=0o700, exist_ok=True)
    if not _is_ours(path):
        raise PermissionError(1, "it belongs to another user", str(path))
    return path


def _is_ours(path: Path) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
