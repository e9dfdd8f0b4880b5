"""Download files of one commit into a folder of this machine, whole or not at all.

Beside the destination lies a hidden folder, ``.NAME.fetching``, with the commit that was chosen and
the files: each has its own name once its digest is verified, ``.part`` behind it before. After a
kill at any moment the next fetch continues there, with the same commit. The destination appears by
a rename, so what is there is complete.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import BinaryIO

from jobs.contract.base_folder import RECORD
from jobs.contract.files import fsync_folder, fsync_tree, parse_json, sha256, write_bytes
from jobs.contract.locks import Locked, locked
from jobs.contract.units import GIB
from meditron_cli.config.weights import HubName
from meditron_cli.errors import ConfigError, MeditronError
from meditron_cli.hub.repository import Hub, HubFile, Listing

PART = ".part"
CONNECTIONS = 4
"""Files downloaded side by side; a guess, for sites where one connection does not fill the link."""
STOP_SECONDS = 2.0
"""Wait for threads after an error or Ctrl-C; one that hangs in the network is left behind."""
BLOCK = 1 << 20
FORMAT = 1


@dataclass(frozen=True)
class Wanted:
    """Files of the hub that an experiment names, and where this machine is to have them."""

    kind: str
    """``model`` or ``dataset``."""
    name: HubName
    path: str
    """The file or folder within a data set; empty for a model."""
    destination: Path
    choose: Callable[[Sequence[HubFile]], list[HubFile]]
    """Returns the files to download out of a repository's; raises ConfigError where they lack."""

    @property
    def title(self) -> str:
        """Return the name as an experiment writes it."""
        return f"hf://datasets/{self.name}/{self.path}" if self.path else str(self.name)

    @property
    def staging(self) -> Path:
        """Return the folder of a download that is not complete."""
        return self.destination.with_name(f".{self.destination.name}.fetching")

    @property
    def record(self) -> Path:
        """Return the file with revision and digests: in a model's folder; hidden beside a file or
        folder of a data set, since folders are read whole.
        """
        if self.path:
            return self.destination.with_name(f".{self.destination.name}.{RECORD}")
        return self.destination / RECORD

    @property
    def is_complete(self) -> bool:
        """Return whether a download has ended here."""
        return self.record.is_file() and self.destination.exists()


class Progress:
    """Receives how far downloads are. Its methods are called by several threads."""

    def begin(self, total: int) -> None:
        """Receive the bytes to download."""

    def add(self, count: int) -> None:
        """Receive the bytes written since the last call; negative where some are dropped."""

    def finish(self, file: HubFile) -> None:
        """Receive a file that is complete and verified."""


class Stopped(Exception):
    """Another thread failed, or a person interrupted the download."""


class PartFile:
    """A file that a thread writes to, until all threads are to stop."""

    def __init__(self, file: BinaryIO, progress: Progress, stop: Event) -> None:
        self._file = file
        self._progress = progress
        self._stop = stop

    def write(self, data: bytes) -> int:
        if self._stop.is_set():
            raise Stopped
        self._progress.add(len(data))
        return self._file.write(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def truncate(self, size: int | None = None) -> int:
        """Drop what a server that ignores ranges sends again."""
        length = self._file.tell() if size is None else size
        self._progress.add(length - self._file.seek(0, 2))
        self._file.seek(length)
        return self._file.truncate()


def listing_of(wanted: Wanted, hub: Hub) -> Listing:
    """Return the commit and the files to download: those of an unfinished download, else those
    that the hub has now.

    Raises:
        ConfigError: there is no such repository or file, or no access.
        MeditronError: the hub does not answer.
    """
    begun = read_listing(wanted.staging)
    if begun is not None:
        return begun
    listing = hub.listing(wanted.kind, wanted.name)
    return Listing(listing.commit, tuple(wanted.choose(listing.files)))


def read_listing(staging: Path) -> Listing | None:
    """Return what an unfinished download has chosen; None where none has begun."""
    try:
        content = parse_json((staging / RECORD).read_bytes())
        files = tuple(HubFile(**item) for item in content["files"])
        return Listing(str(content["commit"]), files)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def present_bytes(wanted: Wanted, listing: Listing) -> int:
    """Return the bytes of an unfinished download that this machine has."""
    names = [(file, wanted.staging / file.path) for file in listing.files]
    return sum(file.bytes if path.is_file() else size_of(part_of(path)) for file, path in names)


def part_of(path: Path) -> Path:
    return path.with_name(path.name + PART)


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def download(wanted: Wanted, hub: Hub, progress: Progress) -> Listing:
    """Download the files and return what they are; the record then has it too.

    Raises:
        ConfigError: no access, no space, or another process downloads the same.
        MeditronError: the hub does not answer, or a file has not the digest that the hub states.
        OSError: the destination cannot be written.
    """
    require_free_name(wanted)
    listing = listing_of(wanted, hub)
    wanted.destination.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(wanted):
        if wanted.is_complete:  # another process has just downloaded it
            return listing
        listing = read_listing(wanted.staging) or listing
        missing = sum(file.bytes for file in listing.files) - present_bytes(wanted, listing)
        require_space(wanted, missing)
        wanted.staging.mkdir(exist_ok=True)
        write_record(wanted, listing)
        progress.begin(missing)
        try:
            download_all(wanted, hub, listing, progress)
            publish(wanted, listing)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise MeditronError(
                f"{wanted.destination.parent}: {error.strerror}, during the download of "
                f"{wanted.title}",
                hint="free some space, then repeat the command, which continues the download",
            ) from error
    return listing


def require_free_name(wanted: Wanted) -> None:
    """Refuse a destination that a person or another program has begun to fill.

    Raises:
        ConfigError: it exists and is not an empty folder.
    """
    path = wanted.destination
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        aside = shlex.join(["mv", str(path), f"{path}.incomplete"])
        raise ConfigError(
            f"{path} exists, and is not the whole of {wanted.title}",
            hint=f"`{aside}` moves it aside, then repeat the command",
        )


@contextmanager
def exclusive(wanted: Wanted) -> Iterator[None]:
    """Hold the lock of a destination, which the kernel releases with the process.

    Raises:
        MeditronError: another process holds it.
    """
    path = wanted.destination.with_name(f".{wanted.destination.name}.lock")
    try:
        with locked(path):
            yield
    except Locked as error:
        users = shlex.join(["fuser", str(path)])
        raise MeditronError(
            f"another process downloads {wanted.title} to {wanted.destination}",
            hint=f"repeat the command once it has ended; `{users}` lists the process",
        ) from error


def require_space(wanted: Wanted, missing: int) -> None:
    """Refuse a download that does not fit, before its first byte.

    Raises:
        ConfigError: the file system has less free space than the files need.
    """
    free = shutil.disk_usage(wanted.destination.parent).free
    if missing > free:
        raise ConfigError(
            f"{wanted.destination.parent}: {wanted.title} needs {missing / GIB:,.1f} GiB more, and "
            f"{free / GIB:,.1f} GiB are free",
            hint="free some space, or name a folder on other storage in the profile",
        )


def write_record(wanted: Wanted, listing: Listing) -> None:
    """Write which commit and files are downloaded, with their digests."""
    value = {
        "format": FORMAT,
        "kind": wanted.kind,
        "repository": wanted.name.repository,
        "revision": wanted.name.revision or "main",
        "commit": listing.commit,
        "files": [asdict(file) for file in listing.files],
    }
    write_bytes(wanted.staging / RECORD, json.dumps(value, indent=1).encode() + b"\n")


def download_all(wanted: Wanted, hub: Hub, listing: Listing, progress: Progress) -> None:
    """Download every file that is not complete, large ones first; the first error ends all."""
    transfer = Transfer(wanted, hub, listing.commit, progress)
    for file in sorted(listing.files, key=lambda file: -file.bytes):
        if not (wanted.staging / file.path).is_file():
            transfer.files.put(file)
    # No pool: at its end a program waits for the threads of one, a minute where the network hangs.
    threads = [Thread(target=transfer.run, daemon=True) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    try:
        for _ in threads:
            error = transfer.ends.get()
            if error is not None:
                raise error
    finally:
        transfer.stop.set()
        deadline = time.monotonic() + STOP_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))


@dataclass(frozen=True)
class Transfer:
    """The download of some files of one commit, by several threads."""

    wanted: Wanted
    hub: Hub
    commit: str
    progress: Progress
    files: SimpleQueue[HubFile] = field(default_factory=SimpleQueue)
    ends: SimpleQueue[BaseException | None] = field(default_factory=SimpleQueue)
    """The error of each thread, or None."""
    stop: Event = field(default_factory=Event)

    def run(self) -> None:
        """Download files until there is none left; a thread does this."""
        try:
            while not self.stop.is_set():
                self.download(self.files.get_nowait())
        except Empty:
            self.ends.put(None)
        except BaseException as error:
            self.ends.put(error)

    def download(self, file: HubFile) -> None:
        """Download one file behind what is there of it, verify it, and give it its name."""
        wanted, path = self.wanted, self.wanted.staging / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        part = part_of(path)
        if size_of(part) > file.bytes:
            part.unlink()
        with part.open("ab") as target:
            present, written = target.tell(), PartFile(target, self.progress, self.stop)
            self.hub.read(wanted.kind, wanted.name, self.commit, file, written, present)
        fault = digest_fault(part, file)
        if fault:
            part.unlink()
            raise MeditronError(
                f"{file.path} of {wanted.title} arrived damaged: {fault}; it was removed",
                hint="repeat the command, which downloads this file again",
            )
        part.replace(path)
        self.progress.finish(file)


def digest_fault(path: Path, file: HubFile) -> str:
    """Return how a file differs from what the hub states; empty where it does not.

    Large files have a SHA-256 (git-lfs), small ones the SHA-1 of git's object: of ``blob SIZE``, a
    zero byte and the content (git-hash-object).
    """
    size = size_of(path)
    if size != file.bytes:
        return f"it has {size} of {file.bytes} bytes"
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(f"blob {size}\0".encode())
    with path.open("rb") as content:
        while block := content.read(BLOCK):
            digest.update(block)
    name, stated = ("SHA-256", file.sha256) if file.sha256 else ("git id", file.git_id)
    found = digest.hexdigest()
    return "" if found == stated else f"its {name} is {found}, not {stated}"


def publish(wanted: Wanted, listing: Listing) -> None:
    """Record the SHA-256 of every file and give a complete download its name, durably."""
    files = [
        replace(file, sha256=file.sha256 or sha256(wanted.staging / file.path))
        for file in listing.files
    ]
    write_record(wanted, replace(listing, files=tuple(files)))
    fsync_tree(wanted.staging)
    if wanted.path:
        write_bytes(wanted.record, (wanted.staging / RECORD).read_bytes())
        (wanted.staging / wanted.path).replace(wanted.destination)
        shutil.rmtree(wanted.staging)
    else:
        wanted.staging.replace(wanted.destination)
    fsync_folder(wanted.destination.parent)
