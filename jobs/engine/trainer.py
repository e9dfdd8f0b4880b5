"""The training loop: steps, validation, saves and stop requests."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed

from jobs.checkpoints import leases, manifest, retention
from jobs.contract import attempt_history, done_markers
from jobs.contract.errors import RESUME, Stopped, TaskError
from jobs.contract.metrics_log import REWOUND, SKIPPED
from jobs.contract.stage_specs import BY_TOKENS, TrainingSpec
from jobs.data import sample_order
from jobs.engine import (
    checkpoint,
    dataset,
    garbage,
    layers,
    measures,
    model,
    optim,
    sharded_state,
)
from jobs.engine import device as devices
from jobs.engine.kinds.kind import Kind
from jobs.engine.profiling.step_profiler import StepProfiler
from jobs.engine.reporter import Reporter, summarise
from jobs.engine.saving.training_saves import TrainingSaves
from jobs.engine.stability import skips, spikes
from jobs.engine.stability.guards import Step
from jobs.runtime.context import Context
from jobs.runtime.heartbeat import Phase

with devices.quiet():
    from megatron.core import parallel_state
    from megatron.core.pipeline_parallel import get_forward_backward_func

AnySpec = TypeVar("AnySpec", bound=TrainingSpec)

POLL_SECONDS = 1.0
"""Seconds between two checks by rank 0 for the files STOP and SAVE."""


def train(
    context: Context,
    spec: AnySpec,
    device: torch.device,
    open_kind: Callable[[Context, AnySpec], Kind],
) -> None:
    """Train from the newest valid checkpoint, or from the first weights, to ``train_steps``.

    Every rank of the layout calls it. Rank 0 writes metrics, progress and, at the target, the done
    marker.

    Args:
        context: of the task.
        spec: its settings.
        device: of this rank.
        open_kind: returns the samples and the first weights; called once no other writes to the
            folder of checkpoints.

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
        _train(context, spec, device, open_kind(context, spec), reporter)


def _train(
    context: Context, spec: TrainingSpec, device: torch.device, kind: Kind, reporter: Reporter
) -> None:
    reporter.volume = kind.volume
    context.heart.beat()
    pieces = model.pieces(
        spec.model,
        spec.parallel,
        spec.precision,
        device,
        positions_differ=kind.positions_differ,
        deterministic=spec.deterministic,
    )
    context.heart.beat()
    trainer = Trainer(
        context=context,
        spec=spec,
        kind=kind,
        splits=kind.open_splits(device),
        pieces=pieces,
        updater=optim.prepare(pieces, spec),
        reporter=reporter,
        requests=StopRequests(context),
    )
    context.heart.beat()
    trainer.resume()
    context.heart.beat(step=trainer.step)
    reporter.open(trainer.step)
    try:
        with garbage.manual():
            stopped = trainer.run()
    finally:
        context.heart.beat(Phase.LEAVING)
        trainer.saves.abandon()  # there is one only after an error
        trainer.splits.close()
        trainer.profiler.close(trainer.step)
        reporter.close()
    if stopped:
        torch.distributed.barrier()  # srun kills the other ranks as soon as one exits with an error
        raise Stopped(stopped)


@dataclass
class BatchResult:
    """The result of one collective over all ranks after a global batch."""

    total: float
    """Loss summed over the batch: over scored tokens, or over micro-batches of their means."""
    weight: float
    """Scored tokens, or micro-batches."""
    stop_requested: bool
    save_requested: bool
    save_advances: bool
    """The save that has begun waits for no rank."""
    profile_requested: bool
    samples: str
    """Fingerprint of the samples that all ranks read."""


@dataclass
class Trainer:
    """The state of a training run on this rank, and its steps."""

    context: Context
    spec: TrainingSpec
    kind: Kind
    splits: dataset.Splits
    pieces: list[torch.nn.Module]
    updater: optim.Updater
    reporter: Reporter
    requests: StopRequests
    step: int = 0
    """Optimizer steps done."""

    def __post_init__(self) -> None:
        spec = self.spec
        self.folder = self.context.path(spec.checkpoint_dir)
        self.origin: dict[str, Any] = {}
        self.trained = sharded_state.TrainingState(self.pieces, self.updater.optimizer)
        self.forward_backward = get_forward_backward_func()
        self.skips = skips.Skips(spec.skip_steps, {})
        self.saves = TrainingSaves(self.context, spec, self.trained, self.reporter)
        self.watch = spikes.SpikeWatch(self.context, spec, self.reporter)
        self.measures = measures.Measures(self.updater.optimizer, spec.parallel, self.splits.device)
        self.profiler = StepProfiler(self.context, self.splits.device)
        config: Any = self.pieces[0].config
        config.variable_seq_lengths = self.kind.lengths_differ  # pipeline stages exchange them
        config.finalize_model_grads_func = self.measures.communicating_in(
            config.finalize_model_grads_func
        )
        for buckets in self.updater.gathering():
            buckets.finish_param_sync = self.measures.communicating_in(buckets.finish_param_sync)

    def resume(self) -> None:
        """Load the newest valid checkpoint; without any, stay at step 0 with the first weights.

        Raises:
            TaskError: none is valid, the first weights are missing, or a checkpoint was saved with
                other samples or another model.
        """
        decided = devices.decide_once(lambda: skips.decided_before(self.reporter.lines()))
        self.skips = skips.Skips(self.spec.skip_steps, decided)
        highest = devices.decide_once(self._highest_saved)
        layout = asdict(self.spec.parallel)
        touch = self.context.heart.touch
        newest = checkpoint.load_newest(
            self.folder, self.trained, layout, highest, self._accept, touch
        )
        self.saves.newest = newest
        if newest is not None:
            self.origin = newest[1].origin
            self.step = newest[1].iteration
            self.updater.go_to(self.step)
            if newest[1].kind == manifest.WEIGHTS:
                self.updater.forget()
        else:
            self.origin = self.kind.begin(self.trained)
        self.watch.resume(self.step)
        devices.decide_once(self._set_aside_later)

    def _accept(self, path: Path, record: manifest.CheckpointRecord) -> None:
        """Refuse a checkpoint that this training cannot resume from.

        Raises:
            TaskError: it was saved with other tokens or another model, has weights alone after step
                0, is of a step beyond the target, or began with other weights.
        """
        back = f"put this run's own checkpoints back, then {RESUME}"
        if difference := manifest.difference(record, self.spec.model, self.spec.tokenizer):
            raise TaskError(f"{path}: {difference}", back)
        if record.kind == manifest.WEIGHTS and record.iteration > 0:
            raise TaskError(
                f"{path}: it holds weights alone, and only step 0 has no optimizer state", back
            )
        if record.iteration > self.spec.train_steps:
            raise retention.beyond_target(path, self.spec.train_steps)
        self.kind.require_origin(path, record)
        if record.data:
            self.kind.require_same(record.data, record.iteration, path.name)

    def _highest_saved(self) -> int:
        task = self.context.task
        past = attempt_history.read(self.context.run).task(task.stage, task.index)
        return retention.highest_saved(past, self.reporter.highest_saved())

    def run(self) -> str:
        """Train to the target, with validations and saves.

        Returns:
            The reason of an earlier stop; empty at the target.
        """
        if self.saves.newest is None:
            self._save()
            self.saves.finish(self.step)
        self._keep_weights()
        stop = self._validate_once() if self._validation_is_due() else False
        while self.step < self.spec.train_steps and not stop:
            before = self.step
            reason = self.skips.reason(self.step + 1)
            with self.profiler.step():
                result = self._skip_step(reason) if reason else self._train_step()
            self.profiler.after_step(self.step, result.profile_requested)
            rewound = self.step <= before
            stop = result.stop_requested if rewound else self._follow(result)
        if self.step == self.spec.train_steps:
            stop = self._finish()
        self.saves.finish(self.step)
        if stop:
            return f"stopped at step {self.step}, every step is saved: {self.requests.reason()}"
        return ""

    def _follow(self, result: BatchResult) -> bool:
        """Do what follows a step: saves and validation; return whether a stop was requested."""
        stop = result.stop_requested
        if result.save_advances:
            self.saves.advance()
        self._keep_weights()
        if self._validation_is_due() and not stop:
            stop = self._validate()
        if stop or result.save_requested or self.saves.is_due(self.step):
            self._save()
        return stop

    def _validation_is_due(self) -> bool:
        interval = self.spec.validation_interval
        return interval > 0 and self.step % interval == 0 and self.step < self.spec.train_steps

    def _train_step(self) -> BatchResult:
        started = time.perf_counter()
        number = self.step + 1
        with self.measures.reading(), self.profiler.data():
            batch = self.splits.train.batch(self._position())
        computed, action = self.watch.judge(
            number,
            self._compute(batch),
            lambda before: self._compute_again(batch, before),
            self._decided_before,
            self._newest_saved,
        )
        result: BatchResult = computed.result
        step = computed.step
        if action == SKIPPED:
            reason = skips.spike_reason(action, number)
            self.skips.add(number, reason)
            self._count_skipped(reason, started)
            return result
        if action == REWOUND:
            if result.save_requested:
                self.requests.save_later()
            self._rewind(stop=result.stop_requested)
            return result
        waited = self.saves.wait_for_copies()
        rate = self.updater.update(step.norm)
        self.step += 1
        self.context.heart.beat(Phase.STEP, self.step)
        garbage.collect_after(self.step)
        seconds = time.perf_counter() - started - waited
        self.reporter.step(self.step, step.loss, rate, step.norm, seconds, result.samples)
        self.context.heart.add_step(seconds, *self.measures.finish_step())
        if self.step % measures.PERIOD == 0 or self.step == self.spec.train_steps:
            self.reporter.period(self.measures.reduce())
        return result

    def _compute(self, batch: dataset.Batch) -> spikes.Computed:
        """Compute loss and gradients of the next step."""
        losses = self._pass(batch, forward_only=False)
        result = self._reduce_batch(losses, batch)
        loss = self._average(result.total, result.weight, f"the batch of step {self.step + 1}")
        return spikes.Computed(result, Step(loss, self._norm()), losses)

    def _norm(self) -> float:
        """Return the gradient norm, the same on all ranks.

        Without the distributed optimizer each data-parallel replica computes its own, from sums
        that need not be equal to the last bit; a rank that alone took it for a spike would be lost.
        """
        norm = self.updater.norm()
        parallel = self.spec.parallel
        if parallel.distributed_optimizer or parallel.data == 1:
            return norm
        shared = torch.tensor([norm], dtype=torch.float64, device=self.splits.device)
        torch.distributed.all_reduce(shared)
        return float(shared) / parallel.world_size

    def _compute_again(self, batch: dataset.Batch, before: spikes.Computed) -> spikes.Computed:
        """Compute the next step again, from the same weights; keep requests of the first time."""
        self.updater.clear()
        again = self._compute(batch)
        again.result.stop_requested |= before.result.stop_requested
        again.result.save_requested |= before.result.save_requested
        again.result.profile_requested |= before.result.profile_requested
        return again

    def _decided_before(self) -> int:
        """Return the number of steps in a row before the next one that training decided to skip."""
        count = 0
        while self.skips.reason(self.step - count) not in ("", skips.CONFIGURED):
            count += 1
        return count

    def _newest_saved(self) -> int | None:
        """Return the step of the newest checkpoint, once a save that has begun is finished."""
        self.saves.finish(self.step)
        return self.saves.newest[1].iteration if self.saves.newest else None

    def _rewind(self, *, stop: bool) -> None:
        """Return to the newest checkpoint; the steps that are skipped therefore are on record.
        Before a stop nothing is loaded: the next attempt begins there.
        """
        if stop:
            newest = self.saves.newest
            self.step = newest[1].iteration if newest else 0
            return
        self.updater.clear()
        self.measures.discard()
        self.reporter.close()
        with self.context.heart.during(Phase.CHECKPOINT):
            self.resume()
        self.reporter.open(self.step)

    def _set_aside_later(self) -> None:
        """Quarantine weights kept of later steps where a step up to them is skipped from now on.
        What was evaluated of them does not count any more. A lease does not keep them: a reader
        that finds them gone ends, since its result would be that of another training.
        """
        folders = manifest.folders(manifest.kept(self.folder))
        last = max(map(manifest.step_of, folders), default=0)
        skipped = filter(self.skips.reason, range(self.step + 1, last + 1))
        first = next(skipped, math.inf)
        later = [path for path in folders if manifest.step_of(path) >= first]
        retention.quarantine(dict.fromkeys(later, "a step up to it is skipped now"))
        for path in later:
            for task in done_markers.forget_readers(
                self.context.run, self.context.run.name_of(path)
            ):
                print(f"{task} read {path.name} and does not count any more", flush=True)

    def _skip_step(self, reason: str) -> BatchResult:
        """Count a step without training on its batch."""
        started = time.perf_counter()
        result = self._reduce_batch([], dataset.Batch([], [0, 0], (0, 0)))
        self._count_skipped(reason, started)
        return result

    def _count_skipped(self, reason: str, started: float) -> None:
        """Count a step that changes no weights."""
        self.updater.skip()
        self.measures.finish_step()
        self.step += 1
        self.context.heart.beat(Phase.STEP, self.step)
        self.reporter.skip(self.step, reason, time.perf_counter() - started)

    def _position(self) -> int:
        """Return the first sample of the next global batch."""
        return self.step * self.spec.global_batch_size

    def _pass(self, batch: dataset.Batch, *, forward_only: bool) -> list[Any]:
        """Run a global batch; return its micro-batches' losses on the last pipeline stage."""
        rows, length = batch.shape
        losses: list[Any] = self.forward_backward(
            forward_step_func=self._forward,
            data_iterator=[iter(batch.micro_batches) for _ in self.pieces],
            model=self.updater.wrapped,
            num_microbatches=len(batch.micro_batches),
            seq_length=length,
            micro_batch_size=rows,
            forward_only=forward_only,
        )
        return losses

    def _forward(self, batches: Iterator[dict[str, torch.Tensor]], network: Any) -> tuple[Any, Any]:
        """Run one micro-batch through this pipeline stage; megatron.core's schedules call it."""
        self.context.heart.beat()
        batch = next(batches)
        output = network(
            batch["tokens"],
            batch["positions"],
            None,
            labels=batch["labels"],
            packed_seq_params=self._documents(batch["boundaries"]),
        )
        return output, partial(self._loss, batch["scored"])

    def _documents(self, boundaries: torch.Tensor | None) -> layers.Documents | None:
        """Return where documents begin, for attention within them."""
        if boundaries is None:
            return None
        longest = self.spec.longest
        return layers.Documents(
            qkv_format="thd",
            cu_seqlens_q=boundaries,
            cu_seqlens_kv=boundaries,
            max_seqlen_q=longest,
            max_seqlen_kv=longest,
        )

    def _loss(
        self, scored: torch.Tensor, output: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the sum over a micro-batch's scored tokens and their number, of which
        megatron.core makes either average (``calculate_per_token_loss``), then the micro-batch's
        part of ``BatchResult.total`` and ``weight``.
        """
        total = (output.float() * scored).sum()
        tokens = scored.sum()
        parts = total.detach().double(), tokens.double()
        if self.spec.loss_average != BY_TOKENS:
            parts = parts[0] / tokens.clamp(min=1), torch.ones_like(parts[0])
        return total, tokens, torch.stack(parts)

    def _reduce_batch(self, losses: list[Any], batch: dataset.Batch) -> BatchResult:
        """Return the sums over the global batch, any rank's requests to stop, save or profile,
        whether a save waits for none, and the fingerprint of the samples, in one collective.
        """
        stop, save = self.requests.poll()
        ready = self.saves.is_ready()
        shared = torch.tensor(
            [0.0, 0.0, stop, save, ready, self.profiler.poll(), *batch.fingerprint],
            dtype=torch.float64,
            device=self.splits.device,
        )
        if losses and parallel_state.get_tensor_model_parallel_rank() == 0:
            shared[:2] = torch.stack(losses).sum(0)
        with self.measures.communicating():
            torch.distributed.all_reduce(shared)
        total, weight, stops, saves, ready_ranks, profiles, *sums = shared.tolist()
        return BatchResult(
            total,
            weight,
            stops > 0,
            saves > 0,
            ready_ranks == self.spec.parallel.world_size,
            profiles > 0,
            sample_order.fingerprint_text(sums),
        )

    def _average(self, total: float, weight: float, what: str) -> float:
        """Return the loss of a number of batches.

        Raises:
            TaskError: no token of them is scored.
        """
        if not weight:
            raise TaskError(
                f"{what} scores no token: each of them ends a document, and "
                "pretrain.eod_mask_loss is on",
                "train on other tokens in a submission with --new, which starts another run",
            )
        return total / weight

    def _validate_once(self) -> bool:
        """Validate unless an earlier attempt did at this step; return whether to stop."""
        if devices.decide_once(lambda: self.reporter.has_validation(self.step)):
            return False
        return self._validate()

    def _validate(self) -> bool:
        """Validate each corpus on a fixed set of batches of the sequence length of the last step;
        return whether a stop was requested.
        """
        splits = self.splits.validation[self.spec.start_of(self.step).sequence_length]
        if not splits:
            return False
        self.reporter.progress(self.step, "validation")
        with (
            self.context.heart.during(Phase.VALIDATION),
            self.measures.paused(),
            self.updater.evaluating(),
        ):
            started = time.perf_counter()
            sums = {}
            for name, split in splits.items():
                sums[name] = self._validate_on(split)
                if sums[name] is None:
                    return True
        totals, weights = zip(*filter(None, sums.values()), strict=True)
        loss = self._average(sum(totals), sum(weights), "validation")
        corpora = {name: part[0] / part[1] for name, part in sums.items() if part and part[1]}
        self.reporter.validation(self.step, loss, corpora, time.perf_counter() - started)
        return False

    def _validate_on(self, split: dataset.Reads) -> tuple[float, float] | None:
        """Return the sums of ``BatchResult.total`` and ``weight`` over the batches of a corpus;
        None if a stop was requested.
        """
        total = weight = 0.0
        for number in range(split.batches):
            batch = split.batch(number * self.spec.global_batch_size)
            with torch.no_grad():
                result = self._reduce_batch(self._pass(batch, forward_only=True), batch)
            if result.save_requested:
                self.requests.save_later()
            if result.stop_requested:
                return None
            total += result.total
            weight += result.weight
        return total, weight

    def _save(self) -> None:
        """Save the state after this step, unless it is saved; at step 0 nothing but weights has a
        value yet.
        """
        self.updater.gather()
        self.saves.begin(self._record(manifest.TRAINING if self.step else manifest.WEIGHTS))

    def _keep_weights(self) -> None:
        """Save the weights after this step, if they are to be kept."""
        if self.saves.is_kept(self.step):
            self.updater.gather()
            self.saves.keep(self._record(manifest.WEIGHTS))

    def _record(self, kind: str) -> manifest.CheckpointRecord:
        """Return the record of a checkpoint of this step, of weights alone or of the training."""
        model, precision = self.spec.model, self.spec.precision
        is_whole = kind == manifest.TRAINING
        return manifest.CheckpointRecord(
            iteration=self.step,
            consumed_samples=self._position(),
            layout=asdict(self.spec.parallel),
            precision=precision,
            kind=kind,
            **manifest.identity(model, self.spec.tokenizer),
            origin=self.origin,
            data=self.kind.record(self.step),
            bytes=(model.checkpoint_bytes if is_whole else model.weights_bytes)(precision),
        )

    def _finish(self) -> bool:
        """Validate, save and write the done marker; after a stop request, only save.

        Returns:
            Whether a stop was requested; the next attempt then does the rest.
        """
        stop = self._validate_once()
        self._save()
        self.saves.finish(self.step)
        if not stop:
            devices.decide_once(self._write_done)
        return stop

    def _write_done(self) -> None:
        run = self.context.run
        self.reporter.progress(self.step, "step")
        record = f"{self.spec.checkpoint_dir}/{manifest.name(self.step)}/{manifest.RECORD}"
        self.context.finish(
            inputs=[done_markers.describe_file(run, name) for name in self.kind.inputs()],
            outputs=[done_markers.describe_file(run, record)],
            summary={
                **summarise(self.reporter.lines(), self.step, self.kind.volume),
                "peak_memory_bytes": devices.peak_memory_bytes(self.splits.device),
            },
        )


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
