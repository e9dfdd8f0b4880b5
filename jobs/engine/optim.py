"""The optimizer with its learning rate schedule and gradient clipping."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from jobs.contract.stage_specs import BY_TOKENS, TrainingSpec
from jobs.engine import device as devices
from jobs.engine import schedule
from jobs.engine.switches.overlap import overlap

with devices.quiet():
    from megatron.core.distributed import (
        DistributedDataParallel,
        DistributedDataParallelConfig,
        finalize_model_grads,
    )
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
    from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32
    from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler


@dataclass
class Updater:
    """The wrapped pieces of the model, their optimizer and its schedule."""

    wrapped: list[Any]
    """The pieces with their gradient buffers, for the forward and backward pass."""
    optimizer: Any
    schedule: Schedule

    def gather(self) -> None:
        """Give every rank the weights of the last step, which else arrive in the next forward pass.

        All ranks call it together, before weights are read by anything but a forward pass.
        """
        for piece in self.wrapped:
            if piece.ddp_config.overlap_param_gather:
                piece.start_param_sync(force_sync=True)

    def gathering(self) -> Iterator[Any]:
        """Yield the groups of parameters that arrive in the forward pass; ``finish_param_sync`` of
        each waits for the slowest rank.
        """
        for piece in self.wrapped:
            if piece.ddp_config.overlap_param_gather:
                yield from piece.bucket_groups
                yield from piece.expert_parallel_bucket_groups

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Hold the pieces in eval mode within the block."""
        for piece in self.wrapped:
            piece.eval()
        try:
            yield
        finally:
            for piece in self.wrapped:
                piece.train()

    def go_to(self, step: int) -> None:
        """Set the schedule to ``step``, so that ``update`` takes the one after it."""
        self.schedule.planned.num_steps = 0
        self.schedule.step(increment=step)

    def norm(self) -> float:
        """Return the norm of the gradients, over all parameters, before clipping."""
        self.optimizer.prepare_grads()
        return float(self.optimizer.get_grad_norm())

    def update(self, norm: float) -> float:
        """Clip, take one optimizer step at the next learning rate, and clear the gradients.

        It is what the optimizer's own ``step`` does, but for the norm, which ``norm`` has returned
        before (megatron/core/optimizer/optimizer.py of megatron.core 0.16.1).

        Returns:
            The learning rate of the step.
        """
        self.schedule.step(increment=1)
        for part in self.optimizer.chained_optimizers:
            parameters, limit = part.get_parameters(), part.config.clip_grad
            if parameters and limit > 0.0:
                clip_grad_by_total_norm_fp32(parameters, limit, norm)
        self.optimizer.step_with_ready_grads()
        self.clear()
        return float(self.optimizer.param_groups[0]["lr"])

    def skip(self) -> None:
        """Advance the schedule by one step without an update, and clear the gradients."""
        self.schedule.step(increment=1)
        self.clear()

    def clear(self) -> None:
        """Clear the gradients."""
        for piece in self.wrapped:
            piece.zero_grad_buffer()
        self.optimizer.zero_grad()

    def forget(self) -> None:
        """Set Adam's moments and step counts to those after zero steps."""
        for part in self.optimizer.chained_optimizers:
            for state in part.optimizer.state.values():
                for name in ("exp_avg", "exp_avg_sq", "step"):
                    if name in state:
                        state[name].zero_()
            for group in part.optimizer.param_groups:
                if "step" in group:  # transformer-engine's and apex's count there
                    group["step"] = 0


def prepare(pieces: Sequence[torch.nn.Module], spec: TrainingSpec) -> Updater:
    """Wrap a model's pieces for data parallelism and create their optimizer.

    It is AdamW (Loshchilov and Hutter, arXiv 1711.05101). Gradients are accumulated and reduced in
    float32 in either precision. Parameters with one dimension (norm weights) have no weight decay.
    The learning rate rises linearly over ``warmup_steps``, then falls along a cosine until
    ``decay_steps``, or along the tail of a phase; step ``n`` uses its value at ``n``.
    """
    first: Any = pieces[0]
    config: Any = first.config
    # Gradients then are of the sum over tokens, and divided by the tokens of the global batch.
    config.calculate_per_token_loss = spec.loss_average == BY_TOKENS
    overlapping = overlap(spec.parallel)
    wrapped = [
        DistributedDataParallel(
            config,
            DistributedDataParallelConfig(
                grad_reduce_in_fp32=True,
                use_distributed_optimizer=spec.parallel.distributed_optimizer,
                overlap_grad_reduce=overlapping.gradients,
                overlap_param_gather=overlapping.parameters,
            ),
            piece,
            disable_bucketing=number > 0,
        )
        for number, piece in enumerate(pieces)
    ]
    for piece in wrapped:
        piece.broadcast_params()
    config.finalize_model_grads_func = finalize_model_grads
    if overlapping.gradients:
        functions = [piece.no_sync for piece in wrapped]
        config.no_sync_func = functions if len(functions) > 1 else functions[0]
    optimizer = get_megatron_optimizer(
        OptimizerConfig(
            optimizer="adam",
            lr=spec.optimizer.learning_rate,
            min_lr=spec.optimizer.min_learning_rate,
            weight_decay=spec.optimizer.weight_decay,
            adam_beta1=spec.optimizer.adam_beta1,
            adam_beta2=spec.optimizer.adam_beta2,
            adam_eps=spec.optimizer.adam_eps,
            clip_grad=spec.optimizer.clip_grad,
            bf16=spec.precision == "bf16",
            params_dtype=config.params_dtype,
            use_distributed_optimizer=spec.parallel.distributed_optimizer,
            overlap_param_gather=overlapping.parameters,
        ),
        wrapped,
        use_gloo_process_groups=False,
    )
    config.grad_scale_func = optimizer.scale_loss
    _complete_state(optimizer)
    return Updater(wrapped, optimizer, _schedule(optimizer, spec))


def counts_steps_by_parameter(optimizer: Any) -> bool:
    """Return whether each parameter's state has a step count, as in torch's own Adam."""
    return isinstance(optimizer, torch.optim.AdamW)


def _complete_state(optimizer: Any) -> None:
    """Create Adam's moments and step counts where they are missing, as after zero steps.

    Optimizers create them at their first step, but megatron.core cannot save or load without them.
    """
    for part in optimizer.chained_optimizers:
        part.init_state_fn(part.optimizer, part.config)
        if counts_steps_by_parameter(part.optimizer):
            for state in part.optimizer.state.values():
                state.setdefault("step", torch.tensor(0.0))


@dataclass
class Schedule:
    """The schedule of megatron.core, and the tails of phases."""

    planned: Any
    tails: Sequence[schedule.Tail]

    def step(self, increment: int) -> None:
        """Advance some steps, and set the learning rate of each parameter group."""
        self.planned.step(increment=increment)
        now = self.planned.num_steps
        for group in self.planned.optimizer.param_groups if self.tails else ():
            rate_of = partial(self._planned_rate, group)
            group["lr"] = schedule.rate(rate_of, self.tails, now)

    def _planned_rate(self, group: dict[str, Any], step: int) -> float:
        now, self.planned.num_steps = self.planned.num_steps, step
        rate = float(self.planned.get_lr(group))
        self.planned.num_steps = now
        return rate


def _schedule(optimizer: Any, spec: TrainingSpec) -> Schedule:
    planned = OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=spec.optimizer.learning_rate,
        min_lr=spec.optimizer.min_learning_rate,
        lr_warmup_steps=spec.optimizer.warmup_steps,
        lr_decay_steps=spec.optimizer.decay_steps,
        lr_decay_style="cosine",
        start_wd=spec.optimizer.weight_decay,
        end_wd=spec.optimizer.weight_decay,
        wd_incr_steps=spec.train_steps,
        wd_incr_style="constant",
    )
    starts = spec.starts
    tails = [(start.first_step, start.phase.tail) for start in starts if start.phase.tail]
    return Schedule(planned, tails)
