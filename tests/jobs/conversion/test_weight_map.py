"""The table of tensors, compared with transformers' own models, and its transforms."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.contract.stage_specs import ModelSpec
from jobs.conversion import weight_map

from .models import MODELS, small, transformers_model

GROUPED = small(attention_heads=6, kv_heads=2)


@pytest.mark.parametrize("kind", MODELS)
def test_the_table_names_every_tensor_of_the_model_with_its_shape(kind: str) -> None:
    spec = MODELS[kind]
    theirs = {
        name: tuple(value.shape)
        for name, value in transformers_model(spec).state_dict().items()
        if not (spec.tied_embeddings and name == weight_map.TIED_OUTPUT)
    }

    assert weight_map.folder_shapes(spec, spec.vocab_size) == theirs


def layer_tensors(row: weight_map.Row, spec: ModelSpec) -> list[Any]:
    """Return the sources of one layer, each value different from all others."""
    import torch

    lengths = weight_map.sizes(spec, spec.padded_vocab_size)
    tensors, start = [], 0
    for _, axes in row.theirs:
        shape = [lengths[axis] for axis in axes]
        count = int(torch.tensor(shape).prod())
        tensors.append(torch.arange(start, start + count, dtype=torch.float64).reshape(shape))
        start += count
    return tensors


@pytest.mark.parametrize("kind", MODELS)
def test_splitting_a_joined_tensor_returns_the_sources(kind: str) -> None:
    import torch

    spec = MODELS[kind]
    for row in weight_map.rows(spec):
        sources = layer_tensors(row, spec)
        joined = weight_map.join(row, spec, sources)
        assert tuple(joined.shape) == weight_map.shape_of(row, spec)
        for one, other in zip(weight_map.split(row, spec, joined), sources, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("kind", MODELS)
def test_chunks_joined_from_pieces_make_the_whole_tensor(kind: str) -> None:
    import torch

    spec = MODELS[kind]
    for row in weight_map.rows(spec):
        sources = layer_tensors(row, spec)
        whole = weight_map.join(row, spec, sources)
        filled = torch.full_like(whole, -1.0)
        for chunk in weight_map.chunks(row, spec):
            axis = row.divided or 0
            pieces = [
                sources[piece.source].narrow(axis, piece.start, piece.stop - piece.start)
                for piece in chunk.pieces
            ]
            part = weight_map.join(row, spec, pieces)
            assert tuple(part.shape) == chunk.shape
            place = tuple(
                slice(start, start + length)
                for start, length in zip(chunk.offset, chunk.shape, strict=True)
            )
            filled[place] = part
        assert torch.equal(filled, whole)


def test_a_group_is_its_query_heads_then_its_key_head_then_its_value_head() -> None:
    import torch

    (row,) = [row for row in weight_map.rows(GROUPED) if row.ours.endswith("linear_qkv.weight")]
    heads = [torch.full((8, 48), float(head)) for head in range(6)]
    keys = [torch.full((8, 48), 10.0 + head) for head in range(2)]
    values = [torch.full((8, 48), 20.0 + head) for head in range(2)]

    joined = weight_map.join(row, GROUPED, [torch.cat(part) for part in (heads, keys, values)])

    assert joined[::8, 0].tolist() == [0, 1, 2, 10, 20, 3, 4, 5, 11, 21]


def test_the_gate_is_above_the_up_projection_and_both_are_cut_alike() -> None:
    (row,) = [row for row in weight_map.rows(GROUPED) if row.ours.endswith("linear_fc1.weight")]

    cuts = [(chunk.offset[0], chunk.pieces[0].source) for chunk in weight_map.chunks(row, GROUPED)]

    assert cuts == [(9 * i, 0) for i in range(8)] + [(72 + 9 * i, 1) for i in range(8)]
