"""The run directory: file names, whole-file JSON, append-only events, done markers. Standard
library only.

Layout (``RUN`` is the run's folder)::

    RUN/run.json  plan.json  events.jsonl  STOP  SAVE  lock
    RUN/code/                                  the packages as first submitted
    RUN/stages/<stage>/spec/<task>.json        jobs.contract.specs.TaskSpec
    RUN/stages/<stage>/done/<task>.json        written last, with digests of spec and outputs
    RUN/stages/<stage>/attempts/<n>/           logs, start-<task>.json, exit-<task>.json,
                                               health-<node>.json; after a hang
                                               autopsy-<task>-<node>.json and stacks
    RUN/stages/<stage>/progress/<task>.json    how far a running task is, overwritten
    RUN/corpus  tokens  checkpoints  tensorboard  evaluations  report

``<task>`` is the task's index, five digits, so that names sort.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

FORMAT = 1
LOCK_POLL_SECONDS = 0.2


class FormatError(Exception):
    """A file of the run directory has a format this program does not read."""


@dataclass(frozen=True)
class RunDir:
    """Names inside one run directory."""

    root: Path

    @property
    def name(self) -> str:
        """The run's name, which is its folder's."""
        return self.root.name

    @property
    def record(self) -> Path:
        """What was asked, by whom, with which programs; written once."""
        return self.root / "run.json"

    @property
    def plan(self) -> Path:
        """Stages, tasks and resources of all submissions so far."""
        return self.root / "plan.json"

    @property
    def events(self) -> Path:
        """What happened, a JSON object a line, appended."""
        return self.root / "events.jsonl"

    @property
    def code(self) -> Path:
        """The packages as first submitted; what the jobs execute."""
        return self.root / "code"

    @property
    def lock(self) -> Path:
        """Held by the command that changes the run."""
        return self.root / "lock"

    @property
    def stop_file(self) -> Path:
        """Its presence asks running stages to save and leave."""
        return self.root / "STOP"

    @property
    def save_file(self) -> Path:
        """Its presence asks training for one checkpoint."""
        return self.root / "SAVE"

    def stage(self, stage: str) -> Path:
        """The folder of a stage's specs, markers and attempts."""
        return self.root / "stages" / stage

    def spec(self, stage: str, index: int) -> Path:
        """What a task is given (``jobs.contract.specs.TaskSpec``)."""
        return self.stage(stage) / "spec" / f"{index:05d}.json"

    def done(self, stage: str, index: int) -> Path:
        """A task's marker, written last."""
        return self.stage(stage) / "done" / f"{index:05d}.json"

    def progress(self, stage: str, index: int) -> Path:
        """How far a running task is, overwritten."""
        return self.stage(stage) / "progress" / f"{index:05d}.json"

    def attempt(self, stage: str, number: int) -> Path:
        """Logs, health reports and exit records of one attempt, counted from 1."""
        return self.stage(stage) / "attempts" / str(number)

    def exit_record(self, stage: str, number: int, index: int) -> Path:
        """How a task of an attempt ended, as its supervisor saw it."""
        return self.attempt(stage, number) / f"exit-{index:05d}.json"

    def metrics(self) -> Path:
        """One JSON line a training step and a validation; a step done again stands again, the
        later line counts.
        """
        return self.stage("pretrain") / "metrics.jsonl"

    def path(self, name: str) -> Path:
        """A path as specs write it: relative to the run directory, or absolute."""
        return self.root / name

    def attempts(self, stage: str) -> list[int]:
        """Numbers of the attempts so far, ascending; attempts count from 1."""
        folder = self.stage(stage) / "attempts"
        if not folder.is_dir():
            return []
        return sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdigit())


def write_bytes(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file whole or not at all: temporary name in the same folder, fsync, rename, fsync of
    the folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid4().hex}")
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
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object whole or not at all; ``format`` is added."""
    text = json.dumps({"format": FORMAT, **value}, indent=1, sort_keys=True)
    write_bytes(path, text.encode() + b"\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of our format.

    Raises:
        FileNotFoundError: there is none.
        FormatError: written by another version, or not JSON.
    """
    try:
        value = json.loads(path.read_text())
    except ValueError as error:
        raise FormatError(f"{path}: not JSON ({error})") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        found = value.get("format") if isinstance(value, dict) else None
        raise FormatError(f"{path}: format {found!r}, this program reads format {FORMAT}")
    return value


def read_small(path: Path) -> dict[str, Any]:
    """The same, or nothing where the file is missing or cannot be read."""
    try:
        return read_json(path)
    except (OSError, FormatError):
        return {}


def append_event(run: RunDir, kind: str, **fields: Any) -> None:
    """Append one event: ``{"format", "time", "event", …}`` on one line, under a file lock."""
    line = json.dumps(
        {"format": FORMAT, "time": time.time(), "event": kind, **fields}, sort_keys=True
    )
    with open(run.events, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # cut short by a crash: it must not swallow this one too
                file.write(b"\n")
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_events(run: RunDir) -> list[dict[str, Any]]:
    """All events, oldest first; a last line cut short by a crash is left out."""
    return list(read_lines(run.events))


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """JSON objects of a .jsonl file; a missing file has none, and a line cut short is skipped."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for line in file:
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                yield value


def sha256(path: Path) -> str:
    """SHA-256 (hex) of a file, read in blocks."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def describe_file(run: RunDir, name: str, with_digest: bool = True) -> dict[str, Any]:
    """``{"path", "bytes", "mtime_ns", "sha256"}`` of a file, as done markers keep it for inputs
    and outputs.
    """
    path = run.path(name)
    stat = path.stat()
    found: dict[str, Any] = {"path": name, "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    if with_digest:
        found["sha256"] = sha256(path)
    return found


def write_done(  # noqa: PLR0913 - one keyword a field of the marker
    run: RunDir,
    stage: str,
    index: int,
    *,
    spec_digest: str,
    inputs: Iterable[dict[str, Any]],
    outputs: Iterable[dict[str, Any]],
    summary: dict[str, Any],
    seconds: float,
) -> None:
    """Write a task's done marker, the last thing it does. Inputs and outputs come from
    ``describe_file``.
    """
    write_json(
        run.done(stage, index),
        {
            "stage": stage,
            "index": index,
            "spec": spec_digest,
            "inputs": list(inputs),
            "outputs": list(outputs),
            "summary": summary,
            "seconds": seconds,
            "time": time.time(),
        },
    )


def forget_done(run: RunDir, stage: str, index: int) -> None:
    """Remove a task's marker before its outputs change, and what killed attempts left."""
    run.done(stage, index).unlink(missing_ok=True)
    for path in (run.done(stage, index), run.progress(stage, index)):
        for left_over in path.parent.glob(f".{path.name}.*"):
            left_over.unlink(missing_ok=True)


def is_done(run: RunDir, stage: str, index: int, spec_digest: str) -> bool:
    """Whether a task's marker stands for this spec and its files are still what it says."""
    return judge_done(run, stage, index, spec_digest) == "done"


def judge_done(run: RunDir, stage: str, index: int, spec_digest: str) -> str:
    """``done``, or what speaks against a task's marker: it is ``missing``, or its ``spec``,
    ``inputs`` or ``outputs`` are other ones now.

    Outputs are compared by size; inputs by size and, where one has changed its modification time,
    by SHA-256 when the marker holds one.
    """
    try:
        marker = read_json(run.done(stage, index))
    except (FileNotFoundError, FormatError):
        return "missing"
    if marker["spec"] != spec_digest:
        return "spec"
    if not all(_unchanged(run, item) for item in marker["inputs"]):
        return "inputs"
    return "done" if all(_same_size(run, item) for item in marker["outputs"]) else "outputs"


def _same_size(run: RunDir, item: dict[str, Any]) -> bool:
    try:
        return bool(run.path(item["path"]).stat().st_size == item["bytes"])
    except OSError:
        return False


def _unchanged(run: RunDir, item: dict[str, Any]) -> bool:
    try:
        stat = run.path(item["path"]).stat()
    except OSError:
        return False
    if stat.st_size != item["bytes"]:
        return False
    if stat.st_mtime_ns == item["mtime_ns"]:
        return True
    return "sha256" in item and sha256(run.path(item["path"])) == item["sha256"]


class Locked(Exception):
    """Another process holds the lock."""


@contextmanager
def locked(path: Path, holder: str = "") -> Iterator[None]:
    """Hold an exclusive lock on a file; the kernel frees it when the process dies.

    Args:
        holder: a word that ``holder_of`` tells those who find it held.

    Raises:
        Locked: somebody else holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Locked(str(path)) from error
        with suppress(OSError):  # a full disk must keep nobody from the lock
            file.truncate(0)
            if holder:
                file.write(holder.encode())
                file.flush()
                os.fsync(file.fileno())  # seen on other nodes while it is held
        yield


@contextmanager
def locked_within(
    path: Path,
    seconds: float,
    holder: str = "",
    give_up: Callable[[], object] = lambda: False,
) -> Iterator[None]:
    """The same, once whoever holds it lets it go.

    Args:
        seconds: to wait at most.
        give_up: asked after each failure; whether not to wait any longer.

    Raises:
        Locked: somebody else still holds it.
    """
    deadline = time.monotonic() + seconds
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(locked(path, holder))
                break
            except Locked:
                if time.monotonic() > deadline or give_up():
                    raise
            time.sleep(LOCK_POLL_SECONDS)
        yield


def holder_of(path: Path) -> str:
    """The word that whoever holds a lock has left, or who held it last; empty without one."""
    try:
        return path.read_text()
    except OSError:
        return ""
