"""Concurrency control for a folder of checkpoints: an exclusive writer lock, and reader leases.

The kernel releases the lock (flock(2)) when its process ends. A lease is a file,
``leases/iter_0000500.<token>.json``, that its holder renews; once expired it has no effect, since
readers run on other machines and may die. Standard library only.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

from jobs.contract.errors import FAILED, RESUME, TaskError
from jobs.contract.files import FormatError, make_folder, read_json, write_json
from jobs.contract.job import Job, node_name
from jobs.contract.locks import Locked, locked_within
from jobs.runtime.context import Context

LEASE_SECONDS = 900.0
"""Lifetime of a lease after each renewal: longer than a node's outage or clock skew. Guessed."""

RENEWALS = 10
"""Renewals within that time."""

WRITER_SECONDS = 30.0
"""Wait of a training for the previous one to exit: KillWait's default (slurm.conf(5)). Guessed."""

READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)

_LEASE = re.compile(r"(iter_\d{7,})\.[0-9a-f]+\.json")


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock or a lease."""

    stage: str
    index: int
    attempt: int
    job: str
    """Of Slurm or of the local scheduler; empty for a program run by hand."""
    node: str
    pid: int

    def __str__(self) -> str:
        if not self.attempt:  # no rank of a job, but a program on its own
            return f"{self.stage} on {self.node}"
        job = f"job {self.job}, " if self.job else ""
        return f"{self.stage} task {self.index} ({job}attempt {self.attempt}, on {self.node})"


@dataclass(frozen=True)
class Lease:
    """A reader's claim on a checkpoint."""

    checkpoint: str
    """The name of its folder."""
    holder: Holder | None
    """None when the file cannot be read."""
    expires: float


class WriterHeld(TaskError):
    """Another training writes to the folder."""


def holder_of(context: Context, environ: Mapping[str, str]) -> Holder:
    """Return this rank as a holder."""
    return Holder(
        stage=context.task.stage,
        index=context.task.index,
        attempt=context.attempt,
        job=Job.current(environ).job_id,
        node=node_name(environ),
        pid=os.getpid(),
    )


@contextmanager
def sole_writer(folder: Path, holder: Holder, seconds: float = WRITER_SECONDS) -> Iterator[None]:
    """Hold the exclusive right to write, delete and quarantine checkpoints of a folder.

    Raises:
        WriterHeld: another process still holds it after ``seconds``.
        OSError: the storage has no locks, or cannot be written.
    """
    path = _writer_file(folder)
    make_folder(folder)
    with ExitStack() as held:
        try:
            held.enter_context(locked_within(path, seconds))
        except Locked:
            raise _writer_held(folder) from None
        path.write_text(json.dumps(asdict(holder)))  # in place: the lock is on this very file
        yield


def read_writer(folder: Path) -> Holder | None:
    """Return the current writer of a folder of checkpoints, or None."""
    try:
        with _writer_file(folder).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _holder(json.loads(file.read()))
    except (OSError, ValueError):
        return None
    return None


def _writer_file(folder: Path) -> Path:
    return folder / ".writer"


def _writer_held(folder: Path) -> WriterHeld:
    other = read_writer(folder)
    who = f": {other}, pid {other.pid}" if other else ""
    return WriterHeld(
        f"{folder}: another training still writes there{who}",
        f"it must end before this one can start; then {RESUME}",
        FAILED,
    )


@contextmanager
def leased(
    folder: Path, checkpoint: str, holder: Holder, seconds: float = LEASE_SECONDS
) -> Iterator[None]:
    """Keep a checkpoint from being pruned while the block runs.

    Take the lease first, then check that the checkpoint exists: pruning renames it first, then
    checks for leases, so that one of the two notices the other.

    Raises:
        OSError: the storage cannot be written.
    """
    path = _leases_folder(folder) / f"{checkpoint}.{uuid4().hex[:12]}.json"
    over = threading.Event()

    def write() -> None:
        write_json(path, {**asdict(holder), "expires": time.time() + seconds})

    def renew() -> None:
        while not over.wait(seconds / RENEWALS):
            with suppress(OSError):  # further renewals follow before it expires
                write()

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    try:
        write()
        thread.start()
        yield
    finally:
        over.set()
        if thread.ident is not None:
            thread.join()
        path.unlink(missing_ok=True)


@contextmanager
def leased_if_writable(folder: Path, checkpoint: str, holder: Holder) -> Iterator[None]:
    """Lease a checkpoint as ``leased`` does; in a folder that is read-only nothing is deleted by
    this user, and the block runs without a lease.

    Raises:
        OSError: the storage cannot be written, for another reason.
    """
    with ExitStack() as held:
        try:
            held.enter_context(leased(folder, checkpoint, holder))
        except OSError as error:
            if error.errno not in READ_ONLY:
                raise
            print(f"{folder} is read-only: {checkpoint} is read without a lease", flush=True)
        yield


def read_leases(folder: Path, now: float) -> list[Lease]:
    """Return the unexpired leases on the checkpoints of a folder.

    One that cannot be read counts as renewed when its file was last written.
    """
    every = [_read_lease(path) for path in _lease_files(folder)]
    return [lease for lease in every if lease is not None and lease.expires > now]


def forget_expired(folder: Path, now: float) -> None:
    """Remove expired leases."""
    for path in _lease_files(folder):
        lease = _read_lease(path)
        if lease is not None and lease.expires <= now:
            path.unlink(missing_ok=True)


def _leases_folder(folder: Path) -> Path:
    return folder / "leases"


def _lease_files(folder: Path) -> list[Path]:
    return [
        path for path in _leases_folder(folder).glob("iter_*.json") if _LEASE.fullmatch(path.name)
    ]


def _read_lease(path: Path) -> Lease | None:
    """Read a lease; None when it was released just now."""
    match = _LEASE.fullmatch(path.name)
    name = match[1] if match else ""
    try:
        value = read_json(path)
        return Lease(name, _holder(value), float(value["expires"]))
    except FileNotFoundError:
        return None
    except (FormatError, LookupError, TypeError, ValueError):
        with suppress(FileNotFoundError):
            return Lease(name, None, path.stat().st_mtime + LEASE_SECONDS)
        return None


def _holder(value: Mapping[str, object]) -> Holder | None:
    names = Holder.__dataclass_fields__
    try:
        return Holder(**{name: value[name] for name in names})  # type: ignore[arg-type]
    except (LookupError, TypeError):
        return None
