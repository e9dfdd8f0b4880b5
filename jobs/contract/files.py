"""Read and write files of the run directory whole: JSON, JSONL and bytes. Standard library only."""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import os
import resource
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO
from uuid import uuid4

FORMAT = 3
"""Of the files in a run directory. 2: typed events, one exit record. 3: corpora, mixture and phases
in the spec of a training, optimizer state in rectangles."""
STAGES = "stages"
"""Name of the folder in a run directory that jobs write to."""
FSYNC_THREADS = 16

SAMPLED_BLOCKS = 64
SAMPLED_BYTES = 4096
"""Blocks that are read of a file of any size, and bytes of each. A changed stretch longer than the
distance of two blocks, a 63rd of the file, is certainly found."""


class FormatError(Exception):
    """A file of the run directory has a format this program does not read."""


class DamagedFile(FormatError):
    """A file of the run directory is not JSON: cut short or overwritten."""


def make_folder(folder: Path) -> None:
    """Create a folder with its parents; inside ``RUN/stages`` only while ``RUN`` exists, so that no
    job creates a part of a run directory that was moved away or removed.

    Raises:
        FileNotFoundError: there is no such run directory.
    """
    stages = next((path for path in (folder, *folder.parents) if path.name == STAGES), None)
    if stages is not None:
        stages.parent.stat()
    folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def naming(path: str | Path, part: str | Path = "") -> Iterator[None]:
    """Name the file in an error of the storage that does not, or names a temporary part of it."""
    try:
        yield
    except OSError as error:
        if error.filename is None or str(error.filename) == str(part):
            error.filename = str(path)
        raise


def write_bytes(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file whole or not at all: temporary name in the same folder, fsync, rename, fsync of
    the folder. An error of the storage names the file.
    """
    make_folder(path.parent)
    part = path.with_name(f".{path.name}.{uuid4().hex}")
    with naming(path, part):
        try:
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Make the renames in a folder durable."""
    fsync(folder)


def fsync(path: str | Path) -> None:
    """Make a file's bytes, or a folder's names, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_tree(folder: Path) -> None:
    """Make a folder and everything in it durable.

    The files are flushed side by side: a file system commits many of them at once.
    """
    from concurrent.futures import ThreadPoolExecutor  # slow to import

    paths = []
    for inside, _, names in os.walk(folder):
        files = (f"{inside}/{name}" for name in names)
        paths += [inside, *filter(os.path.isfile, files)]
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        # A thread needs address space for its stack and its heap; without, Python raises or waits
        # forever for the thread to begin.
        fsync_all(paths)
        return
    with ThreadPoolExecutor(FSYNC_THREADS) as pool:
        list(pool.map(fsync_all, [paths[first::FSYNC_THREADS] for first in range(FSYNC_THREADS)]))


def fsync_all(paths: Iterable[str]) -> None:
    """Make files and folders durable, one after another."""
    for path in paths:
        fsync(path)


def remove_partial(path: Path) -> None:
    """Remove what killed processes left of a file under temporary names; none may still write."""
    for partial in path.parent.glob(f".{glob.escape(path.name)}.*"):
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object whole or not at all; ``format`` is added."""
    text = json.dumps({"format": FORMAT, **value}, indent=1, sort_keys=True)
    write_bytes(path, text.encode() + b"\n")


def parse_json(content: bytes | str) -> Any:
    """Parse JSON that another program may have written.

    Raises:
        ValueError: not JSON, or brackets are too deep in one another.
    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("its brackets are too deep in one another") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of our format.

    Raises:
        FileNotFoundError: there is none.
        DamagedFile: not JSON.
        FormatError: written by another version.
    """
    try:
        value = parse_json(path.read_bytes())
    except ValueError as error:
        raise DamagedFile(f"{path}: not JSON ({error})") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        number = value.get("format") if isinstance(value, dict) else None
        raise FormatError(f"{path}: format {number!r}, this program reads format {FORMAT}")
    return value


def read_small(path: Path) -> dict[str, Any]:
    """Read a JSON object; return an empty one where the file is missing or cannot be read."""
    try:
        return read_json(path)
    except (OSError, FormatError):
        return {}


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a .jsonl file, none of a missing one; skip a line cut short."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for line in file:
            try:
                value = parse_json(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                yield value


class AppendedLines:
    """Reads the whole lines that were appended to a file since the last read."""

    def __init__(self, path: Path) -> None:
        """Read from the start."""
        self._path = path
        self._offset = 0

    def read(self, size: int = -1) -> list[bytes]:
        """Return the new lines, or those of the next ``size`` bytes; a last one without its end is
        left for the next time.
        """
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                content = file.read(size)
        except FileNotFoundError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.splitlines()


def json_values(lines: Sequence[bytes]) -> Iterator[Any]:
    """Yield the JSON values of lines, without those that are none.

    One call parses all lines, in half the time of a call per line, unless one was cut short by a
    crash.
    """
    try:
        values = parse_json(b"[" + b",".join(lines) + b"]")
    except ValueError:
        values = None
    if values is not None and len(values) == len(lines):
        yield from values
        return
    for line in lines:
        try:
            yield parse_json(line)
        except ValueError:
            continue


def append_lines(path: Path, lines: Sequence[str], share: bool = False) -> None:
    """Append lines under a file lock, with one fsync. A last line that a crash cut short is ended
    first, so that it does not swallow the first new one.

    Args:
        share: let the group write to the file where it may write to the folder.

    Raises:
        OSError: the file cannot be written; it names the file.
    """
    if not lines:
        return
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    with naming(path), open(handle, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if share:
            _share(file.fileno(), path.parent)
        _end_last_line(file)
        file.write("".join(f"{line}\n" for line in lines).encode())
        file.flush()
        os.fsync(file.fileno())


def open_lines(path: Path) -> TextIO:
    """Open a file that one process appends lines to, without a lock or fsync; a last line that a
    kill cut short is ended first.
    """
    make_folder(path.parent)
    with path.open("ab+") as file:
        _end_last_line(file)
    return path.open("a", buffering=1)


def _end_last_line(file: BinaryIO) -> None:
    if file.seek(0, os.SEEK_END):
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")


def _share(handle: int, folder: Path) -> None:
    status = os.fstat(handle)
    mode = stat.S_IMODE(status.st_mode) | (folder.stat().st_mode & stat.S_IWGRP)
    if status.st_uid == os.getuid() and stat.S_IMODE(status.st_mode) != mode:
        os.fchmod(handle, mode)


def last_change(path: Path) -> int:
    """Return a file's modification time in nanoseconds, by the file server's clock; 0 where the
    file is missing or the storage does not respond.
    """
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def sha256(path: Path) -> str:
    """Return the SHA-256 (hex) of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sampled_sha256(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's size and of blocks spread evenly over it, the first and
    the last included; of all its bytes where it is no larger than the blocks.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(size.to_bytes(8, "little"))
    handle = os.open(path, os.O_RDONLY)
    try:
        for offset, length in sampled_blocks(size):
            digest.update(os.pread(handle, length, offset))
    finally:
        os.close(handle)
    return digest.hexdigest()


def sampled_blocks(size: int) -> list[tuple[int, int]]:
    """Return offset and length of the blocks to read of a file of ``size`` bytes."""
    if size <= SAMPLED_BLOCKS * SAMPLED_BYTES:
        return [(0, size)]
    last = size - SAMPLED_BYTES
    steps = SAMPLED_BLOCKS - 1
    return [(number * last // steps, SAMPLED_BYTES) for number in range(SAMPLED_BLOCKS)]
