"""The optimizer state of a rank by parameter, without communication.

megatron.core's distributed optimizer gives each data-parallel rank a range of the elements of its
parameters. Of the formats that megatron.core 0.16.1 saves, ``dp_reshardable`` stores these ranges
as they are, and only the number of data-parallel ranks may change; ``fully_reshardable`` gathers
whole parameters in the memory of every rank first. A range is a few rectangles, and a torch_dist
checkpoint may store a tensor as any rectangles that cover it: this module returns those. The
checkpoint is loaded as a ``fully_reshardable`` one, into any layout.

A rank of an optimizer that is not distributed has whole parameters. megatron.core names their
states otherwise; here they have the same names, so that either optimizer continues from a
checkpoint of the other.

This module imports torch and megatron.core, so import it only within
``jobs.engine.device.session``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch

from jobs.engine import device as devices
from jobs.engine.saving import rectangles

with devices.quiet():
    from megatron.core.dist_checkpointing.dict_utils import nested_values
    from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
    from megatron.core.dist_checkpointing.optimizer import make_sharded_optimizer_tensor
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

FORMAT = "fully_reshardable"

STATES = ("param", "exp_avg", "exp_avg_sq")
"""The tensors that Adam keeps per parameter, by megatron.core's names."""


def sharded_state(optimizer: Any, model: Any) -> dict[str, Any]:
    """Return an optimizer's state to save, with its position in the whole.

    Args:
        optimizer: as ``jobs.engine.optim.prepare`` returns it.
        model: the sharded state of the model, whose parameters it has.
    """
    (part,) = optimizer.chained_optimizers
    if isinstance(part, DistributedOptimizer):
        common, states = part.state_dict(), _ranges(part, model)
    else:
        common, states = {"optimizer": {"param_groups": _groups(part)}}, _wholes(part, model)
    return {**common, "param_state": states, "param_state_sharding_type": FORMAT}


def state_to_load(optimizer: Any, model: Any, content: dict[str, Any]) -> dict[str, Any]:
    """Return an optimizer's state, to be filled, with its position in the whole.

    Args:
        optimizer: as ``sharded_state``.
        model: as ``sharded_state``.
        content: metadata with which megatron.core builds the state of a distributed one.
    """
    (part,) = optimizer.chained_optimizers
    if isinstance(part, DistributedOptimizer):
        return dict(part.sharded_state_dict(model, is_loading=True, metadata=content))
    return sharded_state(optimizer, model)


def load(optimizer: Any, state: dict[str, Any]) -> None:
    """Take over a state that was filled, with two corrections to megatron.core 0.16.1 around
    torch's Adam.

    It fills every entry of a parameter's state from tensors of the checkpoint, and the step count
    has none; and it gives all parameters one shared step count, which torch then raises once per
    parameter. transformer-engine's Adam counts steps per group.
    """
    (part,) = optimizer.chained_optimizers
    moments = state.pop("param_state")
    if isinstance(part, DistributedOptimizer):
        optimizer.load_state_dict(state)
        entries = part.optimizer.state.values()
        steps = [entry.pop("step", None) for entry in entries]
        part.load_parameter_state_from_fully_reshardable(moments)
        for entry, step in zip(entries, steps, strict=True):
            if step is not None:
                entry["step"] = step.clone()
        return
    for (_, main), loaded in zip(_parameters(part), moments, strict=True):
        for name, tensor in _tensors(part, main).items():
            tensor.copy_(loaded[name])
    step = state["optimizer"]["param_groups"][0].get("step")
    if step is not None:
        _set_step(part.optimizer, step)


def _set_step(optimizer: Any, step: float) -> None:
    """Set the step count of each parameter, or of each group where its state has none."""
    from jobs.engine import optim  # not needed, and not loaded, for inference

    if optim.counts_steps_by_parameter(optimizer):
        for entry in optimizer.state.values():
            entry["step"] = torch.tensor(float(step))
    else:
        for group in optimizer.param_groups:
            group["step"] = int(step)


def _groups(part: Any) -> list[dict[str, Any]]:
    """Return the settings of the parameter groups and their step count, as
    ``DistributedOptimizer.state_dict`` does.
    """
    groups: list[dict[str, Any]] = part.optimizer.state_dict()["param_groups"]
    steps = {float(entry["step"]) for entry in part.optimizer.state.values() if "step" in entry}
    for group in groups:
        del group["params"]
        if steps:
            (group["step"],) = steps
    return groups


def _parameters(part: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the parameters of an optimizer that is not distributed, each with its master in fp32:
    itself, where it has none.
    """
    if not hasattr(part, "fp32_from_float16_groups"):
        yield from ((parameter, parameter) for parameter in part.get_parameters())
        return
    low, high, own = part.float16_groups, part.fp32_from_float16_groups, part.fp32_from_fp32_groups
    yield from zip(chain(*low), chain(*high), strict=True)
    yield from ((parameter, parameter) for parameter in chain(*own))


def _tensors(part: Any, main: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the states of a parameter by name."""
    held = part.optimizer.state[main]
    return {"param": main.detach(), **{name: held[name] for name in STATES if name in held}}


def _wholes(part: Any, model: Any) -> list[dict[str, Any]]:
    """Return the states of each of ``_parameters``, whole."""
    positions = _positions(model)
    return [
        {
            name: make_sharded_optimizer_tensor(
                positions[id(parameter)], tensor, f"optimizer.state.{name}"
            )
            for name, tensor in _tensors(part, main).items()
        }
        for parameter, main in _parameters(part)
    ]


def _positions(model: Any) -> dict[int, Any]:
    """Return the sharded tensors of a model's state by the ``id`` of their parameters."""
    return {
        id(base.data): base
        for base in nested_values(model)
        if isinstance(base, ShardedTensor | ShardedTensorFactory)
    }


def _ranges(part: Any, model: Any) -> list[ShardedTensor]:
    """Return the states of the ranges that a distributed optimizer has on this rank."""
    positions = _positions(model)
    found: list[ShardedTensor] = []
    for buffer in part.gbuf_ranges:
        for buckets in buffer.values():
            for bucket in buckets:
                for parameter, ranges in bucket["param_map"].items():
                    tensors = part._get_main_param_and_optimizer_states(parameter)
                    span = ranges["param"].start, ranges["param"].end
                    for whole in _pieces(positions[id(parameter)]):
                        for name in STATES:
                            found += _rectangles(whole, parameter, span, name, tensors[name])
    return found


def _pieces(base: Any) -> Iterator[ShardedTensor]:
    """Yield the sharded tensors of a parameter: itself, or the halves of a gated layer's."""
    yield from nested_values([base.build()]) if isinstance(base, ShardedTensorFactory) else [base]


def _rectangles(
    whole: ShardedTensor, parameter: torch.Tensor, span: tuple[int, int], name: str, held: Any
) -> Iterator[ShardedTensor]:
    """Yield this rank's part of one state of a sharded tensor.

    Args:
        whole: a contiguous piece of the parameter, or all of it.
        parameter: this tensor and pipeline rank's.
        span: the elements of the parameter that this rank's optimizer has.
        name: of the state.
        held: these elements.

    Raises:
        ValueError: the piece is not contiguous.
    """
    if not whole.data.is_contiguous():
        raise ValueError(f"{whole.key}: a piece of the parameter is not contiguous")
    first = whole.data.storage_offset() - parameter.storage_offset()
    start = max(span[0], first)
    stop = min(span[1], first + whole.data.numel())
    axes = len(whole.global_offset) - len(whole.local_shape)
    place = start - span[0]
    for offset, shape in rectangles.of_range(whole.local_shape, start - first, stop - first):
        count = math.prod(shape)
        sizes = (*[1] * axes, *shape)
        inner = whole.global_offset[axes:]
        yield ShardedTensor(
            f"optimizer.state.{name}.{whole.key}",
            held.detach()[place : place + count].view(sizes),
            held.dtype,
            sizes,
            whole.global_shape,
            (*whole.global_offset[:axes], *(a + b for a, b in zip(inner, offset, strict=True))),
            None,
            replica_id=(*whole.replica_id[:-1], 0),  # no other data-parallel rank has it
            allow_shape_mismatch=whole.allow_shape_mismatch,
        )
        place += count
