"""Training's output: metric lines, TensorBoard, progress, and the summary of the done marker."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from jobs.contract.files import naming, open_lines, read_small
from jobs.contract.metrics_log import (
    NEWEST_STEPS,
    SLOW,
    HealthLine,
    KeptLine,
    MetricLine,
    MetricsLog,
    PeriodLine,
    SaveLine,
    SkipLine,
    SnapshotLine,
    SpikeLine,
    StepLine,
    ValidationLine,
    counted_steps,
    from_json,
    perplexity,
    quantile,
    to_json,
)
from jobs.contract.stage_specs import TrainingSpec
from jobs.contract.units import GIB, JOULES_PER_KWH
from jobs.runtime.context import Context

if TYPE_CHECKING:
    from jobs.checkpoints.manifest import StoredCheckpoint
    from jobs.engine.measures import Figures

REPORT_SECONDS = 1.0
"""Least time between two updates of progress and TensorBoard; metric lines have every step."""


class Volume(Protocol):
    """The tokens and operations of a training's steps, which count from 1."""

    def tokens(self, steps: int) -> int:
        """Return the tokens of the batches of the first steps."""

    def step_tokens(self, step: int) -> int:
        """Return the tokens of the batch of a step."""

    def flops(self, step: int, *, attention: bool) -> float:
        """Return the floating-point operations of a step."""


class Reporter:
    """The writer of training's output. Every rank has one, only rank 0 writes."""

    def __init__(self, context: Context, spec: TrainingSpec) -> None:
        self.context = context
        self.spec = spec
        self.volume: Volume = spec
        """Counts the tokens of steps; until the samples are known the most that they can have."""
        self.active = context.rank == 0
        self._file: TextIO | None = None
        self._log = MetricsLog(context.run, context.task.stage, context.task.index)
        self._lines: list[MetricLine] = []
        """Read so far."""
        self._board: Any = None
        self._reported = 0.0
        self._last: dict[str, float] = {}
        self._period: list[StepLine] = []
        """Steps since the last line of a period."""
        self._step_seconds: deque[float] = deque(maxlen=NEWEST_STEPS)
        self._checkpoint_seconds = self._validation_seconds = 0.0
        """For which training waited since then."""
        self._health_time = 0.0
        """Of the newest readings on record."""

    def open(self, step: int) -> None:
        """Open the files after a step; TensorBoard drops points of earlier attempts beyond it."""
        if not self.active:
            return
        from torch.utils.tensorboard import SummaryWriter

        self._period = []
        trained = [line for line in counted_steps(self.lines()).trained if line.step <= step]
        self._remember(trained[-1] if trained else None)
        task = self.context.task
        self._file = open_lines(self.context.run.metrics(task.stage, task.index))
        folder = self.context.path(self.spec.tensorboard_dir)
        self._board = SummaryWriter(str(folder), purge_step=step + 1)

    def close(self) -> None:
        """Flush and close the files."""
        if self._file is not None:
            try:
                with naming(self._file.name):
                    self._file.close()
            finally:
                self._board.close()  # its thread would go on writing

    def step(
        self, step: int, loss: float, rate: float, norm: float, seconds: float, samples: str
    ) -> None:
        """Record one training step: its number from 1, its duration, and the fingerprint of the
        samples that were read for it.
        """
        if self._file is None:
            return
        speed = self.volume.step_tokens(step) / seconds
        line = StepLine(
            step=step,
            loss=loss,
            learning_rate=rate,
            grad_norm=norm,
            consumed_samples=step * self.spec.global_batch_size,
            samples=samples,
            tokens=self.volume.tokens(step),
            seconds=seconds,
            tokens_per_s=speed,
            time=time.time(),
            attempt=self.context.attempt,
        )
        self._write(line)
        self._period.append(line)
        self._step_seconds.append(seconds)
        self._remember(line)
        if time.time() - self._reported >= REPORT_SECONDS or step == self.spec.train_steps:
            self._plot(step, {"loss/train": loss, "perplexity/train": perplexity(loss)})
            self._plot(step, {"learning rate": rate, "gradient norm": norm})
            self._plot(step, {"tokens per second": speed, "tokens": line.tokens})
            self.progress(step, "step")

    def period(self, figures: Figures) -> None:
        """Record the steps since the last period: speed, memory, norms, seconds by part."""
        if self._file is None:
            return
        steps, world = self._period, self.spec.parallel.world_size
        seconds = sum(line.seconds for line in steps)
        speed = sum(self.volume.step_tokens(line.step) for line in steps) / seconds
        loss = sum(line.loss for line in steps) / len(steps)
        line = PeriodLine(
            step=steps[-1].step,
            steps=len(steps),
            loss=loss,
            perplexity=perplexity(loss),
            param_norm=figures.param_norm,
            seconds=seconds,
            data=figures.data,
            communication=figures.communication,
            checkpoint=self._checkpoint_seconds,
            validation=self._validation_seconds,
            step_p50=quantile(self._step_seconds, 0.5),
            step_p95=quantile(self._step_seconds, SLOW),
            step_max=max(self._step_seconds),
            tokens_per_s=speed,
            tokens_per_s_per_rank=speed / world,
            mfu=self._utilisation(steps, seconds, attention=True),
            mfu_without_attention=self._utilisation(steps, seconds, attention=False),
            memory_bytes=figures.memory_bytes,
            time=time.time(),
            attempt=self.context.attempt,
        )
        self._write(line)
        self._period = []
        self._checkpoint_seconds = self._validation_seconds = 0.0
        self._plot(line.step, plotted(line))
        self.health(line.step)

    def health(self, step: int) -> None:
        """Record the newest readings of the nodes' monitors, once each."""
        if self._file is None:
            return
        task = self.context.task
        found = read_small(self.context.run.health(task.stage, task.index))
        try:
            line = from_json({**found, "step": step})
        except ValueError:  # there is none, or another version wrote it
            return
        if not isinstance(line, HealthLine) or line.attempt != self.context.attempt:
            return
        if line.time <= self._health_time:
            return
        self._health_time = line.time
        self._write(line)
        self._plot(step, plotted_health(line))

    def _utilisation(
        self, steps: Sequence[StepLine], seconds: float, *, attention: bool
    ) -> float | None:
        """Return the model FLOPs utilisation of a rank over some steps; None without a peak."""
        peak = self.context.task.peak_tflops * 1e12 * self.spec.parallel.world_size * seconds
        done = sum(self.volume.flops(line.step, attention=attention) for line in steps)
        return done / peak if peak else None

    def spike(self, line: SpikeLine) -> None:
        """Record a spike and what followed."""
        self._write(line)
        self._plot(line.step, {f"spikes/{line.action}": 1.0})

    def skip(self, step: int, reason: str, seconds: float) -> None:
        """Record that a step's batch was skipped."""
        self._write(SkipLine(step, reason, seconds, time.time(), self.context.attempt))
        self._plot(step, {"seconds/skipped step": seconds})

    def validation(
        self, step: int, loss: float, corpora: Mapping[str, float], seconds: float
    ) -> None:
        """Record the loss of the validation batches after a step, that of each corpus by its name,
        and the duration.
        """
        if self._file is None:
            return
        each = {
            name: {"loss": value, "perplexity": perplexity(value)}
            for name, value in corpora.items()
        }
        self._write(ValidationLine(step, loss, each, seconds, time.time(), self.context.attempt))
        self._validation_seconds += seconds
        self._plot(step, {"loss/validation": loss, "perplexity/validation": perplexity(loss)})
        for name, values in each.items():
            label = name.strip("/").replace("/", " ")  # TensorBoard groups by what is before one
            self._plot(step, {f"validation {key}/{label}": values[key] for key in values})

    def snapshot(self, step: int, seconds: float) -> None:
        """Record that a save of the state after a step has begun, and how long training waited."""
        self._checkpoint_seconds += seconds
        self._write(SnapshotLine(step, seconds, time.time(), self.context.attempt))

    def committed(
        self,
        kind: type[SaveLine | KeptLine],
        stored: StoredCheckpoint,
        seconds: float,
        written: float,
    ) -> None:
        """Record a checkpoint, or weights that are kept: how long training waited, as ``kind`` has
        it, and the seconds from the beginning of the save.
        """
        self._checkpoint_seconds += seconds
        _, record = stored
        self._write(
            kind(
                step=record.iteration,
                seconds=seconds,
                written=written,
                bytes=record.bytes,
                time=time.time(),
                attempt=self.context.attempt,
            )
        )
        name = "checkpoint" if kind is SaveLine else "kept weights"
        size = record.bytes / GIB
        self._plot(
            record.iteration, {f"{name}/seconds to write": written, f"{name}/size in GiB": size}
        )

    def _remember(self, newest: StepLine | None) -> None:
        """Show the loss and speed of the newest step from now on, whichever attempt trained it."""
        self._last = (
            {} if newest is None else {"loss": newest.loss, "tokens_per_s": newest.tokens_per_s}
        )

    def _write(self, line: MetricLine) -> None:
        if self._file is not None:
            with naming(self._file.name):
                self._file.write(json.dumps(to_json(line)) + "\n")

    def progress(self, step: int, phase: str) -> None:
        """Replace the progress file: ``startup``, ``step``, ``validation`` or ``checkpoint``."""
        if not self.active:
            return
        self._reported = time.time()
        self.context.progress(
            step,
            self.spec.train_steps,
            "steps",
            step=step,
            target_step=self.spec.train_steps,
            tokens=self.volume.tokens(step),
            target_tokens=self.volume.tokens(self.spec.train_steps),
            phase=phase,
            **self._last,
        )

    def lines(self) -> Sequence[MetricLine]:
        """Return the metric lines of all attempts up to now; each is read and parsed once."""
        self._lines.extend(self._log.read_new())
        return self._lines

    def highest_saved(self) -> int:
        """Return the highest step that the metrics have a checkpoint of, or 0."""
        return max((line.step for line in self.lines() if isinstance(line, SaveLine)), default=0)

    def has_validation(self, step: int) -> bool:
        """Return whether the metrics have a validation after this step that counts."""
        return any(line.step == step for line in counted_steps(self.lines()).validated)

    def _plot(self, step: int, values: dict[str, float]) -> None:
        if self._board is None:  # of another rank
            return
        for name, value in values.items():
            self._board.add_scalar(name, value, step)


def plotted(line: PeriodLine) -> dict[str, float]:
    """Return the values of a period by their names in TensorBoard."""
    values = {
        "parameter norm": line.param_norm,
        "tokens per second per rank": line.tokens_per_s_per_rank,
        "MFU/with attention": line.mfu,
        "MFU/without attention": line.mfu_without_attention,
        "step seconds/median": line.step_p50,
        "step seconds/95th percentile": line.step_p95,
        "step seconds/largest": line.step_max,
        "share of steps/data": line.data / line.seconds,
        "share of steps/gradient reduction": line.communication / line.seconds,
        "seconds/checkpoint": line.checkpoint,
        "seconds/validation": line.validation,
        "peak memory in GiB": line.memory_bytes / GIB,
    }
    return {name: value for name, value in values.items() if value is not None}


def plotted_health(line: HealthLine) -> dict[str, float]:
    """Return the values of the GPUs by their names in TensorBoard."""
    values = {
        "GPUs/number": float(line.gpus),
        "GPUs/utilisation in per cent": line.utilisation,
        "GPUs/power of all in kW": None if line.power_w is None else line.power_w / 1000,
        "GPUs/temperature of the hottest": line.temperature,
        "GPUs/clock of the slowest in MHz": line.sm_clock_mhz,
        "GPUs/memory of the fullest in GiB": (
            None if line.memory_bytes is None else line.memory_bytes / GIB
        ),
        "GPUs/energy of the attempt in kWh": line.energy_j / JOULES_PER_KWH,
        "GPUs/findings": float(line.findings),
    }
    return {name: value for name, value in values.items() if value is not None}


def summarise(lines: Iterable[MetricLine], done: int, volume: Volume) -> dict[str, Any]:
    """Return the done marker's summary; ``metrics_log.counted_steps`` selects the lines that count.

    Args:
        lines: of all attempts, oldest first.
        done: optimizer steps.
        volume: counts the tokens of steps.

    Returns:
        ``steps``, how many of them were ``skipped``, ``tokens`` of the others, first and last loss
        and validation loss (None if there is none), ``seconds`` spent in steps, and their
        ``tokens_per_s``.
    """
    counted = counted_steps(lines)
    trained, validated = counted.trained, counted.validated
    tokens = sum(volume.step_tokens(line.step) for line in trained)
    seconds = sum(line.seconds for line in trained)
    return {
        "steps": done,
        "skipped": len(counted.skipped),
        "tokens": volume.tokens(done)
        - sum(volume.step_tokens(line.step) for line in counted.skipped),
        "loss_first": trained[0].loss if trained else None,
        "loss_last": trained[-1].loss if trained else None,
        "validation_first": validated[0].loss if validated else None,
        "validation_last": validated[-1].loss if validated else None,
        "seconds": seconds,
        "tokens_per_s": tokens / seconds if seconds else None,
    }
