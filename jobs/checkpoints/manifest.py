"""Checkpoints as files: names, records, manifests, validity. Standard library only.

``checkpoints/iter_0000500`` holds megatron.core's torch_dist files, then ``manifest.json`` (size
and SHA-256 of each) and, written last, ``meditron.json``. A folder without a valid
``meditron.json`` is not a checkpoint. No file names the newest one; the folders decide.

``problem`` is cheap: it checks records and sizes. ``alteration`` reads every byte, which alone
finds a changed one: torch loads a tensor with wrong bytes without an error (measured with 2.13).
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
import time
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs.contract import specs
from jobs.contract.files import FormatError, read_json, sha256, write_json
from jobs.contract.stage_specs import ModelSpec

RECORD = "meditron.json"
MANIFEST = "manifest.json"
VERIFIED = "verified.json"
"""Marker in a checkpoint whose every byte was verified."""

MEGATRON_METADATA = "metadata.json"

_NAME = re.compile(r"iter_(\d{7,})")
_ANY_NAME = re.compile(r"iter_(\d{7,})(\.bad-.*)?")

_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""Errors of a missing file; any other ``OSError`` means that storage fails."""


@dataclass(frozen=True)
class CheckpointRecord:
    """Content of ``meditron.json``."""

    iteration: int
    """Optimizer steps done."""
    consumed_samples: int
    """Sequences trained on; index of the next step's first one."""
    layout: dict[str, Any]
    """``jobs.contract.stage_specs.ParallelSpec`` as it was when saving."""
    precision: str
    model: str
    """``model_digest`` of the model."""
    data: dict[str, Any]
    """``digest`` of the tokens and of their order, and digests of ``files`` by name
    (``jobs.data.survey.DatasetSurvey.record``)."""
    bytes: int
    """Size of all its files; while saving, the expected size."""
    files: int = 0
    manifest: str = ""
    """SHA-256 of ``manifest.json``."""


StoredCheckpoint = tuple[Path, CheckpointRecord]


def name(iteration: int) -> str:
    """Return the folder name of a checkpoint; names sort by step."""
    return f"iter_{iteration:07d}"


def model_digest(spec: ModelSpec) -> str:
    """Return the digest of the architecture, without the layout-dependent vocabulary padding."""
    return specs.digest(replace(spec, padded_vocab_size=0))


def step_of(path: Path) -> int:
    """Return the step in the name of a checkpoint, quarantined or not; -1 for other names."""
    match = _ANY_NAME.fullmatch(path.name)
    return int(match[1]) if match else -1


def folders(folder: Path) -> list[Path]:
    """Return the folders of checkpoints, newest first, finished or not, without symbolic links.

    Raises:
        OSError: the storage does not answer.
    """
    if not folder.is_dir():
        return []
    paths = [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and is_folder(path)]
    return sorted(paths, key=step_of, reverse=True)


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder, and no link to one."""
    return path.is_dir() and not path.is_symlink()


def find_latest(folder: Path) -> StoredCheckpoint | None:
    """Return the newest valid checkpoint, or None; change nothing.

    Raises:
        OSError: the storage does not answer.
    """
    for path in folders(folder):
        if not problem(path):
            return path, read(path)
    return None


def at_step(folder: Path, iteration: int) -> StoredCheckpoint | None:
    """Return the checkpoint of one step, or None when it is missing or damaged.

    Raises:
        OSError: the storage does not answer.
    """
    path = folder / name(iteration)
    return None if not is_folder(path) or problem(path) else (path, read(path))


def read(path: Path) -> CheckpointRecord:
    """Read the record of a checkpoint.

    Raises:
        FileNotFoundError: it was never finished.
        FormatError: written by another version, or damaged.
    """
    value = read_json(path / RECORD)
    value.pop("format")
    try:
        record = CheckpointRecord(**value)
    except TypeError as error:
        raise FormatError(f"{path / RECORD}: {error}") from error
    for field, kind in typing.get_type_hints(CheckpointRecord).items():
        if not isinstance(getattr(record, field), typing.get_origin(kind) or kind):
            raise FormatError(f"{path / RECORD}: {field} is {getattr(record, field)!r}")
    return record


def was_finished(path: Path) -> bool:
    """Return whether a checkpoint was once complete, damaged since or not."""
    return (path / MANIFEST).exists() or (path / RECORD).exists()


def problem(path: Path) -> str:
    """Return the damage of a checkpoint by its records and file sizes; empty without any.

    Every file is checked with lstat(2); only three small ones are read.

    Raises:
        OSError: the storage does not answer; the checkpoint may be valid.
    """
    try:
        record = read(path)
        content = (path / MANIFEST).read_bytes()
        json.loads((path / MEGATRON_METADATA).read_bytes())
    except FormatError as error:
        return str(error)
    except _ABSENT as error:
        return _absence(path, error)
    except ValueError as error:
        return f"{MEGATRON_METADATA} is not JSON: {error}"
    if hashlib.sha256(content).hexdigest() != record.manifest:
        return f"{MANIFEST} differs from the digest in {RECORD}"
    if record.iteration != step_of(path):
        return f"{RECORD} belongs to step {record.iteration}"
    return _wrong_size(path, json.loads(content)["files"])


def _absence(path: Path, error: OSError) -> str:
    file = Path(error.filename).name
    never = file == RECORD and not was_finished(path)
    return f"{file} is missing" + (": it was never finished" if never else "")


def _wrong_size(path: Path, files: Mapping[str, Any]) -> str:
    for file, expected in files.items():
        if Path(file).name != file:
            return f"{MANIFEST} names {file!r}, which is outside the checkpoint"
        try:
            status = (path / file).lstat()
        except _ABSENT:
            return f"{file} is missing"
        if not stat.S_ISREG(status.st_mode):
            return f"{file} is not a regular file"
        if status.st_size != expected["bytes"]:
            return f"{file} has {status.st_size} bytes instead of {expected['bytes']}"
    return ""


def manifest(path: Path) -> dict[str, dict[str, Any]]:
    """Read ``bytes`` and ``sha256`` of every file of a checkpoint without a ``problem``."""
    files: dict[str, dict[str, Any]] = read_json(path / MANIFEST)["files"]
    return files


def alteration(
    path: Path,
    files: Mapping[str, Mapping[str, Any]],
    report: Callable[[int], None] = lambda n: None,
) -> str:
    """Return the damage of the first file whose content differs from its digest; empty without any.

    Args:
        path: a checkpoint without a ``problem``.
        files: some of its ``manifest``, or all.
        report: called with the bytes read, per file.

    Raises:
        OSError: the storage does not answer.
    """
    for file, expected in files.items():
        try:
            digest = sha256(path / file)
        except _ABSENT:
            return f"{file} is missing"
        if digest != expected["sha256"]:
            return f"{file} has the right size, but its content has changed"
        report(expected["bytes"])
    return ""


def note_verified(path: Path) -> None:
    """Record in a checkpoint that every byte was verified.

    Raises:
        OSError: the storage cannot be written.
    """
    write_json(path / VERIFIED, {"manifest": read(path).manifest, "time": time.time()})


def verified_at(path: Path) -> float | None:
    """Return when every byte was last verified, in seconds since 1970; None if never."""
    try:
        marker = read_json(path / VERIFIED)
        return float(marker["time"]) if marker["manifest"] == read(path).manifest else None
    except (OSError, FormatError, LookupError, TypeError, ValueError):
        return None


def shares(files: Mapping[str, Mapping[str, Any]], parts: int) -> list[dict[str, Any]]:
    """Divide files among ``parts`` readers, with about as many bytes for each."""
    divided: list[dict[str, Any]] = [{} for _ in range(parts)]
    loads = [0] * parts
    for file in by_size(files):
        least = loads.index(min(loads))
        divided[least][file] = files[file]
        loads[least] += files[file]["bytes"]
    return divided


def by_size(files: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    """Return the names of files, the largest first."""
    return sorted(files, key=lambda file: (-files[file]["bytes"], file))
