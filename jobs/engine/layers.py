"""The layers of a decoder: its norms, and megatron.core's modules around them.

``jobs.engine.device.session`` must begin before this module is imported, since it imports
megatron.core.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any

import torch

from jobs.contract.stage_specs import ModelSpec
from jobs.engine import device as devices
from jobs.engine import rope

with devices.quiet():
    from megatron.core import parallel_state, tensor_parallel
    from megatron.core.extensions.transformer_engine import HAVE_TE
    from megatron.core.models.gpt.gpt_layer_specs import (
        get_gpt_layer_local_spec,
        get_gpt_layer_with_transformer_engine_spec,
    )
    from megatron.core.packed_seq_params import PackedSeqParams
    from megatron.core.transformer.attention import SelfAttention as MegatronSelfAttention
    from megatron.core.transformer.dot_product_attention import DotProductAttention
    from megatron.core.transformer.identity_op import IdentityOp
    from megatron.core.transformer.spec_utils import ModuleSpec
    from megatron.core.transformer.transformer_block import (
        TransformerBlockSubmodules,
        get_num_layers_to_build,
    )
    from megatron.core.transformer.transformer_config import TransformerConfig
    from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint

BEST = "best"
LOCAL = "local"
_kind: ContextVar[str] = ContextVar("kind", default=BEST)

WITHOUT_TRANSFORMER_ENGINE = (
    "transformer-engine is not importable: layers are megatron.core's own, without fused norms and "
    "fused linear layers; expect a step to take about half as long again"
)


class RMSNorm(torch.nn.RMSNorm):
    """Root-mean-square norm (Zhang and Sennrich, arXiv 1910.07467) for sequence parallelism.

    The local layer spec's own norm refuses sequence parallelism. This one only adds the mark by
    which gradients of a weight that every tensor-parallel rank holds are summed over the ranks'
    parts of the sequence.
    """

    def __init__(
        self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **unused: Any
    ) -> None:
        del unused
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        weight: Any = self.weight
        weight.sequence_parallel = config.sequence_parallel


class Documents(PackedSeqParams):  # type: ignore[misc]
    """The documents of one packed row, for all layers of a micro-batch."""

    _turn: rope.Turn | None = None

    @cached_property
    def lengths(self) -> list[int]:
        """Return the tokens of each, which a GPU is asked for once."""
        lengths: list[int] = self.cu_seqlens_q.diff().tolist()
        return lengths

    def turn(self, angles: torch.Tensor) -> rope.Turn:
        """Return the rotation of the row's positions, which the first layer computes for all."""
        if self._turn is None:
            self._turn = rope.turn(rope.within_documents(angles, self.cu_seqlens_q))
        return self._turn


class Attention(DotProductAttention):  # type: ignore[misc]
    """Causal attention through torch's ``scaled_dot_product_attention``, which stores no scores and
    computes none above the diagonal.
    """

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *unused: Any,
        packed_seq_params: Documents | None = None,
        **more: Any,
    ) -> torch.Tensor:
        """Return what each position reads from those up to it, within its document if
        ``packed_seq_params`` has the boundaries of documents; there is no other mask.

        Args:
            query: ``[sequence, batch, own heads, head_dim]``, without batch if packed.
            key: likewise, with own groups in place of heads.
            value: as ``key``.

        Returns:
            ``[sequence, batch, own heads x head_dim]``, without batch if packed.
        """
        del unused, more
        if packed_seq_params is None:
            return self._attend(query, key, value)
        rows = (part.unsqueeze(1) for part in (query, key, value))
        documents = zip(*(torch.split(row, packed_seq_params.lengths) for row in rows), strict=True)
        return torch.cat([self._attend(*document).squeeze(1) for document in documents])

    def _attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        query, key, value = (part.permute(1, 2, 0, 3) for part in (query, key, value))
        result = torch.nn.functional.scaled_dot_product_attention(
            query,
            key,
            value,
            is_causal=True,
            scale=self.softmax_scale,
            enable_gqa=query.size(1) != key.size(1),
        )
        return result.permute(2, 0, 1, 3).flatten(2)


class SelfAttention(MegatronSelfAttention):  # type: ignore[misc]
    """Self-attention that turns queries and keys in float32.

    megatron.core 0.16.1 rounds cosines and sines to the precision of the model, but in its fused
    kernel, which is used where it exists.
    """

    _turn: rope.Turn | None = None

    def forward(
        self,
        *inputs: Any,
        rotary_pos_emb: torch.Tensor | None = None,
        packed_seq_params: Documents | None = None,
        **more: Any,
    ) -> Any:
        """Return megatron.core's result of the same inputs."""
        more["packed_seq_params"] = packed_seq_params
        if rotary_pos_emb is None or self.config.apply_rope_fusion:
            return super().forward(*inputs, rotary_pos_emb=rotary_pos_emb, **more)
        if packed_seq_params is not None:
            self._turn = packed_seq_params.turn(rotary_pos_emb)
        else:
            self._turn = rope.turn(rotary_pos_emb)
        try:
            return super().forward(*inputs, **more)
        finally:
            self._turn = None

    def get_query_key_value_tensors(self, *inputs: Any, **options: Any) -> Any:
        """Return queries, keys and values; ``forward`` calls it and turns what it returns."""
        query, key, value = super().get_query_key_value_tensors(*inputs, **options)
        if self._turn is None:
            return query, key, value
        return rope.rotated(query, self._turn), rope.rotated(key, self._turn), value


class ProjectionNorm(torch.nn.Module):
    """RMSNorm of all query or all key heads at once, of which a tensor-parallel rank has a part.

    The mean of squares is over the heads of all ranks; the weight is divided like the projection.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, heads: int, eps: float) -> None:
        super().__init__()
        self.size = heads * hidden_size
        """Width of the projection on all ranks together."""
        self.eps = eps
        ranks = parallel_state.get_tensor_model_parallel_world_size()
        self.weight = torch.nn.Parameter(torch.ones(self.size // ranks, dtype=config.params_dtype))
        tensor_parallel.set_tensor_model_parallel_attributes(self.weight, True, 0, 1)

    def forward(self, projection: torch.Tensor) -> torch.Tensor:
        """Return the normalised heads; shapes are ``[sequence, batch, own heads, head_dim]``."""
        wide = projection.float()
        squares = wide.pow(2).sum((-2, -1), keepdim=True)
        # The sum over ranks is used by every rank, so its gradient is summed over ranks too.
        total = tensor_parallel.copy_to_tensor_model_parallel_region(
            tensor_parallel.reduce_from_tensor_model_parallel_region(squares)
        )
        weight = self.weight.view(projection.shape[-2:])
        result: torch.Tensor = weight * wide * torch.rsqrt(total / self.size + self.eps)
        return result.to(projection.dtype)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None
    ) -> Any:
        """Return the weight with its position in the whole; megatron.core calls it."""
        return make_sharded_tensors_for_checkpoint(
            self.state_dict(prefix="", keep_vars=True),
            prefix,
            {"weight": 0},
            sharded_offsets,
            tp_group=parallel_state.get_tensor_model_parallel_group(),
            dp_cp_group=metadata["dp_cp_group"],
        )


@contextmanager
def chosen(kind: str) -> Iterator[None]:
    """Build the layers of models in the block of a kind: ``best`` of this device, which training
    has, or ``local``, megatron.core's own also where transformer-engine is installed, which a
    selftest compares with it.
    """
    token = _kind.set(kind)
    try:
        yield
    finally:
        _kind.reset(token)


def has_transformer_engine() -> bool:
    """Return whether transformer-engine is importable."""
    return bool(HAVE_TE)


def block_spec(
    spec: ModelSpec, config: TransformerConfig, device: torch.device, piece: int | None
) -> Any:
    """Return the layers of a piece of a pipeline stage: transformer-engine's on CUDA where it is
    installed, else megatron.core's.

    Both have the same settings. Those of transformer-engine are unproven: no GPU has run them.
    """
    is_best = _kind.get() == BEST
    if HAVE_TE and is_best and not devices.is_cpu(device):
        return _engine_layer(spec)
    if is_best and not devices.is_cpu(device):
        warnings.warn(WITHOUT_TRANSFORMER_ENGINE, stacklevel=3)
    layer: ModuleSpec = get_gpt_layer_local_spec(normalization="RMSNorm")
    layer.submodules.input_layernorm = RMSNorm
    layer.submodules.pre_mlp_layernorm = RMSNorm
    layer.submodules.self_attention.module = SelfAttention
    attention = layer.submodules.self_attention.submodules
    attention.core_attention = Attention
    if spec.qk_norm:
        attention.q_layernorm = attention.k_layernorm = RMSNorm
    if spec.post_norm:
        _move_norms_behind(layer, spec, tensor_parallel.ColumnParallelLinear)
    layers = [layer] * get_num_layers_to_build(config, piece)
    return TransformerBlockSubmodules(layer_specs=layers, layer_norm=RMSNorm)


def _engine_layer(spec: ModelSpec) -> ModuleSpec:
    from megatron.core.extensions.transformer_engine import TEColumnParallelLinear

    layer: ModuleSpec = get_gpt_layer_with_transformer_engine_spec(qk_layernorm=spec.qk_norm)
    layer.submodules.self_attention.module = SelfAttention
    if spec.post_norm:
        _move_norms_behind(layer, spec, TEColumnParallelLinear)
    return layer


def _move_norms_behind(layer: ModuleSpec, spec: ModelSpec, linear: type[Any]) -> None:
    """Move norms behind attention and MLP, and normalise all query heads and all key heads at once
    (OLMo 2, arXiv 2501.00656, equations 1 and 2).

    Args:
        layer: changed in place.
        spec: of the model.
        linear: a column-parallel layer without a norm before it.
    """
    layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = IdentityOp
    attention = layer.submodules.self_attention.submodules
    mlp = layer.submodules.mlp.submodules
    attention.linear_qkv = mlp.linear_fc1 = linear
    attention.linear_proj = _normed(attention.linear_proj)
    mlp.linear_fc2 = _normed(mlp.linear_fc2)
    attention.q_layernorm = ModuleSpec(ProjectionNorm, {"heads": spec.attention_heads})
    attention.k_layernorm = ModuleSpec(ProjectionNorm, {"heads": spec.kv_heads})


def _normed(linear: type[Any]) -> type[Any]:
    """Return a class of a linear layer with a norm behind it."""

    class NormedLinear(linear):  # type: ignore[misc]
        def __init__(
            self, input_size: int, output_size: int, *, config: TransformerConfig, **options: Any
        ) -> None:
            super().__init__(input_size, output_size, config=config, **options)
            self.post_norm = RMSNorm(config, output_size, config.layernorm_epsilon)

        def forward(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
            output, bias = super().forward(values)
            return self.post_norm(output), bias

    return NormedLinear
