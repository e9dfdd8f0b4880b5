"""The tensors of a model of the Llama family, in a Hugging Face folder and in our checkpoints.

``ROWS`` is the table, read in both directions: ``join`` makes a tensor of ours from those of the
folder, ``split`` is its inverse. Both only move values, so that a round trip changes no bit. Names
on our side are megatron.core's checkpoint keys, which layers with and without transformer-engine
share; one key holds all layers, with the layer as the first axis. Names on the other side are those
of transformers' Llama, Mistral, Qwen 2, Qwen 3 and OLMo 2. Neither side permutes the rows of q and
k: both rotate the two halves of a head (``rotary_interleaved=False`` of megatron.core).

Torch is imported inside functions, so that names and shapes can be compared without it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.contract.stage_specs import ModelSpec

if TYPE_CHECKING:
    import torch

MOST_CHUNKS = 8
"""Chunks of a tensor in a checkpoint, where they divide: a rank with tensor parallelism up to this
reads no more than its own part."""

SAME = "same"
"""One tensor, unchanged."""
VOCABULARY = "vocabulary"
"""One tensor with a row per token; ours has further rows, of added tokens and of padding."""
GROUPS = "groups"
"""Per key-value head: the rows of its query heads, of its key head, of its value head."""
STACK = "stack"
"""One tensor above the other; each is divided on its own, since a rank holds a part of each."""


@dataclass(frozen=True)
class Row:
    """One tensor of ours and the tensors of a folder that make it. ``{}`` is the layer.

    Shapes are names of ``sizes``, without the axis of layers.
    """

    ours: str
    shape: tuple[str, ...]
    transform: str
    theirs: tuple[tuple[str, tuple[str, ...]], ...]
    """Name and shape of each, in the order of ``transform``."""
    divided: int | None = None
    """The axis that tensor parallelism divides; None: every rank holds the whole tensor."""
    only: str = ""
    """A flag of ``ModelSpec`` that a model with this tensor has; ``!`` negates it."""

    @property
    def in_layers(self) -> bool:
        """Return whether each layer has one."""
        return self.ours.startswith("decoder.layers.")


ROWS = (
    Row(
        "embedding.word_embeddings.weight", ("vocab", "hidden"), VOCABULARY,
        (("model.embed_tokens.weight", ("base", "hidden")),), divided=0,
    ),
    Row(
        "decoder.layers.self_attention.linear_qkv.layer_norm_weight", ("hidden",), SAME,
        (("model.layers.{}.input_layernorm.weight", ("hidden",)),), only="!post_norm",
    ),
    Row(
        "decoder.layers.self_attention.linear_qkv.weight", ("qkv", "hidden"), GROUPS,
        (
            ("model.layers.{}.self_attn.q_proj.weight", ("query", "hidden")),
            ("model.layers.{}.self_attn.k_proj.weight", ("key", "hidden")),
            ("model.layers.{}.self_attn.v_proj.weight", ("key", "hidden")),
        ),
        divided=0,
    ),
    Row(
        "decoder.layers.self_attention.linear_qkv.bias", ("qkv",), GROUPS,
        (
            ("model.layers.{}.self_attn.q_proj.bias", ("query",)),
            ("model.layers.{}.self_attn.k_proj.bias", ("key",)),
            ("model.layers.{}.self_attn.v_proj.bias", ("key",)),
        ),
        divided=0, only="qkv_bias",
    ),
    Row(
        "decoder.layers.self_attention.q_layernorm.weight", ("head",), SAME,
        (("model.layers.{}.self_attn.q_norm.weight", ("head",)),), only="qk_norm",
    ),
    Row(
        "decoder.layers.self_attention.k_layernorm.weight", ("head",), SAME,
        (("model.layers.{}.self_attn.k_norm.weight", ("head",)),), only="qk_norm",
    ),
    Row(
        "decoder.layers.self_attention.q_layernorm.weight", ("query",), SAME,
        (("model.layers.{}.self_attn.q_norm.weight", ("query",)),), divided=0, only="post_norm",
    ),
    Row(
        "decoder.layers.self_attention.k_layernorm.weight", ("key",), SAME,
        (("model.layers.{}.self_attn.k_norm.weight", ("key",)),), divided=0, only="post_norm",
    ),
    Row(
        "decoder.layers.self_attention.linear_proj.weight", ("hidden", "query"), SAME,
        (("model.layers.{}.self_attn.o_proj.weight", ("hidden", "query")),), divided=1,
    ),
    Row(
        "decoder.layers.self_attention.linear_proj.post_norm.weight", ("hidden",), SAME,
        (("model.layers.{}.post_attention_layernorm.weight", ("hidden",)),), only="post_norm",
    ),
    Row(
        "decoder.layers.mlp.linear_fc1.layer_norm_weight", ("hidden",), SAME,
        (("model.layers.{}.post_attention_layernorm.weight", ("hidden",)),), only="!post_norm",
    ),
    Row(  # megatron.core's fused SwiGLU is silu(upper half) x lower half
        "decoder.layers.mlp.linear_fc1.weight", ("gate and up", "hidden"), STACK,
        (
            ("model.layers.{}.mlp.gate_proj.weight", ("ffn", "hidden")),
            ("model.layers.{}.mlp.up_proj.weight", ("ffn", "hidden")),
        ),
        divided=0,
    ),
    Row(
        "decoder.layers.mlp.linear_fc2.weight", ("hidden", "ffn"), SAME,
        (("model.layers.{}.mlp.down_proj.weight", ("hidden", "ffn")),), divided=1,
    ),
    Row(
        "decoder.layers.mlp.linear_fc2.post_norm.weight", ("hidden",), SAME,
        (("model.layers.{}.post_feedforward_layernorm.weight", ("hidden",)),), only="post_norm",
    ),
    Row(
        "decoder.final_layernorm.weight", ("hidden",), SAME,
        (("model.norm.weight", ("hidden",)),),
    ),
    Row(
        "output_layer.weight", ("vocab", "hidden"), VOCABULARY,
        (("lm_head.weight", ("base", "hidden")),), divided=0, only="!tied_embeddings",
    ),
)  # fmt: skip
"""Every tensor of every supported model."""

COMPUTED = "rotary_emb.inv_freq"
"""End of the names of buffers that old folders hold and every reader computes from
``rope_theta``."""

EMBEDDING = "model.embed_tokens.weight"
TIED_OUTPUT = "lm_head.weight"
"""A folder with tied embeddings may hold this copy of the embedding."""


def rows(spec: ModelSpec) -> tuple[Row, ...]:
    """Return the rows of the tensors that a model has."""
    return tuple(row for row in ROWS if _applies(row.only, spec))


def _applies(flag: str, spec: ModelSpec) -> bool:
    return not flag or bool(getattr(spec, flag.removeprefix("!"))) is not flag.startswith("!")


def sizes(spec: ModelSpec, base: int) -> dict[str, int]:
    """Return the lengths of axes by their names in ``ROWS``; ``base`` is the folder's rows per
    token.
    """
    query, key = spec.attention_heads * spec.head_dim, spec.kv_heads * spec.head_dim
    return {
        "base": base,
        "vocab": spec.padded_vocab_size,
        "hidden": spec.hidden_size,
        "ffn": spec.ffn_hidden_size,
        "gate and up": 2 * spec.ffn_hidden_size,
        "head": spec.head_dim,
        "query": query,
        "key": key,
        "qkv": query + 2 * key,
    }


def folder_shapes(spec: ModelSpec, base: int) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor of the model's Hugging Face folder."""
    lengths = sizes(spec, base)
    return {
        name.format(layer): tuple(lengths[axis] for axis in shape)
        for row in rows(spec)
        for layer in (range(spec.layers) if row.in_layers else (0,))
        for name, shape in row.theirs
    }


def checkpoint_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Return key and whole shape, the axis of layers included, of every tensor of a checkpoint."""
    return {row.ours: (spec.layers,) * row.in_layers + shape_of(row, spec) for row in rows(spec)}


def shape_of(row: Row, spec: ModelSpec) -> tuple[int, ...]:
    """Return the shape of one layer's tensor of ours."""
    lengths = sizes(spec, spec.padded_vocab_size)
    return tuple(lengths[axis] for axis in row.shape)


@dataclass(frozen=True)
class Piece:
    """Consecutive indices of one axis of a tensor of the folder."""

    source: int
    """Its place in ``Row.theirs``."""
    start: int
    stop: int


@dataclass(frozen=True)
class Chunk:
    """A part of a tensor of ours that is stored on its own."""

    offset: tuple[int, ...]
    """Within the layer."""
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    """What ``join`` makes it from, along the divided axis."""


def chunks(row: Row, spec: ModelSpec) -> Iterator[Chunk]:
    """Yield the chunks of one layer's tensor, in the order of the folder's values."""
    shape, axis = shape_of(row, spec), row.divided
    if axis is None:
        yield Chunk((0,) * len(shape), shape, (Piece(0, 0, shape[0]),))
        return
    lengths = sizes(spec, spec.padded_vocab_size)
    whole = [lengths[source_shape[axis]] for _, source_shape in row.theirs]
    every = tuple(range(len(whole)))
    # GROUPS cuts its sources side by side, STACK one after the other.
    together = [every] if row.transform == GROUPS else [(source,) for source in every]
    count = math.gcd(MOST_CHUNKS, spec.kv_heads if row.transform == GROUPS else whole[0])
    start = 0
    for sources in together:
        for number in range(count):
            pieces = tuple(
                Piece(i, whole[i] * number // count, whole[i] * (number + 1) // count)
                for i in sources
            )
            length = sum(piece.stop - piece.start for piece in pieces)
            yield Chunk(_at(axis, (0,) * len(shape), start), _at(axis, shape, length), pieces)
            start += length


def _at(axis: int, values: tuple[int, ...], value: int) -> tuple[int, ...]:
    return (*values[:axis], value, *values[axis + 1 :])


def join(row: Row, spec: ModelSpec, sources: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the tensor of ours made from those of a folder, or a chunk made from their pieces.

    Args:
        sources: tensors as in ``Row.theirs``, or equal shares of them along the divided axis;
            a vocabulary already has its further rows.
    """
    import torch

    if row.transform == GROUPS:
        groups = sources[1].shape[0] // spec.head_dim
        heads = [source.reshape(groups, -1, *source.shape[1:]) for source in sources]
        return torch.cat(heads, dim=1).reshape(-1, *sources[0].shape[1:])
    return sources[0] if len(sources) == 1 else torch.cat(list(sources))


def split(row: Row, spec: ModelSpec, tensor: torch.Tensor) -> list[torch.Tensor]:
    """Return the tensors of a folder that make a tensor of ours, as in ``Row.theirs``.

    A vocabulary keeps all its rows, padding included.
    """
    if row.transform == GROUPS:
        width = spec.head_dim
        lengths = [width * spec.attention_heads // spec.kv_heads, width, width]
        groups = tensor.reshape(-1, sum(lengths), *tensor.shape[1:])
        cuts = itertools.accumulate(lengths[:-1])
        parts = groups.tensor_split(tuple(cuts), dim=1)
        return [part.reshape(-1, *tensor.shape[1:]) for part in parts]
    return list(tensor.chunk(len(row.theirs)))
