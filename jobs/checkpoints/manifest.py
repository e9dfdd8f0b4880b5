"""Checkpoints as files: names, records, which of them are whole. Standard library only.

``checkpoints/iter_0000500`` holds megatron.core's torch_dist files, then ``manifest.json`` (size
and SHA-256 of each) and, written last, ``meditron.json``. A folder without a valid
``meditron.json`` does not exist. No file names the newest one: the folders are the truth.

``problem`` is cheap: it looks at records and sizes. ``altered`` reads every byte; only that finds a
changed one, for torch loads a tensor with wrong bytes without a word (measured with 2.13).
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
"""Left in a checkpoint whose every byte was read and found as it was written."""

MEGATRON_METADATA = "metadata.json"

_NAME = re.compile(r"iter_(\d{7,})")
_ANY_NAME = re.compile(r"iter_(\d{7,})(\.bad-.*)?")

_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""What says that a file is not there; any other ``OSError`` says only that storage fails."""


@dataclass(frozen=True)
class CheckpointRecord:
    """What ``meditron.json`` says of a checkpoint."""

    iteration: int
    """Optimizer steps done."""
    consumed_samples: int
    """Sequences trained on; the next step begins with this one."""
    layout: dict[str, Any]
    """``jobs.contract.stage_specs.ParallelSpec`` as it was when saving."""
    precision: str
    model: str
    """``model_digest`` of the model."""
    data: str
    """Digest of the tokens and of their order."""
    bytes: int
    """All its files together; while saving, as many as are expected."""
    files: int = 0
    manifest: str = ""
    """SHA-256 of ``manifest.json``."""


Found = tuple[Path, CheckpointRecord]


def name(iteration: int) -> str:
    """Folder of a checkpoint, sorting by step."""
    return f"iter_{iteration:07d}"


def model_digest(spec: ModelSpec) -> str:
    """Digest of the architecture, without vocabulary padding: that depends on the layout."""
    return specs.digest(replace(spec, padded_vocab_size=0))


def step_of(path: Path) -> int:
    """The step in the name of a checkpoint, good or set aside; -1 of anything else."""
    match = _ANY_NAME.fullmatch(path.name)
    return int(match[1]) if match else -1


def folders(folder: Path) -> list[Path]:
    """Checkpoints by name, newest first, finished or not; links are none, they lead elsewhere.

    Raises:
        OSError: the storage does not answer.
    """
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and is_folder(path)]
    return sorted(found, key=step_of, reverse=True)


def is_folder(path: Path) -> bool:
    """Whether a folder lies here, and not a link to one."""
    return path.is_dir() and not path.is_symlink()


def find_latest(folder: Path) -> Found | None:
    """The newest valid checkpoint, or None; changes nothing.

    Raises:
        OSError: the storage does not answer.
    """
    for path in folders(folder):
        if not problem(path):
            return path, read(path)
    return None


def at_step(folder: Path, iteration: int) -> Found | None:
    """The checkpoint of one step, or None where it is missing or damaged.

    Raises:
        OSError: the storage does not answer.
    """
    path = folder / name(iteration)
    return None if not is_folder(path) or problem(path) else (path, read(path))


def read(path: Path) -> CheckpointRecord:
    """The record of a checkpoint.

    Raises:
        FileNotFoundError: it was never finished.
        rundir.FormatError: written by another version, or damaged.
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
    """Whether its files were once complete, whatever became of them since."""
    return (path / MANIFEST).exists() or (path / RECORD).exists()


def problem(path: Path) -> str:
    """What is wrong with a checkpoint: records that do not parse, files without their size.

    Empty when nothing is. Takes a look at every file, and reads none but three small ones.

    Raises:
        OSError: the storage does not answer, which says nothing about the checkpoint.
    """
    try:
        record = read(path)
        text = (path / MANIFEST).read_bytes()
        json.loads((path / MEGATRON_METADATA).read_bytes())
    except FormatError as error:
        return str(error)
    except _ABSENT as error:
        return _absence(path, error)
    except ValueError as error:
        return f"{MEGATRON_METADATA} is not JSON: {error}"
    if hashlib.sha256(text).hexdigest() != record.manifest:
        return f"{MANIFEST} is not the one {RECORD} was written for"
    if record.iteration != step_of(path):
        return f"{RECORD} is that of step {record.iteration}"
    return _wrong_size(path, json.loads(text)["files"])


def _absence(path: Path, error: OSError) -> str:
    file = Path(error.filename).name
    never = file == RECORD and not was_finished(path)
    return f"{file} is missing" + (": it was never finished" if never else "")


def _wrong_size(path: Path, files: Mapping[str, Any]) -> str:
    for file, expected in files.items():
        if Path(file).name != file:
            return f"{MANIFEST} names {file!r}, which lies elsewhere"
        try:
            found = (path / file).lstat()
        except _ABSENT:
            return f"{file} is missing"
        if not stat.S_ISREG(found.st_mode):
            return f"{file} is no plain file"
        if found.st_size != expected["bytes"]:
            return f"{file} has {found.st_size} bytes instead of {expected['bytes']}"
    return ""


def manifest(path: Path) -> dict[str, dict[str, Any]]:
    """``bytes`` and ``sha256`` of every file of a checkpoint in which ``problem`` found none."""
    found: dict[str, dict[str, Any]] = read_json(path / MANIFEST)["files"]
    return found


def altered(
    path: Path, files: Mapping[str, Mapping[str, Any]], tell: Callable[[int], None] = lambda n: None
) -> str:
    """The first of these files whose content is not what was written; empty when none is.

    Args:
        path: a checkpoint in which ``problem`` found none.
        files: some of its ``manifest``, or all.
        tell: called with the size of each file that was read, in bytes.

    Raises:
        OSError: the storage does not answer.
    """
    for file, expected in files.items():
        try:
            digest = sha256(path / file)
        except _ABSENT:
            return f"{file} is missing"
        if digest != expected["sha256"]:
            return f"{file} has its size, but not the content that was written"
        tell(expected["bytes"])
    return ""


def note_verified(path: Path) -> None:
    """Leave word in a checkpoint that ``altered`` found nothing in any of its files.

    Raises:
        OSError: the storage takes nothing.
    """
    write_json(path / VERIFIED, {"manifest": read(path).manifest, "time": time.time()})


def verified_at(path: Path) -> float | None:
    """When every byte of a checkpoint was last read and found right, seconds since 1970."""
    try:
        word = read_json(path / VERIFIED)
        return float(word["time"]) if word["manifest"] == read(path).manifest else None
    except (OSError, FormatError, LookupError, TypeError, ValueError):
        return None


def shares(files: Mapping[str, Mapping[str, Any]], parts: int) -> list[dict[str, Any]]:
    """Files divided among ``parts`` readers, so that each has about as many bytes to read."""
    divided: list[dict[str, Any]] = [{} for _ in range(parts)]
    loads = [0] * parts
    for file in by_size(files):
        least = loads.index(min(loads))
        divided[least][file] = files[file]
        loads[least] += files[file]["bytes"]
    return divided


def by_size(files: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    """Names of files, the largest first."""
    return sorted(files, key=lambda file: (-files[file]["bytes"], file))
