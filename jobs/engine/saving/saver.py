"""Collective save of sharded checkpoints, each complete or not there at all.

``jobs.checkpoints.manifest`` defines a checkpoint on disk, ``jobs.checkpoints.retention`` prunes
old ones, ``jobs.engine.sharded_state`` writes the shards, ``jobs.engine.checkpoint`` loads them.
This module imports torch and megatron.core, so import it only within
``jobs.engine.device.session``.
"""

from __future__ import annotations

import concurrent.futures
import errno
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed
from torch.distributed.checkpoint.api import CheckpointException

from jobs.checkpoints import manifest, parts, retention
from jobs.checkpoints.manifest import CheckpointRecord, StoredCheckpoint
from jobs.checkpoints.parts import Parts
from jobs.contract.errors import (
    CONFIGURATION,
    ERRNO_HINTS,
    FAILED,
    RESUME,
    TaskError,
    errno_code,
)
from jobs.contract.files import FormatError, fsync, make_folder
from jobs.engine import device as devices
from jobs.engine.failures import StorageError, error_numbers, root, with_name
from jobs.engine.saving.shard_writer import ABANDON_SECONDS, HostMemory
from jobs.engine.saving.threads import in_thread
from jobs.engine.sharded_state import StateWriter, TrainingState, Writing

STAGED_BYTES = 1 << 28
"""Host memory of a rank for copies in a save that training waits for."""


def save(
    folder: Path,
    trained: TrainingState,
    record: CheckpointRecord,
    keep: int,
    steps: Collection[int] = (),
) -> StoredCheckpoint:
    """Write one checkpoint, verify it, and prune old ones. All ranks call it.

    Raises:
        StorageError, TaskError: as ``Saver.begin`` and ``Saver.finish``.
    """
    saver = Saver(folder, trained, keep, steps)
    saver.begin(record)
    return saver.finish()


class Saver:
    """The saves of a training, one at a time. All ranks call ``begin``, ``advance`` and ``finish``
    together; threads write in between.
    """

    def __init__(
        self,
        folder: Path,
        trained: TrainingState,
        keep: int,
        steps: Collection[int] = (),
        host_bytes: Callable[[], int] = lambda: STAGED_BYTES,
    ) -> None:
        """Begin no save yet.

        Args:
            folder: holds the run's checkpoints.
            trained: is saved.
            keep: newest checkpoints kept besides the last; ``jobs.checkpoints.retention.prune``
                decides which others are.
            steps: at which a checkpoint is kept.
            host_bytes: returns the bytes of host memory that copies may take. The copy of a save
                that is larger waits until files are written.
        """
        self._folder = folder
        self._keep = keep
        self._steps = steps
        self._writer = StateWriter(trained, HostMemory(host_bytes))
        self._begun: _BegunSave | None = None

    @property
    def step(self) -> int | None:
        """Return the step of a save that has begun and is not finished; None without any."""
        return None if self._begun is None else self._begun.record.iteration

    def begin(self, record: CheckpointRecord) -> None:
        """Begin to copy the state to host memory, from which threads write it. The state may change
        after ``wait_for_copy``.

        An existing valid checkpoint of the same step is kept as it is.

        Raises:
            StorageError: its folder or first file could not be written; earlier checkpoints are
                untouched.
            TaskError: the same, because of a limit that another attempt would meet as well.
        """
        assert self._begun is None, "one save at a time"
        path = self._folder / manifest.name(record.iteration)
        existing = devices.decide_once(lambda: _prepare_folder(path, record.bytes))
        if existing is not None:
            self._begun = _BegunSave(path, existing, None)
            return
        with _explained(path):
            writing = self._writer.begin(path, weights_only=record.kind == manifest.WEIGHTS)
        self._begun = _BegunSave(path, record, writing)

    def wait_for_copy(self) -> None:
        """Wait until the state of a save that has begun is copied. Ranks need not call it together.

        Raises:
            RuntimeError, MemoryError: on the rank concerned, whose device or host could not copy.
        """
        if self._begun is not None and self._begun.writing is not None:
            self._begun.writing.wait_for_copy()

    def is_ready(self) -> bool:
        """Return whether a save has begun whose ``advance`` waits for no thread of this rank."""
        begun = self._begun
        if begun is None or begun.writing is None:
            return begun is not None
        if not begun.agreed:
            return begun.writing.is_done()
        return begun.commit is None or begun.commit.done()

    def advance(self) -> StoredCheckpoint | None:
        """Bring the save that has begun a step further: agree that all ranks have written, after
        which a thread of rank 0 commits the checkpoint and prunes old ones; then, end the save.

        Returns:
            The checkpoint, at the end of the save.

        Raises:
            StorageError: it could not be written; earlier checkpoints are untouched.
            TaskError: the same, because of a limit that another attempt would meet as well.
        """
        begun, self._begun = self._begun, None  # an error ends it
        assert begun is not None, "a save has begun"
        path, writing = begun.path, begun.writing
        if writing is None:
            return path, begun.record
        if begun.agreed:
            return path, devices.decide_once(begun.committed)
        with _explained(path):
            own = writing.agree()
            files = {
                name: its_parts
                for each in devices.from_all(lambda: own)
                for name, its_parts in each.items()
            }
        begun.agreed = True
        if _rank() == 0:
            keep, steps, record = self._keep, self._steps, begun.record
            begun.commit = in_thread(
                "commit", lambda: _commit(writing, path, record, files, keep, steps)
            )
        self._begun = begun
        return None

    def finish(self) -> StoredCheckpoint:
        """Wait for the end of the save that has begun; raise what ``advance`` raises."""
        while (stored := self.advance()) is None:
            pass
        return stored

    def abandon(self) -> None:
        """Stop writing; a save that ranks have not agreed on stays unfinished. Ranks need not call
        it together.
        """
        if self._begun is not None and self._begun.writing is not None:
            self._begun.writing.abandon()
            if self._begun.commit is not None:
                concurrent.futures.wait([self._begun.commit], ABANDON_SECONDS)


@dataclass
class _BegunSave:
    path: Path
    record: CheckpointRecord
    writing: Writing | None
    """None where the checkpoint exists."""
    agreed: bool = False
    """All ranks have written."""
    commit: Future[CheckpointRecord] | None = None
    """By rank 0."""

    def committed(self) -> CheckpointRecord:
        assert self.commit is not None, "rank 0 commits"
        return self.commit.result()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Raise errors of writing a checkpoint as those of a failed save."""
    try:
        yield
    except CheckpointException as error:  # on every rank, but only rank 0 has the reasons
        failures = error.failures
        reason = devices.decide_once(lambda: _reason(failures))
        raise _not_written(path, reason) from error
    except (OSError, RuntimeError) as error:
        cause = root(error, OSError)
        if cause is None:
            raise
        raise _not_written(path, str(cause)) from error


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
        f"{path} could not be written: {with_name(reason)}; checkpoints before it are untouched"
    )
    for number in error_numbers(reason):
        if errno_code(number) == CONFIGURATION:
            return TaskError(message, ERRNO_HINTS[number], CONFIGURATION)
    hint = f"free some space or check the file system, then {RESUME}"
    return StorageError(message, hint, FAILED)


def _reason(failures: Mapping[int, Any]) -> str:
    """Return the ranks' errors without torch's wrapping."""
    errors = {str(error) for error, *_ in failures.values()}
    return "; ".join(sorted(errors))


def _commit(
    writing: Writing,
    path: Path,
    record: CheckpointRecord,
    files: dict[str, Parts],
    keep: int,
    steps: Collection[int],
) -> CheckpointRecord:
    """Write the index and the records of a checkpoint, and prune old ones.

    Args:
        files: all shards.

    Raises:
        StorageError, TaskError, OSError: a file could not be written, or an old checkpoint pruned.
    """
    try:
        writing.write_index()
        index = [file for file in path.iterdir() if file.name not in files]
        for file in index:
            fsync(file)  # megatron.core does not
        described = {file.name: parts.describe(file) for file in index}
        record = manifest.commit(path, record, dict(sorted((files | described).items())))
    except (OSError, FormatError) as error:
        raise _not_written(path, str(error)) from error
    retention.prune(path.parent, keep, steps)
    return record


def _rank() -> int:
    return int(torch.distributed.get_rank())
