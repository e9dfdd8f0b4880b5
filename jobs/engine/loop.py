"""Steps, metrics, stop flag, save points."""

from __future__ import annotations

import gc
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
import torch.distributed

from jobs import device as devices
from jobs import rundir, specs
from jobs.engine import checkpoint, data, model, optim
from jobs.runtime import FAILED, Context, Stopped, TaskError

with devices.quiet_imports():
    from megatron.core import parallel_state
    from megatron.core.pipeline_parallel import get_forward_backward_func

POLL_SECONDS = 1.0
"""How often rank 0 looks for STOP and SAVE, and tells how far it is."""


def train(context: Context, spec: specs.PretrainSpec, place: torch.device) -> None:
    """Train from the newest valid checkpoint, or from random weights, to ``train_steps``.

    Every rank of the layout calls it. Rank 0 writes metrics, progress and, at the target, the done marker.

    Raises:
        Stopped: it was asked to stop; everything trained is in a checkpoint.
        TaskError: the data or the checkpoints cannot be used, a save failed, or the loss is no number.
    """
    reporter = Reporter(context, spec)
    reporter.progress(0, "startup")
    corpus = devices.decide_once(lambda: data.survey(context.run, spec))
    network = model.build(spec.model, spec.parallel, spec.precision, place)
    updater = optim.prepare(network, spec, place)
    trainer = Trainer(context, spec, place, corpus, updater, network, reporter)
    trainer.resume_or_begin()
    reporter.open(trainer.step)
    try:
        trainer.run()
    finally:
        reporter.close()


@dataclass
class Agreed:
    """What one collective told every rank about a global batch."""

    loss: float
    stop: bool
    save: bool


class Trainer:
    """The state of a training run on this rank, and its steps."""

    def __init__(
        self,
        context: Context,
        spec: specs.PretrainSpec,
        place: torch.device,
        corpus: data.Corpus,
        updater: optim.Updater,
        network: torch.nn.Module,
        reporter: Reporter,
    ) -> None:
        self.context = context
        self.spec = spec
        self.place = place
        self.corpus = corpus
        self.updater = updater
        self.reporter = reporter
        self.trained = checkpoint.Trained(network, updater.optimizer)
        self.folder = context.path(spec.checkpoint_dir)
        self.requests = Requests(context)
        self.forward_backward = get_forward_backward_func()
        self.micro_batches = spec.global_batch_size // (spec.micro_batch_size * spec.parallel.data)
        self.step = 0
        self.saved: checkpoint.Found | None = None
        self.batches, self.validation = data.open_splits(context.run, spec, corpus, place)

    def resume_or_begin(self) -> None:
        """Load the newest valid checkpoint that there is.

        Raises:
            TaskError: none of those there is valid, or tokens or model are not the ones it was saved with.
        """
        found = devices.decide_once(lambda: checkpoint.choose_for_resume(self.folder))
        if found is None:
            return
        path, record = found
        if record.data != self.corpus.digest:
            raise TaskError(
                f"tokens changed since {path.name} was saved: its position in them means nothing now",
                "bring the old tokens back, or start another run with `--new`",
            )
        if record.model != checkpoint.model_digest(self.spec.model):
            raise TaskError(
                f"{path.name} holds a model of another shape than this run asks for",
                "start another run with `--new`",
            )
        checkpoint.load(path, self.trained, record, asdict(self.spec.parallel))
        optim.complete_state(self.updater.optimizer)
        self.step = record.iteration
        self.updater.skip_to(self.step)
        self.saved = found

    def run(self) -> None:
        """Train to the target, validating and saving on the way."""
        gc.collect()
        gc.freeze()  # what exists now lives until the end: the collector need not walk it at every step
        if self.step == 0 and self.saved is None:
            self._save()
        if self.step == 0:
            self._validate()
        while self.step < self.spec.train_steps:
            agreed = self._step()
            if self._due(self.spec.validation_interval) and not agreed.stop:
                agreed.stop = self._validate()
            if agreed.save or agreed.stop or self._due(self.spec.save_interval):
                self._save()
            if agreed.stop and self.step < self.spec.train_steps:
                raise Stopped(f"stopped at step {self.step} because {self.requests.reason()}")
        self._finish()

    def _due(self, interval: int) -> bool:
        return interval > 0 and self.step % interval == 0 and self.step < self.spec.train_steps

    def _step(self) -> Agreed:
        started = time.perf_counter()
        first = self.step * self.spec.global_batch_size
        losses = self._pass(self.batches, first, forward_only=False)
        agreed = self._agree(losses)
        if not math.isfinite(agreed.loss):
            raise self._not_a_number("the loss", agreed.loss)
        rate, norm = self.updater.update()
        if not math.isfinite(norm):
            raise self._not_a_number("the gradient norm", norm)
        self.step += 1
        self.reporter.step(self.step, agreed.loss, rate, norm, time.perf_counter() - started)
        return agreed

    def _pass(self, split: data.Split, first_sample: int, *, forward_only: bool) -> list[Any]:
        """Run one global batch; the losses of this rank's micro-batches on the last pipeline stage."""
        batches = split.micro_batches(first_sample) if split.dataset is not None else None
        losses: list[Any] = self.forward_backward(
            forward_step_func=_forward,
            data_iterator=batches,
            model=self.updater.wrapped,
            num_microbatches=self.micro_batches,
            seq_length=self.spec.model.seq_length,
            micro_batch_size=self.spec.micro_batch_size,
            forward_only=forward_only,
        )
        return losses

    def _agree(self, losses: list[Any]) -> Agreed:
        """Mean loss over the global batch, and whether anybody asks to stop or save, in one collective."""
        stop, save = self.requests.poll()
        shared = torch.tensor([0.0, stop, save], dtype=torch.float64, device=self.place)
        if losses and parallel_state.get_tensor_model_parallel_rank() == 0:
            shared[0] = torch.stack(losses).sum()
        torch.distributed.all_reduce(shared)
        total, stops, saves = shared.tolist()
        parts = self.micro_batches * self.spec.parallel.data
        return Agreed(total / parts, stops > 0, saves > 0)

    def _validate(self) -> bool:
        """Mean loss over the validation batches, always the same ones; True when asked to stop meanwhile."""
        if self.validation is None or self.spec.validation_batches == 0:
            return False
        self.reporter.progress(self.step, "validation")
        self.updater.wrapped.eval()
        total = 0.0
        for number in range(self.spec.validation_batches):
            first = number * self.spec.global_batch_size
            with torch.no_grad():
                agreed = self._agree(self._pass(self.validation, first, forward_only=True))
            if agreed.save:
                self.requests.save_later()
            if agreed.stop:
                break
            total += agreed.loss
        else:
            self.reporter.validation(self.step, total / self.spec.validation_batches)
        self.updater.wrapped.train()
        return agreed.stop

    def _save(self) -> None:
        if self.saved is not None and self.saved[1].iteration == self.step:
            return
        self.reporter.progress(self.step, "checkpoint")
        record = checkpoint.Record(
            iteration=self.step,
            consumed_samples=self.step * self.spec.global_batch_size,
            layout=asdict(self.spec.parallel),
            precision=self.spec.precision,
            model=checkpoint.model_digest(self.spec.model),
            data=self.corpus.digest,
            manifest="",
            bytes=0,
            files=0,
        )
        self.saved = checkpoint.save(self.folder, self.trained, record, self.spec.keep_checkpoints)

    def _finish(self) -> None:
        if self.validation is not None and not devices.decide_once(
            lambda: self.reporter.validated(self.step)
        ):
            self._validate()
        self._save()
        if self.context.rank == 0 and self.saved is not None:
            self.reporter.finish(self.step, self.corpus, self.saved[0])

    def _not_a_number(self, what: str, value: float) -> TaskError:
        kept = self.saved[0].name if self.saved else "no checkpoint"
        return TaskError(
            f"{what} of step {self.step + 1} is {value}: training stops, {kept} holds the last good state",
            "submit again to see whether it comes back; if it does, lower the learning rate or look at "
            f"samples {self.step * self.spec.global_batch_size} and following",
            FAILED,
        )


def _forward(batches: Iterator[dict[str, torch.Tensor]] | None, network: Any) -> tuple[Any, Any]:
    """One micro-batch through this pipeline stage, as megatron.core's schedules call it."""
    if batches is None:
        return network(None, None, None), _loss
    batch = next(batches)
    output = network(batch["tokens"], batch["positions"], None, labels=batch["labels"])
    return output, _loss


def _loss(output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean over the tokens of a micro-batch, for the backward pass and for the record."""
    mean = output.float().mean()
    return mean, mean.detach().double()


class Requests:
    """Who asks to stop or to save: signals on any rank, files in the run directory seen by rank 0."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._looked = 0.0
        self._stop_file = False
        self._save = False

    def poll(self) -> tuple[bool, bool]:
        """Whether this rank knows of a request to stop, and of one to save."""
        now = time.monotonic()
        if self.context.rank == 0 and now - self._looked >= POLL_SECONDS:
            self._looked = now
            self._look()
        save, self._save = self._save, False
        return bool(self.context.stop) or self._stop_file, save

    def save_later(self) -> None:
        """Bring up a request again that came when nothing could be saved."""
        self._save = True

    def reason(self) -> str:
        """Half a sentence on what this rank knows of."""
        if self.context.stop.received:
            import signal

            return f"of {signal.Signals(self.context.stop.received[0]).name}"
        return "the file STOP asks for it" if self._stop_file else "another rank was asked to"

    def _look(self) -> None:
        run = self.context.run
        self._stop_file = run.stop_file.exists()
        if run.save_file.exists():
            run.save_file.unlink(missing_ok=True)
            self._save = True


class Reporter:
    """Metrics, TensorBoard, progress and the summary; only rank 0 writes any."""

    def __init__(self, context: Context, spec: specs.PretrainSpec) -> None:
        self.context = context
        self.spec = spec
        self.active = context.rank == 0
        self.batch_tokens = spec.global_batch_size * spec.model.seq_length
        self._metrics: TextIO | None = None
        self._board: Any = None
        self._told = 0.0
        self._last: dict[str, float] = {}

    def open(self, step: int) -> None:
        """Begin to write after a step; TensorBoard forgets what an earlier attempt drew beyond it."""
        if not self.active:
            return
        from torch.utils.tensorboard import SummaryWriter

        self._metrics = _append_lines(self.context.run.metrics())
        folder = self.context.path(self.spec.tensorboard_dir)
        self._board = SummaryWriter(str(folder), purge_step=step + 1)

    def close(self) -> None:
        if self._metrics is not None:
            self._metrics.close()
        if self._board is not None:
            self._board.close()

    def step(self, step: int, loss: float, rate: float, norm: float, seconds: float) -> None:
        if not self.active:
            return
        speed = self.batch_tokens / seconds
        self._line(
            step=step,
            loss=loss,
            lr=rate,
            grad_norm=norm,
            consumed_samples=step * self.spec.global_batch_size,
            tokens=step * self.batch_tokens,
            seconds=seconds,
            tokens_per_s=speed,
            attempt=self.context.attempt,
        )
        for name, value in (
            ("loss/train", loss),
            ("learning rate", rate),
            ("gradient norm", norm),
            ("tokens per second", speed),
        ):
            self._board.add_scalar(name, value, step)
        self._last = {"loss": loss, "tokens_per_s": speed}
        if time.monotonic() - self._told >= POLL_SECONDS:
            self.progress(step, "step")

    def validation(self, step: int, loss: float) -> None:
        if not self.active:
            return
        self._line(step=step, validation_loss=loss)
        self._board.add_scalar("loss/validation", loss, step)

    def progress(self, step: int, phase: str) -> None:
        """Replace the progress file."""
        if not self.active:
            return
        self._told = time.monotonic()
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

    def validated(self, step: int) -> bool:
        """Whether a validation of this step is on record."""
        return any(
            line.get("step") == step and "validation_loss" in line
            for line in rundir.read_lines(self.context.run.metrics())
        )

    def finish(self, step: int, corpus: data.Corpus, last: Path) -> None:
        """Tell the end and write the done marker."""
        self.progress(step, "step")
        run, folder = self.context.run, self.spec.checkpoint_dir
        inputs = [
            rundir.describe_file(run, f"{source.prefix}.idx")
            for source in (*corpus.train, *corpus.validation)
        ]
        outputs = [rundir.describe_file(run, f"{folder}/{last.name}/{checkpoint.RECORD}")]
        lines = list(rundir.read_lines(run.metrics()))
        self.context.finish(inputs, outputs, summarise(lines, step, step * self.batch_tokens))

    def _line(self, **fields: Any) -> None:
        if self._metrics is not None:
            self._metrics.write(json.dumps({**fields, "time": time.time()}) + "\n")


def _append_lines(path: Path) -> TextIO:
    """Open for appending whole lines; a line that a kill cut short is ended first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if file.tell() > 0:
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")
    return path.open("a", buffering=1)


def summarise(lines: list[dict[str, Any]], steps: int, tokens: int) -> dict[str, Any]:
    """The done marker's summary, out of metric lines; of a step done twice the later line counts.

    Returns:
        steps, tokens, first and last loss and validation loss (None where there is none), seconds in
        steps, and tokens per second of these.
    """
    trained = {line["step"]: line for line in lines if "loss" in line and line["step"] <= steps}
    checked = {line["step"]: line["validation_loss"] for line in lines if "validation_loss" in line}
    seconds = sum(line["seconds"] for line in trained.values())
    counted = sum(1 for _ in trained)
    return {
        "steps": steps,
        "tokens": tokens,
        "loss_first": trained[min(trained)]["loss"] if trained else None,
        "loss_last": trained[max(trained)]["loss"] if trained else None,
        "validation_first": checked[min(checked)] if checked else None,
        "validation_last": checked[max(checked)] if checked else None,
        "seconds": seconds,
        "tokens_per_s": tokens * counted / max(steps, 1) / seconds if seconds else None,
    }
