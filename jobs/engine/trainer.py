"""The training loop: steps, validation, saves and stop requests."""

from __future__ import annotations

import gc
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from jobs.checkpoints import leases, manifest, retention
from jobs.contract import attempt_history, done_markers
from jobs.contract.errors import FAILED, RESUME, Stopped, TaskError
from jobs.contract.stage_specs import PretrainSpec
from jobs.data import survey
from jobs.engine import checkpoint, dataset, model, optim, sharded_state
from jobs.engine import device as devices
from jobs.engine.reporter import Reporter, summarise
from jobs.runtime.context import Context
from jobs.runtime.heartbeat import Phase

with devices.quiet():
    from megatron.core import parallel_state
    from megatron.core.pipeline_parallel import get_forward_backward_func

POLL_SECONDS = 1.0
"""Seconds between two checks by rank 0 for the files STOP and SAVE."""


class NonFiniteLoss(TaskError):
    """The loss or gradient norm is not finite (NaN or infinite)."""


def train(context: Context, spec: PretrainSpec, device: torch.device) -> None:
    """Train from the newest valid checkpoint, or from random weights, to ``train_steps``.

    Every rank of the layout calls it. Rank 0 writes metrics, progress and, at the target, the done
    marker.

    Raises:
        Stopped: a stop was requested; every step done is in a checkpoint.
        TaskError: the data or the checkpoints cannot be used, a save failed, the loss or gradient
            norm is not finite, or another training writes to the same folder.
    """
    reporter = Reporter(context, spec)
    reporter.progress(0, "startup")
    holder = leases.holder_of(context, os.environ)
    with ExitStack() as held:
        writer = leases.sole_writer(context.path(spec.checkpoint_dir), holder)
        devices.decide_once(lambda: held.enter_context(writer))
        _train(context, spec, device, reporter)


def _train(context: Context, spec: PretrainSpec, device: torch.device, reporter: Reporter) -> None:
    datasets = devices.decide_once(lambda: survey.survey(context.run, spec, context.heart.beat))
    context.heart.beat()
    network = model.build(spec.model, spec.parallel, spec.precision, device)
    context.heart.beat()
    trainer = Trainer(
        context=context,
        spec=spec,
        datasets=datasets,
        splits=dataset.open_splits(context.run, spec, datasets, device),
        network=network,
        updater=optim.prepare(network, spec),
        reporter=reporter,
        requests=StopRequests(context),
    )
    context.heart.beat()
    trainer.resume()
    context.heart.beat(step=trainer.step)
    reporter.open(trainer.step)
    try:
        stopped = trainer.run()
    finally:
        context.heart.beat(Phase.LEAVING)
        reporter.close()
    if stopped:
        torch.distributed.barrier()  # srun kills the other ranks as soon as one exits with an error
        raise Stopped(stopped)


@dataclass
class BatchResult:
    """The result of one collective over all ranks after a global batch."""

    loss: float
    """Mean over the batch."""
    stop_requested: bool
    save_requested: bool
    samples: str
    """Fingerprint of the samples that all ranks read."""


@dataclass
class Trainer:
    """The state of a training run on this rank, and its steps."""

    context: Context
    spec: PretrainSpec
    datasets: survey.DatasetSurvey
    splits: dataset.Splits
    network: torch.nn.Module
    updater: optim.Updater
    reporter: Reporter
    requests: StopRequests
    step: int = 0
    """Optimizer steps done."""
    saved: manifest.StoredCheckpoint | None = None
    """The newest checkpoint."""

    def __post_init__(self) -> None:
        spec = self.spec
        self.folder = self.context.path(spec.checkpoint_dir)
        self.origin: dict[str, Any] = {"weights": manifest.RANDOM, "seed": spec.seed}
        self.trained = sharded_state.TrainingState(self.network, self.updater.optimizer)
        self.micro_batches = spec.global_batch_size // (spec.micro_batch_size * spec.parallel.data)
        self.forward_backward = get_forward_backward_func()

    def resume(self) -> None:
        """Load the newest valid checkpoint; without any, stay at step 0 with random weights.

        Raises:
            TaskError: none is valid, the base weights were not imported, or a checkpoint was saved
                with other tokens or another model.
        """
        highest = devices.decide_once(self._highest_saved)
        layout = asdict(self.spec.parallel)
        beat = self.context.heart.beat
        self.saved = checkpoint.load_newest(
            self.folder, self.trained, layout, highest, self._accept, beat
        )
        if self.saved is not None:
            self.origin = self.saved[1].origin
            self.step = self.saved[1].iteration
            self.updater.skip_to(self.step)
        elif self.spec.weights != manifest.RANDOM:
            raise TaskError(
                f"{self.folder}: no checkpoint of step 0, which the stage `convert` makes of "
                f"`{self.spec.weights}`; training does not start from random weights instead",
                "{meditron submit convert --run} first",
            )

    def _accept(self, path: Path, record: manifest.CheckpointRecord) -> None:
        """Refuse a checkpoint that this training cannot resume from.

        Raises:
            TaskError: it was saved with other tokens or another model, has weights alone after step
                0, or began with other weights.
        """
        back = f"put this run's own checkpoints back, then {RESUME}"
        if difference := manifest.difference(record, self.spec.model, self.spec.tokenizer):
            raise TaskError(f"{path}: {difference}", back)
        if record.kind == manifest.WEIGHTS and record.iteration > 0:
            raise TaskError(
                f"{path}: it holds weights alone, and only step 0 has no optimizer state", back
            )
        began = record.origin.get("weights")
        if (began == manifest.RANDOM) != (self.spec.weights == manifest.RANDOM):
            raise TaskError(
                f"{path}: its training began with the weights `{began}`, this run names "
                f"`{self.spec.weights}`",
                "name other weights in a submission with --new, which starts another run",
            )
        if record.data:
            self.datasets.require_same(self.context.run, record.data, path.name)

    def _highest_saved(self) -> int:
        task = self.context.task
        past = attempt_history.read(self.context.run).task(task.stage, task.index)
        return retention.highest_saved(past, self.reporter.highest_saved())

    def run(self) -> str:
        """Train to the target, with validations and saves.

        Returns:
            The reason of an earlier stop; empty at the target.
        """
        gc.collect()
        gc.freeze()  # objects that exist now live to the end, so later collections can skip them
        if self.saved is None:
            self._save()
        stop = self._validate_once() if self._validation_is_due() else False
        while self.step < self.spec.train_steps and not stop:
            result = self._train_step()
            stop = result.stop_requested
            if self._validation_is_due() and not stop:
                stop = self._validate()
            if stop or result.save_requested or self._save_is_due():
                self._save()
        if self.step == self.spec.train_steps:
            stop = self._finish()
        if stop:
            return f"stopped at step {self.step}, every step is saved: {self.requests.reason()}"
        return ""

    def _validation_is_due(self) -> bool:
        interval = self.spec.validation_interval
        return interval > 0 and self.step % interval == 0 and self.step < self.spec.train_steps

    def _save_is_due(self) -> bool:
        return self.step % self.spec.save_interval == 0 and self.step < self.spec.train_steps

    def _train_step(self) -> BatchResult:
        started = time.perf_counter()
        split = self.splits.train
        losses = self._pass(split, self._position(), forward_only=False)
        result = self._reduce_batch(losses, split)
        if not math.isfinite(result.loss):
            raise self._non_finite("the loss", result.loss)
        rate, norm = self.updater.update()
        if not math.isfinite(norm):
            raise self._non_finite("the gradient norm", norm)
        self.step += 1
        self.context.heart.beat(Phase.STEP, self.step)
        seconds = time.perf_counter() - started
        self.reporter.step(self.step, result.loss, rate, norm, seconds, result.samples)
        return result

    def _position(self) -> int:
        """Return the first sample of the next global batch."""
        return self.step * self.spec.global_batch_size

    def _pass(self, split: dataset.Split, first_sample: int, *, forward_only: bool) -> list[Any]:
        """Run a global batch; return its micro-batches' losses on the last pipeline stage."""
        losses: list[Any] = self.forward_backward(
            forward_step_func=self._forward,
            data_iterator=split.micro_batches(first_sample),
            model=self.updater.wrapped,
            num_microbatches=self.micro_batches,
            seq_length=self.spec.model.seq_length,
            micro_batch_size=self.spec.micro_batch_size,
            forward_only=forward_only,
        )
        return losses

    def _forward(self, batches: Iterator[dict[str, torch.Tensor]], network: Any) -> tuple[Any, Any]:
        """Run one micro-batch through this pipeline stage; megatron.core's schedules call it."""
        self.context.heart.beat()
        batch = next(batches)
        output = network(batch["tokens"], batch["positions"], None, labels=batch["labels"])
        return output, _loss

    def _reduce_batch(self, losses: list[Any], split: dataset.Split) -> BatchResult:
        """Return the mean loss over the global batch, any rank's requests to stop or save, and the
        fingerprint of the samples, in one collective.
        """
        stop, save = self.requests.poll()
        shared = torch.tensor(
            [0.0, stop, save, *split.fingerprint], dtype=torch.float64, device=self.splits.device
        )
        if losses and parallel_state.get_tensor_model_parallel_rank() == 0:
            shared[0] = torch.stack(losses).sum()
        torch.distributed.all_reduce(shared)
        total, stops, saves, *sums = shared.tolist()
        parts = self.micro_batches * self.spec.parallel.data
        return BatchResult(total / parts, stops > 0, saves > 0, dataset.fingerprint_text(sums))

    def _validate_once(self) -> bool:
        """Validate unless an earlier attempt did at this step; return whether to stop."""
        if devices.decide_once(lambda: self.reporter.has_validation(self.step)):
            return False
        return self._validate()

    def _validate(self) -> bool:
        """Validate on a fixed set of batches; return whether a stop was requested."""
        split = self.splits.validation
        if split is None:
            return False
        self.reporter.progress(self.step, "validation")
        with self.context.heart.during(Phase.VALIDATION):
            return self._validate_on(split)

    def _validate_on(self, split: dataset.Split) -> bool:
        started = time.perf_counter()
        self.updater.wrapped.eval()
        total = 0.0
        for number in range(self.spec.validation_batches):
            first = number * self.spec.global_batch_size
            with torch.no_grad():
                result = self._reduce_batch(self._pass(split, first, forward_only=True), split)
            if result.save_requested:
                self.requests.save_later()
            if result.stop_requested:
                return True
            total += result.loss
        self.updater.wrapped.train()
        seconds = time.perf_counter() - started
        self.reporter.validation(self.step, total / self.spec.validation_batches, seconds)
        return False

    def _save(self) -> None:
        if self.saved is not None and self.saved[1].iteration == self.step:
            return
        self.reporter.progress(self.step, "checkpoint")
        started = time.perf_counter()
        model, precision = self.spec.model, self.spec.precision
        if self.step:
            kind, size = manifest.TRAINING, model.checkpoint_bytes(precision)
        else:  # nothing but weights has a value yet
            kind, size = manifest.WEIGHTS, model.weights_bytes(precision)
        record = manifest.CheckpointRecord(
            iteration=self.step,
            consumed_samples=self._position(),
            layout=asdict(self.spec.parallel),
            precision=precision,
            kind=kind,
            **manifest.identity(model, self.spec.tokenizer),
            origin=self.origin,
            data=self.datasets.record,
            bytes=size,
        )
        with self.context.heart.during(Phase.CHECKPOINT):
            self.saved = checkpoint.save(
                self.folder, self.trained, record, self.spec.keep_checkpoints
            )
        self.reporter.save(self.step, self.saved[1].bytes, time.perf_counter() - started)

    def _finish(self) -> bool:
        """Validate, save and write the done marker; after a stop request, only save.

        Returns:
            Whether a stop was requested; the next attempt then does the rest.
        """
        stop = self._validate_once()
        self._save()
        if not stop:
            devices.decide_once(self._write_done)
        return stop

    def _write_done(self) -> None:
        run = self.context.run
        self.reporter.progress(self.step, "step")
        sources = (*self.datasets.train, *self.datasets.validation)
        record = f"{self.spec.checkpoint_dir}/{manifest.name(self.step)}/{manifest.RECORD}"
        tokens = self._position() * self.spec.model.seq_length
        self.context.finish(
            inputs=[done_markers.describe_file(run, f"{source.prefix}.idx") for source in sources],
            outputs=[done_markers.describe_file(run, record)],
            summary={
                **summarise(self.reporter.lines(), self.step, tokens),
                "peak_memory_bytes": devices.peak_memory_bytes(self.splits.device),
            },
        )

    def _non_finite(self, what: str, value: float) -> NonFiniteLoss:
        kept = self.saved[0].name if self.saved else "no checkpoint"
        return NonFiniteLoss(
            f"{what} of step {self.step + 1} is {value}; {kept} holds the last good state",
            f"{RESUME} shows whether it recurs; if it does, lower the learning rate, or "
            f"inspect the samples from {self._position()} on",
            FAILED,
        )


def _loss(output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean over a micro-batch's tokens, for the backward pass and for the record."""
    mean = output.float().mean()
    return mean, mean.detach().double()


class StopRequests:
    """Requests to stop or save: signals on any rank, files in the run directory on rank 0."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._checked = 0.0
        self._stop_file = False
        self._save = False

    def poll(self) -> tuple[bool, bool]:
        """Return whether this rank has a request to stop, and one to save."""
        now = time.monotonic()
        if self.context.rank == 0 and now - self._checked >= POLL_SECONDS:
            self._checked = now
            self._check_files()
        save, self._save = self._save, False
        return bool(self.context.stop) or self._stop_file, save

    def save_later(self) -> None:
        """Repeat a request that came while nothing could be saved."""
        self._save = True

    def reason(self) -> str:
        """Return the source of the stop request, as far as this rank knows it."""
        if self.context.stop.received:
            return f"{signal.Signals(self.context.stop.received[0]).name} was received"
        return "the run has a STOP file" if self._stop_file else "another rank received a signal"

    def _check_files(self) -> None:
        run = self.context.run
        self._stop_file = run.is_stop_requested()
        if run.is_save_requested():
            run.save_file.unlink(missing_ok=True)
            self._save = True
