"""The optimizer with its learning rate schedule and gradient clipping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from jobs.contract.stage_specs import PretrainSpec
from jobs.engine import device as devices

with devices.quiet():
    from megatron.core.distributed import (
        DistributedDataParallel,
        DistributedDataParallelConfig,
        finalize_model_grads,
    )
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
    from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler


@dataclass
class Updater:
    """The wrapped model, its optimizer and its schedule."""

    wrapped: Any
    """The model with its gradient buffers, for the forward and backward pass."""
    optimizer: Any
    schedule: Any

    def skip_to(self, step: int) -> None:
        """Advance the schedule to ``step``, so that ``update`` takes the one after it."""
        self.schedule.step(increment=step)

    def update(self) -> tuple[float, float]:
        """Clip, take one optimizer step at the next learning rate, and clear the gradients.

        Returns:
            The learning rate of the step, and the gradient norm before clipping.
        """
        self.schedule.step(increment=1)
        _, norm, _ = self.optimizer.step()
        self.wrapped.zero_grad_buffer()
        self.optimizer.zero_grad()
        return float(self.optimizer.param_groups[0]["lr"]), float(norm)


def prepare(network: torch.nn.Module, spec: PretrainSpec) -> Updater:
    """Wrap the model for data parallelism and create its AdamW (Loshchilov and Hutter, 1711.05101).

    Gradients are accumulated and reduced in float32 in either precision. Parameters with one
    dimension (norm weights) have no weight decay. The learning rate rises linearly over
    ``warmup_steps``, then falls along a cosine until ``decay_steps``; step ``n`` uses its value at
    ``n``.
    """
    config: Any = network.config
    overlap = spec.parallel.data > 1
    wrapped = DistributedDataParallel(
        config,
        DistributedDataParallelConfig(
            grad_reduce_in_fp32=True,
            use_distributed_optimizer=spec.parallel.distributed_optimizer,
            overlap_grad_reduce=overlap,
        ),
        network,
    )
    wrapped.broadcast_params()
    config.finalize_model_grads_func = finalize_model_grads
    if overlap:
        config.no_sync_func = wrapped.no_sync
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
        ),
        [wrapped],
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


def _schedule(optimizer: Any, spec: PretrainSpec) -> Any:
    return OptimizerParamScheduler(
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
