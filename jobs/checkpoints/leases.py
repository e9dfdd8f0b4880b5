"""Who uses a folder of checkpoints: one writer, by a lock; readers, by leases. Standard library
only.

The lock is the kernel's (flock): it goes with the process that holds it. A lease is a file,
``leases/iter_0000500.<token>.json``, that its owner renews, and that counts for nothing once it has
expired: readers are on other machines, and may die without a word.
"""

from __future__ import annotations

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

from jobs.contract.errors import FAILED, TaskError
from jobs.contract.files import FormatError, read_json, write_json
from jobs.contract.job import Job, node_name
from jobs.contract.locks import Locked, locked_within
from jobs.runtime.context import Context

LEASE_SECONDS = 900.0
"""A lease counts so long after it was taken or renewed: longer than a node may be silent, and than
clocks of nodes differ (guess)."""

RENEWALS = 10
"""How often a lease is renewed within that time."""

WRITER_SECONDS = 30.0
"""How long a training waits for the one before it to be gone: KillWait's default (guess)."""

_LEASE = re.compile(r"(iter_\d{7,})\.[0-9a-f]+\.json")


@dataclass(frozen=True)
class Holder:
    """Who holds something."""

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
    """A reader's word that it needs a checkpoint."""

    checkpoint: str
    """Name of its folder."""
    holder: Holder | None
    """None where the file cannot be understood."""
    expires: float


class WriterHeld(TaskError):
    """Another training writes to the folder."""


def holder_of(context: Context, environ: Mapping[str, str]) -> Holder:
    """This rank, as others may need to know it."""
    return Holder(
        stage=context.task.stage,
        index=context.task.index,
        attempt=context.attempt,
        job=Job.here(environ).job_id,
        node=node_name(environ),
        pid=os.getpid(),
    )


@contextmanager
def sole_writer(folder: Path, holder: Holder, seconds: float = WRITER_SECONDS) -> Iterator[None]:
    """Be the only process that writes, deletes or sets aside checkpoints of a folder.

    Raises:
        WriterHeld: another one still is when the wait is over.
        OSError: the storage has no locks, or takes nothing.
    """
    path = _writer_file(folder)
    with ExitStack() as held:
        try:
            held.enter_context(locked_within(path, seconds))
        except Locked:
            raise _held(folder) from None
        path.write_text(json.dumps(asdict(holder)))  # in place: the lock is on this very file
        yield


def read_writer(folder: Path) -> Holder | None:
    """Who writes to a folder of checkpoints now, or None."""
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


def _held(folder: Path) -> WriterHeld:
    other = read_writer(folder)
    who = f": {other}, pid {other.pid}" if other else ""
    return WriterHeld(
        f"{folder}: another training still writes there{who}",
        "it must end before this one can go on; `meditron cancel` of its run ends it",
        FAILED,
    )


@contextmanager
def leased(
    folder: Path, checkpoint: str, holder: Holder, seconds: float = LEASE_SECONDS
) -> Iterator[None]:
    """Keep a checkpoint from being deleted while the block runs.

    Take the lease first and look for the checkpoint then: who deletes renames it first and looks at
    leases then, so that one of the two sees the other.

    Raises:
        OSError: the storage takes nothing.
    """
    path = _leases(folder) / f"{checkpoint}.{uuid4().hex[:12]}.json"
    over = threading.Event()

    def write() -> None:
        write_json(path, {**asdict(holder), "expires": time.time() + seconds})

    def renew() -> None:
        while not over.wait(seconds / RENEWALS):
            with suppress(OSError):  # there are more tries before it expires
                write()

    write()
    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        path.unlink(missing_ok=True)


def read_leases(folder: Path, now: float) -> list[Lease]:
    """Leases on the checkpoints of a folder that have not expired.

    One that cannot be understood counts as if it had been renewed when its file was last written.
    """
    found = [_read_lease(path) for path in _lease_files(folder)]
    return [lease for lease in found if lease is not None and lease.expires > now]


def forget_expired(folder: Path, now: float) -> None:
    """Remove the leases whose owners are gone."""
    for path in _lease_files(folder):
        lease = _read_lease(path)
        if lease is not None and lease.expires <= now:
            path.unlink(missing_ok=True)


def _leases(folder: Path) -> Path:
    return folder / "leases"


def _lease_files(folder: Path) -> list[Path]:
    return [path for path in _leases(folder).glob("iter_*.json") if _LEASE.fullmatch(path.name)]


def _read_lease(path: Path) -> Lease | None:
    """What a lease says; None when it was given back just now."""
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
