"""Collective save and load of sharded checkpoints, each complete or not there at all.

``jobs.checkpoints.manifest`` defines a checkpoint on disk, ``jobs.checkpoints.retention`` prunes
old and quarantines damaged ones, ``jobs.engine.sharded_state`` writes the shards. This module
imports torch and megatron.core, so import it only within ``jobs.engine.device.session``.
"""

from __future__ import annotations

import errno
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed
from torch.distributed.checkpoint.api import CheckpointException

from jobs.checkpoints import manifest, parts, retention
from jobs.checkpoints.manifest import CheckpointRecord, StoredCheckpoint
from jobs.checkpoints.parts import AlteredPart, Parts
from jobs.contract.errors import (
    CONFIGURATION,
    ERRNO_HINTS,
    FAILED,
    RESUME,
    TaskError,
    errno_code,
)
from jobs.contract.files import FormatError, make_folder
from jobs.engine import device as devices
from jobs.engine import sharded_state, verified_reader
from jobs.engine.sharded_state import TrainingState
from jobs.engine.verified_reader import VerifiedFiles

T = TypeVar("T")

_ERRNO = re.compile(r"\[Errno (\d+)\]")


class StorageError(TaskError):
    """A checkpoint that could not be written or read, for no fault of the checkpoint itself.

    The message has the kernel's name of the error: ``ENOSPC``.
    """


def save(
    folder: Path, trained: TrainingState, record: CheckpointRecord, keep: int
) -> StoredCheckpoint:
    """Write one checkpoint, verify it, and prune old ones. All ranks call it.

    ``jobs.checkpoints.retention.prune`` decides which ones are kept. An existing valid checkpoint
    of the same step is kept as it is.

    Raises:
        StorageError: it could not be written; earlier checkpoints are untouched.
        TaskError: the same, because of a limit that another attempt would meet as well.
    """
    path = folder / manifest.name(record.iteration)
    existing = devices.decide_once(lambda: _prepare_folder(path, record.bytes))
    if existing is not None:
        return path, existing
    try:
        sharded_state.write(path, trained, weights_only=record.kind == manifest.WEIGHTS)
        files = _describe_together(path)
    except CheckpointException as error:  # on every rank, but only rank 0 has the reasons
        failures = error.failures
        reason = devices.decide_once(lambda: _reason(failures))
        raise _not_written(path, reason) from error
    except (OSError, RuntimeError) as error:
        cause = sharded_state.cause(error, OSError)
        if cause is None:
            raise
        raise _not_written(path, str(cause)) from error
    return path, devices.decide_once(lambda: _commit(path, record, files, keep))


def load_newest(
    folder: Path,
    trained: TrainingState,
    layout: dict[str, Any],
    highest_saved: int,
    accept: Callable[[Path, CheckpointRecord], None],
    beat: Callable[[], None],
) -> StoredCheckpoint | None:
    """Load the newest checkpoint whose every byte is unaltered, into any layout; quarantine newer
    ones. All ranks call it together, and each byte is read by one of them.

    ``jobs.checkpoints.retention.choose_for_resume`` defines how far back it searches and when it
    returns None. Weights alone are loaded with an optimizer that has done no step. Generator states
    belong to tensor and pipeline ranks; where those numbers changed, they are not loaded, which is
    logged.

    Args:
        folder: holds the run's checkpoints.
        trained: is filled.
        layout: of this training, as in a record.
        highest_saved: the highest step that the run is known to have saved.
        accept: raises an error for a checkpoint that is not this run's; called before it is read.
        beat: called as bytes arrive.

    Raises:
        CheckpointsDamaged: none can be used.
        StorageError: files cannot be read, which proves no damage.
        TaskError: the files do not fit the model, or ``accept`` refuses them.
    """
    altered: Path | None = None
    while True:
        candidate = devices.decide_once(lambda: retention.choose_for_resume(folder, highest_saved))
        if candidate is None:
            if altered is not None:
                raise _partly_loaded(altered)
            return None
        path, record = candidate
        accept(path, record)
        problem = _load_whole(path, trained, record, layout, beat)
        _note(path, problem)
        if not problem:
            return candidate
        altered = path


def load_weights(
    path: Path, network: torch.nn.Module, beat: Callable[[], None] = lambda: None
) -> None:
    """Load the weights alone, into a model of any layout and precision. All ranks call it together.

    Args:
        path: a folder that ``find_latest`` or ``at_step`` returned.
        network: the result of ``jobs.engine.model.build``, for training or for inference.
        beat: called as bytes arrive.

    Raises:
        TaskError: the files do not fit the model, or a part that was read is altered.
    """

    def load() -> None:
        sharded_state.load_weights(_open(path, beat), network)

    if problem := _load_or_explain(path, load):
        raise TaskError(f"{path}: {problem}", "use another checkpoint, or a copy of this one")


def _load_whole(
    path: Path,
    trained: TrainingState,
    record: CheckpointRecord,
    layout: dict[str, Any],
    beat: Callable[[], None],
) -> str:
    """Load a checkpoint; return its damage, empty without any."""
    started = time.monotonic()
    same = all(record.layout.get(key) == layout[key] for key in ("tensor", "pipeline"))
    sources: list[VerifiedFiles] = []

    def load() -> None:
        sources.append(_open(path, beat))
        if record.kind == manifest.WEIGHTS:
            sharded_state.start_from_weights(sources[0], trained)
        else:
            sharded_state.load(sources[0], trained, with_generators=same)

    if problem := _load_or_explain(path, load):
        return problem
    count, problem = _verify_unread(sources[0])
    if _rank() == 0 and not problem:
        if not same and record.kind == manifest.TRAINING:
            print(
                "tensor or pipeline ranks changed: random generators restart from the seed",
                flush=True,
            )
        print(
            f"{path.name} is loaded and verified: {count} bytes read of {record.bytes}, in "
            f"{time.monotonic() - started:.1f} s",
            flush=True,
        )
    return problem


def _open(path: Path, beat: Callable[[], None]) -> VerifiedFiles:
    """Read the small files once, for all ranks.

    Raises:
        AlteredPart, OSError: on every rank.
    """

    def read() -> Any:
        try:
            return verified_reader.open_small(path)
        except AlteredPart as error:
            return error

    content = devices.decide_once(read)
    if isinstance(content, AlteredPart):
        raise content
    files, small = content
    return VerifiedFiles(path, files, small, beat)


def _verify_unread(source: VerifiedFiles) -> tuple[int, str]:
    """Verify the parts that no rank needed, such as generator states of another layout, so that
    every byte of the checkpoint has been; each rank reads a share.

    Returns:
        The bytes that all ranks read, and the damage of the first altered part.

    Raises:
        StorageError: on every rank, if any cannot read its share.
    """
    read = set().union(*_from_all(lambda: source.read))

    def verify() -> str:
        for location in source.unread(read)[_rank() :: _world()]:
            try:
                source.read_part(location)
            except (AlteredPart, EOFError) as error:
                return str(error)
        return ""

    try:
        outcomes = _from_all(lambda: (verify(), source.bytes_read))
    except OSError as error:
        raise _unreadable(source.path, str(error)) from error
    count = sum(size for _, size in outcomes) + sum(map(len, source.small.values()))
    return count, next(filter(None, (problem for problem, _ in outcomes)), "")


def _note(path: Path, problem: str) -> None:
    """Quarantine a damaged checkpoint, or record that every byte of it was verified."""

    def note() -> None:
        if problem:
            retention.quarantine({path: problem})
        else:
            manifest.note_verified(path)

    devices.decide_once(note)


def _load_or_explain(path: Path, load: Callable[[], None]) -> str:
    """Load; return the damage that reading has found, empty without any.

    Raises:
        StorageError: files cannot be read, which proves no damage.
        TaskError: they do not fit the model.
    """
    try:
        load()
    except (
        OSError, RuntimeError, CheckpointException, AlteredPart, *sharded_state.UNREADABLE
    ) as error:  # fmt: skip
        altered = sharded_state.cause(error, AlteredPart)
        if altered is not None:
            return str(altered)
        cause = sharded_state.cause(error, OSError)
        if cause is not None:
            raise _unreadable(path, str(cause)) from error
        if isinstance(error, RuntimeError):  # a lost peer, a device, memory: not about files
            raise
        raise TaskError(
            f"{path} cannot be loaded into this model: {type(error).__name__}: {error}",
            "a checkpoint fits only the architecture it was saved from; {meditron checkpoints "
            "--deep} shows whether its files are unaltered",
        ) from error
    return ""


def _partly_loaded(path: Path) -> TaskError:
    """Return the error for a damaged step 0 in a run without another checkpoint: its weights have
    replaced some of the random ones.
    """
    return TaskError(
        f"{path}: step 0 was damaged and is quarantined, no other checkpoint exists, and some of "
        "its weights are loaded",
        f"{RESUME} starts from weights that are not",
        FAILED,
    )


def _prepare_folder(path: Path, expected: int) -> CheckpointRecord | None:
    """Create an empty folder to write into, or return the record of an existing checkpoint."""
    if path.exists():
        problem = manifest.problem(path)
        if not problem:
            return manifest.read(path)
        retention.quarantine({path: problem})
    try:
        make_folder(path.parent)
        free = shutil.disk_usage(path.parent).free
        if free < expected:
            reason = f"it takes {expected >> 20} MiB, {free >> 20} MiB are free"
            raise OSError(errno.ENOSPC, reason)
        path.mkdir()
    except OSError as error:
        raise _not_written(path, str(error)) from error
    return None


def _not_written(path: Path, reason: str) -> TaskError:
    """Return the error for a failed save, a ``StorageError`` where a later attempt may succeed;
    rank 0 removes its partial files.
    """
    if _rank() == 0:
        shutil.rmtree(path, ignore_errors=True)
    message = (
        f"{path} could not be written: {_with_name(reason)}; checkpoints before it are untouched"
    )
    for number in map(int, _ERRNO.findall(reason)):
        if errno_code(number) == CONFIGURATION:
            return TaskError(message, ERRNO_HINTS[number], CONFIGURATION)
    hint = f"free some space or check the file system, then {RESUME}"
    return StorageError(message, hint, FAILED)


def _unreadable(path: Path, reason: str) -> StorageError:
    return StorageError(
        f"{path} cannot be read: {_with_name(reason)}",
        f"check the file system, then {RESUME}",
        FAILED,
    )


def _with_name(reason: str) -> str:
    """Turn ``[Errno 28] No space left`` into ``ENOSPC: No space left``."""
    return _ERRNO.sub(lambda match: f"{errno.errorcode.get(int(match[1]), match[0])}:", reason)


def _reason(failures: Mapping[int, Any]) -> str:
    """Return the ranks' errors without torch's wrapping."""
    errors = {str(error).removeprefix("Worker failure: ") for error, *_ in failures.values()}
    return "; ".join(sorted(errors))


def _describe_together(path: Path) -> dict[str, Parts]:
    """Return the parts of every file; each rank reads the files it wrote.

    Raises:
        OSError: on every rank, if any cannot read its files.
    """
    own = re.compile(rf"__{_rank()}_\d+\.distcp")
    stored = devices.decide_once(lambda: sharded_state.segments(path))

    def describe() -> dict[str, Parts]:
        names = [file.name for file in path.iterdir()]
        mine = [name for name in names if own.fullmatch(name) or _is_common(name)]
        return {name: _parts_of(path / name, stored.get(name)) for name in mine}

    return {name: entry for part in _from_all(describe) for name, entry in sorted(part.items())}


def _parts_of(path: Path, segments: Sequence[tuple[int, int]] | None) -> Parts:
    if segments is None:
        return parts.describe(path)
    return parts.describe(path, parts.lengths(segments, path.stat().st_size))


def _is_common(name: str) -> bool:
    """Return whether this is rank 0 and the file is not a shard."""
    return _rank() == 0 and not name.startswith("__")


def _from_all(work: Callable[[], T]) -> list[T]:
    """Return every rank's result, by rank; an error of one is raised on all.

    Raises:
        OSError: of the lowest rank that raised one.
    """
    outcome: T | OSError
    try:
        outcome = work()
    except OSError as error:
        outcome = error
    gathered: list[Any] = [None] * _world()
    torch.distributed.all_gather_object(gathered, outcome)
    for part in gathered:
        if isinstance(part, OSError):
            raise part
    return gathered


def _commit(
    path: Path, record: CheckpointRecord, files: dict[str, Parts], keep: int
) -> CheckpointRecord:
    try:
        record = manifest.commit(path, record, files)
    except (OSError, FormatError) as error:
        raise _not_written(path, str(error)) from error
    retention.prune(path.parent, keep)
    return record


def _rank() -> int:
    return int(torch.distributed.get_rank())


def _world() -> int:
    return int(torch.distributed.get_world_size())
