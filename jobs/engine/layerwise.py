"""A model of the engine's own layers that holds one layer of a checkpoint in memory at a time.

megatron.core 0.16.1 loads no part of a tensor on a single rank (torch's ``ShardedTensor`` requires
all shards there), so a function reads the stored tensors. Which part of which tensor belongs where
is megatron.core's own answer, as in a full load.

This module imports torch and megatron.core, so import it only after ``jobs.engine.device.start``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch

from jobs.contract.stage_specs import ModelSpec, ParallelSpec
from jobs.engine import device as devices
from jobs.engine import model

with devices.quiet():
    from megatron.core import parallel_state
    from megatron.core.dist_checkpointing import ShardedTensor
    from megatron.core.dist_checkpointing.dict_utils import dict_list_map_inplace
    from megatron.core.dist_checkpointing.mapping import apply_factory_merges
    from megatron.core.dist_checkpointing.state_dict_utils import load_preprocess

ALONE = ParallelSpec(
    tensor=1,
    pipeline=1,
    data=1,
    sequence_parallel=False,
    distributed_optimizer=False,
    recompute="none",
)
"""The layout of one rank."""

LAYERS = "decoder.layers."


Read = Callable[[str, "int | None"], torch.Tensor]
"""Return a stored tensor by its key: one layer of it, or all of a tensor that has no layers."""


def build(
    spec: ModelSpec,
    precision: str,
    device: torch.device,
    read: Read,
    after_layer: Callable[[int], None] = lambda n: None,
) -> torch.nn.Module:
    """Return a model for ``jobs.engine.model.logits`` whose layers load themselves.

    Each call of the model reads all of its layers anew; embedding, last norm and output layer are
    read here. ``model.start_parallel(ALONE, …)`` comes before.

    Args:
        spec: the checkpoint's model, with the padding rows that it has.
        precision: of the computation, ``bf16`` or ``fp32``.
        read: called per tensor; what it raises passes through.
        after_layer: called with the number of layers done, during each call of the model.
    """
    one = dataclasses.replace(spec, layers=1)
    network: torch.nn.Module = model.build(one, ALONE, precision, device, for_inference=True)
    bare: Any = getattr(network, "module", network)
    (layer,) = bare.decoder.layers
    bare.decoder.layers = torch.nn.ModuleList()
    _fill(bare, read)

    def load(number: int) -> torch.nn.Module:
        _fill(layer, read, number, spec.layers)
        return cast(torch.nn.Module, layer)

    bare.decoder.layers = torch.nn.ModuleList(
        _StoredLayer(number, load, after_layer) for number in range(spec.layers)
    )
    return network


class _StoredLayer(torch.nn.Module):
    """A layer that is loaded when it is called."""

    def __init__(
        self,
        number: int,
        load: Callable[[int], torch.nn.Module],
        after_layer: Callable[[int], None],
    ) -> None:
        super().__init__()
        self._number = number
        self._load = load
        self._after_layer = after_layer

    def forward(self, **inputs: Any) -> Any:
        """Load the layer and compute it."""
        outputs = self._load(self._number)(**inputs)
        self._after_layer(self._number + 1)
        return outputs


def _fill(module: Any, read: Read, layer: int | None = None, layers: int = 0) -> None:
    """Fill a layer of a model with ``layers``, or all else of a model, from a checkpoint."""
    prefix, offsets = ("", ()) if layer is None else (LAYERS, ((0, layer, layers),))
    whole = cache(lambda key: read(key, layer))  # gate and up are two blocks of one tensor

    def block(stored: Any) -> Any:
        if not isinstance(stored, ShardedTensor):  # `_extra_state`, which no weight is part of
            return stored.data
        offset = stored.global_offset[stored.prepend_axis_num :]
        ends = zip(offset, stored.local_shape, strict=True)
        return whole(stored.key)[tuple(slice(start, start + count) for start, count in ends)]

    group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    described = module.sharded_state_dict(prefix, offsets, {"dp_cp_group": group})
    state, _, factories = load_preprocess(described)
    filled = apply_factory_merges(dict_list_map_inplace(block, state), factories)
    module.load_state_dict({name.removeprefix(prefix): value for name, value in filled.items()})
