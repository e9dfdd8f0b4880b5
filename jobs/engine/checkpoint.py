"""Collective load of sharded checkpoints, each of whose bytes is verified as it is read.

``jobs.engine.saving.saver`` writes them, ``jobs.checkpoints.retention`` chooses one and quarantines
damaged ones. This module imports torch and megatron.core, so import it only within
``jobs.engine.device.session``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch.distributed.checkpoint.api import CheckpointException

from jobs.checkpoints import manifest, retention
from jobs.checkpoints.manifest import CheckpointRecord, StoredCheckpoint
from jobs.checkpoints.parts import AlteredPart
from jobs.contract.errors import FAILED, RESUME, TaskError
from jobs.engine import device as devices
from jobs.engine import sharded_state, verified_reader
from jobs.engine.failures import StorageError, root, with_name
from jobs.engine.sharded_state import TrainingState
from jobs.engine.verified_reader import VerifiedFiles


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
    load_pieces(path, [network], beat)


def load_pieces(path: Path, pieces: Sequence[torch.nn.Module], beat: Callable[[], None]) -> None:
    """Load the weights alone into the pieces of a pipeline stage, as ``load_weights`` does."""

    def load() -> None:
        sharded_state.load_weights(_open(path, beat), pieces)

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
    read = set().union(*devices.from_all(lambda: source.read))

    def verify() -> str:
        for location in source.unread(read)[_rank() :: _world()]:
            try:
                source.read_part(location)
            except (AlteredPart, EOFError) as error:
                return str(error)
        return ""

    try:
        outcomes = devices.from_all(lambda: (verify(), source.bytes_read))
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
        altered = root(error, AlteredPart)
        if altered is not None:
            return str(altered)
        cause = root(error, OSError)
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


def _unreadable(path: Path, reason: str) -> StorageError:
    return StorageError(
        f"{path} cannot be read: {with_name(reason)}",
        f"check the file system, then {RESUME}",
        FAILED,
    )


def _rank() -> int:
    return int(torch.distributed.get_rank())


def _world() -> int:
    return int(torch.distributed.get_world_size())
