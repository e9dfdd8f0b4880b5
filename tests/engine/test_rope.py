"""Rotary positions are computed in float32, in bfloat16 runs too."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from jobs.engine import rope

from .conftest import MODEL

ANGLES = """
import json, sys
import torch
from jobs.contract.stage_specs import ModelSpec
from jobs.engine import device
place = device.start("cpu", 0, 1, 0)
from jobs.engine import layers, layerwise, model

given = json.load(sys.stdin)
spec = ModelSpec(**given["model"])
model.start_parallel(layerwise.ALONE, 0)
network = model.build(spec, layerwise.ALONE, "bf16", place, for_inference=True)
attention = network.module.decoder.layers[0].self_attention
seen = {}
attention.linear_qkv.register_forward_hook(
    lambda module, inputs, output: seen.update(mixed=output[0].double())
)
attention.core_attention.register_forward_pre_hook(
    lambda module, inputs: seen.update(query=inputs[0].double(), key=inputs[1].double())
)
generator = torch.Generator().manual_seed(0)
tokens = torch.randint(spec.vocab_size, (1, spec.seq_length), generator=generator)
boundaries = torch.tensor(given["boundaries"], dtype=torch.int32)
length = spec.seq_length
packed = layers.Documents("thd", boundaries, boundaries, None, None, length, length)
with torch.no_grad():
    attention.linear_qkv.weight.normal_(generator=generator)
    network(tokens, None, None, packed_seq_params=packed if given["packed"] else None)

if given["packed"]:
    packed.turn(None)  # the layers of a micro-batch share what the first of them computed

half = spec.head_dim // 2
speeds = spec.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
places = torch.arange(spec.seq_length)
if given["packed"]:
    places -= boundaries[:-1].repeat_interleave(boundaries.diff())
turn = places[:, None, None] * speeds

def turned(heads):
    first, second = heads.chunk(2, -1)
    parts = first * turn.cos() - second * turn.sin(), second * turn.cos() + first * turn.sin()
    return torch.cat(parts, -1)

width = spec.attention_heads // spec.kv_heads * spec.head_dim
mixed = seen["mixed"].view(spec.seq_length, spec.kv_heads, -1)
wanted = {
    "query": turned(mixed[..., :width].reshape(spec.seq_length, -1, spec.head_dim)),
    "key": turned(mixed[..., width:-spec.head_dim]),
}
for name, exact in wanted.items():
    error = seen[name].reshape(exact.shape) - exact
    print(float((error.abs() / exact.abs().clamp(min=1e-2)).max()))
device.end()
"""
"""The largest relative error of queries and keys after their turn, from that in float64."""


@pytest.mark.engine
@pytest.mark.parametrize("packed", [False, True], ids=["rows", "packed"])
def test_a_bf16_model_turns_queries_and_keys_with_no_error_but_their_rounding(
    tmp_path, fork_server, packed
):
    spec = dataclasses.replace(MODEL, layers=1, seq_length=256)
    given = {
        "model": dataclasses.asdict(spec),
        "packed": packed,
        "boundaries": [0, 1, 40, 200, 256],
    }

    printed = fork_server.run(ANGLES, tmp_path, stdin=json.dumps(given))

    query, key = map(float, printed.split())
    assert 2**-9 < query <= 2**-8  # half of the last of eight bits
    assert 2**-9 < key <= 2**-8


def test_positions_of_a_packed_row_count_from_the_start_of_each_document() -> None:
    angles = torch.arange(5.0).view(5, 1, 1, 1)

    found = rope.within_documents(angles, torch.tensor([0, 2, 3, 8], dtype=torch.int32))

    assert found.flatten().tolist() == [0, 1, 0, 0, 1, 2, 3, 4]
