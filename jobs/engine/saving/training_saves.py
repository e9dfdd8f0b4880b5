"""The saves of a training run: when one is due, and what is reported of it.

This module imports torch and megatron.core, so import it only within
``jobs.engine.device.session``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from jobs.checkpoints import manifest
from jobs.checkpoints.manifest import CheckpointRecord, StoredCheckpoint
from jobs.contract.metrics_log import KeptLine, SaveLine
from jobs.contract.stage_specs import TrainingSpec
from jobs.engine.reporter import Reporter
from jobs.engine.saving.saver import STAGED_BYTES, Saver
from jobs.engine.sharded_state import TrainingState
from jobs.runtime import memory
from jobs.runtime.context import Context
from jobs.runtime.heartbeat import HeartbeatWriter, Phase


class TrainingSaves:
    """The saves of one training on this rank. All ranks call ``begin``, ``keep``, ``advance`` and
    ``finish`` together.

    Two saves may be in flight together: of one step, whole and as weights alone.
    """

    def __init__(
        self, context: Context, spec: TrainingSpec, trained: TrainingState, reporter: Reporter
    ) -> None:
        self._context = context
        self._spec = spec
        self._reporter = reporter
        folder = context.path(spec.checkpoint_dir)
        steps = spec.keep_steps if not spec.keep_weights_only else _kept_whole(folder, spec)
        host_bytes = self._host_bytes if spec.async_save else lambda: STAGED_BYTES
        whole = Saver(folder, trained, spec.keep_checkpoints, steps, host_bytes)
        kept = Saver(manifest.kept(folder), trained, sys.maxsize, (), host_bytes)
        self._whole, self._kept = TimedSaver(whole, context.heart), TimedSaver(kept, context.heart)
        self.newest: StoredCheckpoint | None = None
        """The newest checkpoint to resume from, loaded or committed."""

    def is_due(self, step: int) -> bool:
        """Return whether a checkpoint of a step before the target is to be saved."""
        kept = not self._spec.keep_weights_only and step in self._spec.keep_steps
        return (step % self._spec.save_interval == 0 or kept) and step < self._spec.train_steps

    def is_kept(self, step: int) -> bool:
        """Return whether the weights of a step are to be kept."""
        return self._spec.keep_weights_only and step in self._spec.keep_steps

    def is_ready(self) -> bool:
        """Return whether saves have begun whose ``advance`` waits for no thread of this rank."""
        begun = self._begun()
        return bool(begun) and all(timed.saver.is_ready() for timed in begun)

    def begin(self, record: CheckpointRecord) -> None:
        """Begin a checkpoint unless that step has one, once saves of earlier steps are finished;
        finish it too unless saves are asynchronous.

        Raises:
            StorageError, TaskError: as ``Saver.begin`` and ``Saver.advance``.
        """
        step = record.iteration
        if step not in (self._whole.step, self.newest and self.newest[1].iteration):
            self._begin(self._whole, record)
            self._reporter.snapshot(step, self._whole.waited)
            if not self._spec.async_save:
                self.finish(step)

    def keep(self, record: CheckpointRecord) -> None:
        """Begin to save weights that are kept, as ``begin`` does a checkpoint."""
        self._begin(self._kept, record)
        if not self._spec.async_save:
            self.finish(record.iteration)

    def _begin(self, timed: TimedSaver, record: CheckpointRecord) -> None:
        step = record.iteration
        if any(other.step != step for other in self._begun()):
            self.finish(step)
        self.wait_for_copies()  # one at a time: each may take half of the memory that is free
        self._reporter.progress(step, "checkpoint")
        timed.begin(record)

    def wait_for_copies(self) -> float:
        """Wait until the saves that have begun have copied the state, before it changes. Ranks need
        not call it together.

        Returns:
            The seconds of the wait.
        """
        return sum(timed.wait_for_copy() for timed in self._begun())

    def finish(self, step: int) -> None:
        """Wait for the end of the saves that have begun, if any, after an optimizer step."""
        if self._begun():
            self._reporter.progress(step, "checkpoint")
        while self._begun():
            self.advance()

    def advance(self) -> None:
        """Bring the saves that have begun a step further; record the end of each."""
        for timed in self._begun():
            began, stored = timed.began, timed.advance()
            if stored is None:
                continue
            if timed is self._whole:
                self.newest = stored
                waited = timed.waited - began
                self._reporter.committed(SaveLine, stored, waited, timed.written)
            else:
                self._reporter.committed(KeptLine, stored, timed.waited, timed.written)

    def abandon(self) -> None:
        """Stop writing, after an error; ranks need not call it together."""
        for timed in self._begun():
            timed.saver.abandon()

    def _begun(self) -> list[TimedSaver]:
        """Return the savers whose save has begun and is not finished; on all ranks the same."""
        return [timed for timed in (self._kept, self._whole) if timed.step is not None]

    def _host_bytes(self) -> int:
        """Return the host memory that a copy of this rank may take."""
        ranks = self._context.task.ranks_per_node
        return memory.part_for_copies(memory.available(), self._spec.save_memory_gb, ranks)


def _kept_whole(folder: Path, spec: TrainingSpec) -> list[int]:
    """Return the steps of which a whole checkpoint was kept before ``keep_weights_only`` was set,
    and no weights alone.
    """
    return [
        step
        for step in spec.keep_steps
        if (folder / manifest.name(step)).exists()
        and not (manifest.kept(folder) / manifest.name(step)).exists()
    ]


class TimedSaver:
    """A saver, and the seconds of its newest save."""

    def __init__(self, saver: Saver, heart: HeartbeatWriter) -> None:
        self.saver = saver
        self._heart = heart
        self._started = 0.0
        self.began = 0.0
        """For which training waited until the save had begun."""
        self.waited = 0.0
        """For which training has waited so far."""
        self.written = 0.0
        """From the beginning of the save to its commit."""

    @property
    def step(self) -> int | None:
        """Return the step of the save that has begun and is not finished; None without any."""
        return self.saver.step

    def begin(self, record: CheckpointRecord) -> None:
        """Begin a save, as ``Saver.begin`` does."""
        self._started = time.perf_counter()
        with self._heart.during(Phase.CHECKPOINT):
            self.saver.begin(record)
        self.began = self.waited = time.perf_counter() - self._started

    def wait_for_copy(self) -> float:
        """Wait until the state is copied, as ``Saver.wait_for_copy`` does; return the seconds."""
        started = time.perf_counter()
        with self._heart.during(Phase.CHECKPOINT):
            self.saver.wait_for_copy()
        seconds = time.perf_counter() - started
        self.waited += seconds
        return seconds

    def advance(self) -> StoredCheckpoint | None:
        """Bring the save a step further, as ``Saver.advance`` does."""
        started = time.perf_counter()
        with self._heart.during(Phase.CHECKPOINT):
            stored = self.saver.advance()
        now = time.perf_counter()
        self.waited += now - started
        self.written = now - self._started
        return stored
