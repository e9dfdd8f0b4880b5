"""Training's output: metric lines, TensorBoard, progress, and the summary of the done marker."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from jobs.contract.files import open_lines
from jobs.contract.metrics_log import (
    MetricLine,
    MetricsLog,
    SaveLine,
    StepLine,
    ValidationLine,
    counted_steps,
    to_json,
)
from jobs.contract.stage_specs import PretrainSpec
from jobs.runtime.context import Context

REPORT_SECONDS = 1.0
"""Least time between two updates of progress and TensorBoard; metric lines have every step."""


class Reporter:
    """The writer of training's output. Every rank has one, only rank 0 writes."""

    def __init__(self, context: Context, spec: PretrainSpec) -> None:
        self.context = context
        self.spec = spec
        self.active = context.rank == 0
        self.batch_tokens = spec.global_batch_size * spec.model.seq_length
        self._file: TextIO | None = None
        self._log = MetricsLog(context.run, context.task.stage)
        self._lines: list[MetricLine] = []
        """Read so far."""
        self._board: Any = None
        self._reported = 0.0
        self._last: dict[str, float] = {}

    def open(self, step: int) -> None:
        """Open the files after a step; TensorBoard drops points of earlier attempts beyond it."""
        if not self.active:
            return
        from torch.utils.tensorboard import SummaryWriter

        self._file = open_lines(self.context.run.metrics(self.context.task.stage))
        folder = self.context.path(self.spec.tensorboard_dir)
        self._board = SummaryWriter(str(folder), purge_step=step + 1)

    def close(self) -> None:
        """Flush and close the files."""
        if self._file is not None:
            self._file.close()
            self._board.close()

    def step(
        self, step: int, loss: float, rate: float, norm: float, seconds: float, samples: str
    ) -> None:
        """Record one training step: its number from 1, its duration, and the fingerprint of the
        samples that were read for it.
        """
        if self._file is None:
            return
        speed = self.batch_tokens / seconds
        self._write(
            StepLine(
                step=step,
                loss=loss,
                learning_rate=rate,
                grad_norm=norm,
                consumed_samples=step * self.spec.global_batch_size,
                samples=samples,
                tokens=step * self.batch_tokens,
                seconds=seconds,
                tokens_per_s=speed,
                time=time.time(),
                attempt=self.context.attempt,
            )
        )
        self._last = {"loss": loss, "tokens_per_s": speed}
        if time.time() - self._reported >= REPORT_SECONDS or step == self.spec.train_steps:
            self._plot(step, {"loss/train": loss, "learning rate": rate, "gradient norm": norm})
            self._plot(step, {"tokens per second": speed})
            self.progress(step, "step")

    def validation(self, step: int, loss: float, seconds: float) -> None:
        """Record the mean loss over the validation batches after a step, and its duration."""
        if self._file is None:
            return
        self._write(ValidationLine(step, loss, seconds, time.time(), self.context.attempt))
        self._plot(step, {"loss/validation": loss})

    def save(self, step: int, size: int, seconds: float) -> None:
        """Record a written checkpoint: its bytes, and how long training waited for it."""
        self._write(SaveLine(step, seconds, size, time.time(), self.context.attempt))

    def _write(self, line: MetricLine) -> None:
        if self._file is not None:
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
            tokens=step * self.batch_tokens,
            target_tokens=self.spec.train_steps * self.batch_tokens,
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
        """Return whether the metrics have a validation after this step."""
        return any(line.step == step and isinstance(line, ValidationLine) for line in self.lines())

    def _plot(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._board.add_scalar(name, value, step)


def summarise(lines: Iterable[MetricLine], done: int, tokens: int) -> dict[str, Any]:
    """Return the done marker's summary; ``metrics_log.counted_steps`` selects the lines that count.

    Args:
        lines: of all attempts, oldest first.
        done: optimizer steps.
        tokens: trained on in these steps.

    Returns:
        ``steps``, ``tokens``, first and last loss and validation loss (None if there is none),
        ``seconds`` spent in steps, and their ``tokens_per_s``.
    """
    trained, validated = counted_steps(lines)
    seconds = sum(line.seconds for line in trained)
    return {
        "steps": done,
        "tokens": tokens,
        "loss_first": trained[0].loss if trained else None,
        "loss_last": trained[-1].loss if trained else None,
        "validation_first": validated[0].loss if validated else None,
        "validation_last": validated[-1].loss if validated else None,
        "seconds": seconds,
        "tokens_per_s": tokens / done * len(trained) / seconds if seconds else None,
    }
