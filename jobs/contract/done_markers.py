"""Done markers: the record of what a finished task read and wrote. Standard library only."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.contract import specs
from jobs.contract.files import (
    STAGES,
    DamagedFile,
    FormatError,
    fsync_folder,
    read_json,
    sha256,
    write_json,
)
from jobs.contract.json_fields import from_fields, to_fields
from jobs.contract.rundir import RunDir
from jobs.contract.units import Moment

RESULTS = "results.json"
"""Name of the output that reports show."""
EVALUATIONS = "evaluations"
"""Folder of a run with the scores of evaluations."""
SCORING_STAGES = ("evaluate", "generate", "judge")


@dataclass(frozen=True)
class DoneMarker:
    """The record of a finished task. Inputs and outputs are as ``describe_file`` returns them."""

    stage: str
    index: int
    spec: str
    """The spec's digest."""
    inputs: tuple[dict[str, Any], ...]
    outputs: tuple[dict[str, Any], ...]
    summary: dict[str, Any]
    seconds: float
    time: Moment
    """Seconds since 1970."""

    def __post_init__(self) -> None:
        for item in (*self.inputs, *self.outputs):
            from_fields(DescribedFile, item)


@dataclass(frozen=True)
class DescribedFile:
    """The fields that every description of a file has."""

    path: str
    bytes: int
    mtime_ns: int


def describe_file(run: RunDir, name: str, with_digest: bool = True) -> dict[str, Any]:
    """Return ``{"path", "bytes", "mtime_ns", "sha256"}`` of a file, as done markers record it."""
    path = run.path(name)
    stat = path.stat()
    item: dict[str, Any] = {"path": name, "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    if with_digest:
        item["sha256"] = sha256(path)
    return item


def write_done(  # noqa: PLR0913 - one keyword per field of the marker
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
    marker = DoneMarker(
        stage=stage,
        index=index,
        spec=spec_digest,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        summary=summary,
        seconds=seconds,
        time=time.time(),
    )
    write_json(run.done(stage, index), to_fields(marker))
    _aside(run, stage, index).unlink(missing_ok=True)


def load(path: Path) -> DoneMarker:
    """Read a done marker.

    Raises:
        OSError: it is missing, or the storage does not respond.
        FormatError: it is damaged, or of another format.
    """
    value = read_json(path)
    try:
        return from_fields(DoneMarker, value)
    except ValueError as error:
        raise DamagedFile(f"{path}: {error}") from error


def read(path: Path) -> DoneMarker | None:
    """Return a done marker; None where it is missing, unreadable or damaged."""
    try:
        return load(path)
    except (OSError, FormatError):
        return None


def set_done_aside(run: RunDir, stage: str, index: int) -> None:
    """Hide a task's marker while the task is requeued; its outputs match the marker until
    the task calls ``forget_done``.
    """
    marker, aside = run.done(stage, index), _aside(run, stage, index)
    if marker.exists():
        marker.replace(aside)
        fsync_folder(aside.parent)
    _remove_parts(run.progress(stage, index))


def restore_done(run: RunDir, stage: str, index: int) -> None:
    """Restore the marker of a task that was set aside, unless it has a newer one."""
    marker, aside = run.done(stage, index), _aside(run, stage, index)
    if aside.exists() and not marker.exists():
        aside.replace(marker)
        fsync_folder(marker.parent)


def forget_done(run: RunDir, stage: str, index: int) -> None:
    """Remove a task's marker before its outputs change, and partial files of killed attempts."""
    run.done(stage, index).unlink(missing_ok=True)
    _remove_parts(run.done(stage, index))
    _remove_parts(run.progress(stage, index))


def forget_readers(run: RunDir, folder: str) -> list[str]:
    """Remove the markers of tasks that read a file of a folder which is no part of the run any
    more, and hide their ``results.json``; return ``evaluate task 3`` for each.
    """
    forgotten = []
    for path in sorted(run.path(STAGES).glob("*/done/*.json")):
        marker = read(path)
        if marker is None or not any(
            item["path"].startswith(f"{folder}/") for item in marker.inputs
        ):
            continue
        path.unlink(missing_ok=True)
        for item in marker.outputs:
            output = run.path(item["path"])
            if output.name == RESULTS and output.exists():
                output.replace(output.with_name(f".{RESULTS}.left"))
        forgotten.append(f"{marker.stage} task {marker.index}")
    return forgotten


def _aside(run: RunDir, stage: str, index: int) -> Path:
    """Return the hidden name of a marker; ``forget_done`` removes it as a partial file."""
    marker = run.done(stage, index)
    return marker.with_name(f".{marker.name}.aside")


def _remove_parts(path: Path) -> None:
    """Remove the hidden files that belong to a file."""
    for part in path.parent.glob(f".{path.name}.*"):
        part.unlink(missing_ok=True)


def is_done(run: RunDir, stage: str, index: int, spec_digest: str) -> bool:
    """Return whether a task has finished with this spec, its outputs are whole, and no input that
    still exists has changed.
    """
    return check_done(run, stage, index, spec_digest) in ("done", "gone")


def check_done(run: RunDir, stage: str, index: int, spec_digest: str, aside: bool = False) -> str:
    """Return ``done``, or why a task's marker does not count: it is ``missing``; it was written
    for another ``spec``; ``inputs`` or ``outputs`` have changed; or inputs are ``gone`` while all
    else is unchanged.

    Outputs are compared by size; inputs by size and, if the modification time changed, by SHA-256
    when the marker has one. With ``aside``, a marker that was set aside counts too.
    """
    path = run.done(stage, index)
    if aside and not path.exists():
        path = _aside(run, stage, index)
    try:
        marker = load(path)
    except (FileNotFoundError, FormatError):
        return "missing"
    if marker.spec != spec_digest:
        return "spec"
    present = [item for item in marker.inputs if run.path(item["path"]).exists()]
    if not all(is_unchanged(run, item) for item in present):
        return "inputs"
    if not all(_same_size(run, item) for item in marker.outputs):
        return "outputs"
    return "done" if len(present) == len(marker.inputs) else "gone"


def _same_size(run: RunDir, item: dict[str, Any]) -> bool:
    try:
        return bool(run.path(item["path"]).stat().st_size == item["bytes"])
    except OSError:
        return False


def is_unchanged(run: RunDir, item: dict[str, Any]) -> bool:
    """Return whether an input still has the recorded size and content."""
    path = run.path(item["path"])
    try:
        stat = path.stat()
        if stat.st_size != item["bytes"]:
            return False
        if stat.st_mtime_ns == item["mtime_ns"]:
            return True
        return "sha256" in item and sha256(path) == item["sha256"]
    except OSError:
        return False


def current_results(run: RunDir) -> Iterator[Path]:
    """Yield each ``results.json`` below ``evaluations/`` but those that a task of the run will
    replace: its settings, or the files of its benchmark, are no longer what was scored.
    """
    outdated = outdated_folders(run)
    for path in sorted(run.path(EVALUATIONS).glob(f"**/{RESULTS}")):
        if path.parent not in outdated:
            yield path


def outdated_folders(run: RunDir) -> frozenset[Path]:
    """Return the folders of scores of which a task has not finished with its present settings and
    the present files of its benchmark.
    """
    found = set()
    for stage in SCORING_STAGES:
        for index in specs.indices(run, stage):
            task = specs.read_task(run, stage, index)
            if task is None:
                continue
            state = check_done(run, stage, index, specs.digest(task.spec), aside=True)
            if state not in ("done", "gone"):
                found.add(run.path(getattr(task.spec, "output_dir", "")))
    return frozenset(found)
