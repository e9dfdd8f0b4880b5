"""The memory of real ranks is what the plan computes, part by part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from jobs.contract.stage_specs import ParallelSpec
from meditron_cli.plan import memory

from ..fork_server import ForkServer
from ..measured_memory import Case, LiveBytes

pytestmark = pytest.mark.engine

FULL = pytest.mark.full

MODEL = {
    "layers": 4,
    "hidden_size": 256,
    "ffn_hidden_size": 704,
    "attention_heads": 8,
    "kv_heads": 4,
    "head_dim": 32,
    "seq_length": 256,
    "vocab_size": 2048,
    "padded_vocab_size": 2048,
}
"""4 M parameters; a micro-batch's activations are as large as the optimizer's states."""

RANK = """
import sys
from tests.measured_memory import main
main(sys.stdin.read())
"""


@pytest.mark.parametrize(
    ("sizes", "recompute", "precision"),
    [
        ((1, 1, 1), "none", "bf16"),
        pytest.param((1, 1, 1), "none", "fp32", marks=FULL),
        pytest.param((1, 1, 1), "selective", "bf16", marks=FULL),
        ((2, 1, 1), "full", "bf16"),
        pytest.param((2, 1, 1), "none", "bf16", marks=FULL),
        ((1, 2, 1), "none", "bf16"),
        pytest.param((1, 1, 2), "none", "bf16", marks=FULL),
    ],
)
def test_ranks_use_the_memory_that_the_plan_computes(
    tmp_path: Path,
    fork_server: ForkServer,
    sizes: tuple[int, int, int],
    recompute: str,
    precision: str,
) -> None:
    layout = ParallelSpec(*sizes, sizes[0] > 1, True, recompute)
    case = Case(layout, MODEL, precision, micro=8)

    first, *_ = fork_server.run_ranks(RANK, tmp_path, layout.world_size, case.text)

    stages = json.loads(first.splitlines()[-1])["stages"]
    assert len(stages) == layout.pipeline
    for found, planned in zip(stages, case.planned, strict=True):
        for part in ("weights", "gradients", "optimizer"):
            assert planned[part] == pytest.approx(found[part], rel=0.01)
        assert planned["working"] == pytest.approx(found["working"], rel=0.15)
        assert planned["total"] == pytest.approx(found["total"], rel=0.10)


@pytest.mark.parametrize(
    ("options", "temporaries"),
    [({"foreach": True}, memory.SPLIT_TEMPORARIES), ({"fused": True}, 0)],
)
def test_adamw_has_the_temporaries_that_the_plan_counts(
    options: dict[str, bool], temporaries: int
) -> None:
    """``foreach`` is torch's choice on CUDA, fused what transformer-engine's Adam is like."""
    parameters = [torch.zeros(size, requires_grad=True) for size in (100_000, 300_000)]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.1, **options)
    optimizer.step()  # creates the moments

    with LiveBytes() as count:
        optimizer.step()

    assert count.peak == pytest.approx(temporaries * 400_000, rel=0.01, abs=1000)
