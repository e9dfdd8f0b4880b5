"""Sharded save and load, written whole, by all ranks together.

What a checkpoint is on disk stands in ``jobs.checkpoints.manifest``, what becomes of old and
damaged ones in ``jobs.checkpoints.retention``, how the shards are written in
``jobs.engine.sharded_state``. Imports torch and megatron.core, so import it only after
``jobs.engine.device.start``.
"""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed
from torch.distributed.checkpoint.api import CheckpointException

from jobs.checkpoints import manifest, retention
from jobs.checkpoints.manifest import MANIFEST, RECORD, CheckpointRecord, Found
from jobs.contract.errors import FAILED, TaskError
from jobs.contract.files import fsync_folder, sha256, write_json
from jobs.contract.rundir import RunDir
from jobs.engine import device as devices
from jobs.engine import sharded_state
from jobs.engine.sharded_state import TrainingState

T = TypeVar("T")

_ERRNO = re.compile(r"\[Errno (\d+)\]")


class StorageError(TaskError):
    """A checkpoint could not be written or read, and nothing says that the checkpoint is at fault.

    The message names the error as the kernel does: ``ENOSPC``.
    """


def save(folder: Path, trained: TrainingState, record: CheckpointRecord, keep: int) -> Found:
    """Write one checkpoint, make it ours, verify it, and let old ones go. All ranks call it.

    ``jobs.checkpoints.retention.let_go`` says which ones stay. One that is there already and valid
    is left as it is.

    Raises:
        StorageError: it could not be written; earlier checkpoints are untouched.
    """
    path = folder / manifest.name(record.iteration)
    there = devices.decide_once(lambda: _make_way(path, record.bytes))
    if there is not None:
        return path, there
    try:
        sharded_state.write(path, trained)
        files = _describe_together(path)
    except CheckpointException as error:  # on every rank, and only rank 0 knows why
        failures = error.failures
        reason = devices.decide_once(lambda: _reason(failures))
        raise _not_written(path, reason) from error
    except (OSError, RuntimeError) as error:
        beneath = sharded_state.system_error(error)
        if beneath is None:
            raise
        raise _not_written(path, str(beneath)) from error
    return path, devices.decide_once(lambda: _commit(path, record, files, keep))


def choose(folder: Path, run: RunDir) -> Found | None:
    """The newest checkpoint of which every byte is as it was written; what is newer is set aside.

    All ranks call it, and read a share of the files each.
    ``jobs.checkpoints.retention.choose_for_resume`` says how far back it goes, and what None means.

    Raises:
        CheckpointsDamaged: none can be used.
        StorageError: files cannot be read, which says nothing about what they hold.
    """
    while True:
        found = devices.decide_once(
            lambda: retention.choose_for_resume(folder, retention.highest_saved(run))
        )
        if found is None:
            return None
        if _is_unaltered(found[0]):
            return found


def load(
    path: Path, trained: TrainingState, record: CheckpointRecord, layout: dict[str, Any]
) -> None:
    """Load weights, optimizer and generator states into any layout. All ranks call it together.

    Generator states belong to tensor and pipeline ranks, so they are left out, and that is said,
    where those numbers changed.

    Raises:
        TaskError: the files do not hold what the model asks for.
    """
    same = all(record.layout[key] == layout[key] for key in ("tensor", "pipeline"))
    _fitting(path, lambda: sharded_state.load(path, trained, with_generators=same))
    if not same and _rank() == 0:
        print(
            "tensor or pipeline ranks changed: generators start anew from the seed",
            flush=True,
        )


def load_weights(path: Path, network: torch.nn.Module) -> None:
    """Load the weights alone, into a model of any layout and precision. All ranks call it together.

    Args:
        path: a folder that ``find_latest`` or ``at_step`` answered.
        network: what ``jobs.engine.model.build`` made, for training or for inference.

    Raises:
        TaskError: the files do not hold what the model asks for.
    """
    _fitting(path, lambda: sharded_state.load_weights(path, network))


def _fitting(path: Path, load: Callable[[], None]) -> None:
    try:
        load()
    except (OSError, RuntimeError, CheckpointException, *sharded_state.UNREADABLE) as error:
        beneath = sharded_state.system_error(error)
        if beneath is not None:
            raise _unreadable(path, str(beneath)) from error
        if isinstance(error, RuntimeError):  # a lost peer, a device, memory: no word about files
            raise
        raise TaskError(
            f"{path} cannot be loaded into this model: {type(error).__name__}: {error}",
            "a checkpoint fits only the architecture it was saved from; `meditron checkpoints "
            "--deep` tells whether its files are as they were written",
        ) from error


def _make_way(path: Path, expected: int) -> CheckpointRecord | None:
    """An empty folder to write into, or the record of the checkpoint that is there already."""
    if path.exists():
        wrong = manifest.problem(path)
        if not wrong:
            return manifest.read(path)
        retention.set_aside({path: wrong})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        if free < expected:
            takes = f"it takes {expected >> 20} MiB, {free >> 20} MiB are free"
            raise OSError(errno.ENOSPC, takes)
        path.mkdir()
    except OSError as error:
        raise _not_written(path, str(error)) from error
    return None


def _not_written(path: Path, reason: str) -> StorageError:
    """The sentence for a save that failed; rank 0 removes what there is of it."""
    if _rank() == 0:
        shutil.rmtree(path, ignore_errors=True)
    return StorageError(
        f"{path} could not be written: {_with_name(reason)}; checkpoints before it are untouched",
        "free some space or find out what the file system says, then submit again",
        FAILED,
    )


def _unreadable(path: Path, reason: str) -> StorageError:
    return StorageError(
        f"{path} cannot be read: {_with_name(reason)}",
        "find out what the file system says, then submit again",
        FAILED,
    )


def _with_name(reason: str) -> str:
    """``[Errno 28] No space left`` as ``ENOSPC: No space left``."""
    return _ERRNO.sub(lambda match: f"{errno.errorcode.get(int(match[1]), match[0])}:", reason)


def _reason(failures: Mapping[int, Any]) -> str:
    """What ranks met, out of what torch wraps around it."""
    told = {str(error).removeprefix("Worker failure: ") for error, *_ in failures.values()}
    return "; ".join(sorted(told))


def _describe_together(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of every file, each rank reading the ones it wrote.

    Raises:
        OSError: on every rank, if any cannot read what it wrote.
    """
    own = re.compile(rf"__{_rank()}_\d+\.distcp")

    def describe() -> dict[str, Any]:
        names = [file.name for file in path.iterdir()]
        mine = [name for name in names if own.fullmatch(name) or _is_common(name)]
        return {
            name: {"bytes": (path / name).stat().st_size, "sha256": sha256(path / name)}
            for name in mine
        }

    return {name: entry for part in _from_all(describe) for name, entry in sorted(part.items())}


def _is_common(name: str) -> bool:
    """Whether rank 0 describes a file, being none of the shards."""
    return _rank() == 0 and not name.startswith("__")


def _altered_together(path: Path) -> str:
    """The first file whose content changed since it was written, each rank reading a share of them.

    Raises:
        StorageError: on every rank, if any cannot read its share.
    """
    files = devices.decide_once(lambda: manifest.manifest(path))
    mine = manifest.shares(files, torch.distributed.get_world_size())[_rank()]
    try:
        found = _from_all(lambda: manifest.altered(path, mine))
    except OSError as error:
        raise _unreadable(path, str(error)) from error
    return next(filter(None, found), "")


def _is_unaltered(path: Path) -> bool:
    """Whether every byte is as it was written: word of it is left there, else it is set aside."""
    wrong = _altered_together(path)

    def judge() -> None:
        if wrong:
            retention.set_aside({path: wrong})
        else:
            manifest.note_verified(path)

    devices.decide_once(judge)
    return not wrong


def _from_all(work: Callable[[], T]) -> list[T]:
    """What every rank made of its part, by rank; an error of one is one of all.

    Raises:
        OSError: as the first rank raised it that did.
    """
    outcome: T | OSError
    try:
        outcome = work()
    except OSError as error:
        outcome = error
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, outcome)
    for part in gathered:
        if isinstance(part, OSError):
            raise part
    return gathered


def _commit(
    path: Path, record: CheckpointRecord, files: dict[str, Any], keep: int
) -> CheckpointRecord:
    try:
        write_json(path / MANIFEST, {"files": files})
        record = replace(
            record,
            manifest=sha256(path / MANIFEST),
            bytes=sum(entry["bytes"] for entry in files.values()),
            files=len(files),
        )
        write_json(path / RECORD, asdict(record))
        fsync_folder(path.parent)
        wrong = manifest.problem(path)
    except OSError as error:
        raise _not_written(path, str(error)) from error
    if wrong:
        raise _not_written(path, wrong)
    retention.let_go(path.parent, keep)
    return record


def _rank() -> int:
    return int(torch.distributed.get_rank())
