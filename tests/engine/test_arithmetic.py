"""Computed parameters and checkpoint bytes are those of the real model, and norms are exact."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from jobs.contract.stage_specs import ModelSpec
from meditron_cli.config.files import shipped_profiles
from meditron_cli.config.load import load
from meditron_cli.plan import spec_parts

pytestmark = pytest.mark.engine

GOLDEN = Path(__file__).parents[1] / "golden"

COUNT = """
import json, sys
from jobs.engine import device
from jobs.contract.stage_specs import ModelSpec, ParallelSpec
place = device.start("cpu", 0, 1, 0)
from jobs.engine import model
layout = ParallelSpec(1, 1, 1, False, False, "none")
model.start_parallel(layout, 0)
for shape in json.load(sys.stdin):
    network = model.build(ModelSpec(**shape), layout, "fp32", place)
    print(sum(parameter.numel() for parameter in network.parameters()))
device.end()
"""


def test_parameters_of_a_spec_are_those_of_the_model_that_is_built(tmp_path, fork_server):
    tiny = recipe("tiny")
    shapes = [
        tiny,
        dataclasses.replace(tiny, layers=1, kv_heads=1, padded_vocab_size=tiny.vocab_size + 64),
        dataclasses.replace(tiny, layers=3, ffn_hidden_size=24),
        dataclasses.replace(tiny, head_dim=48, tied_embeddings=True, qkv_bias=True, qk_norm=True),
        dataclasses.replace(tiny, post_norm=True),
    ]

    given = json.dumps([dataclasses.asdict(shape) for shape in shapes])
    printed = fork_server.run(COUNT, tmp_path, stdin=given)

    assert [int(line) for line in printed.splitlines()] == [one.parameters for one in shapes]


def recipe(size: str) -> ModelSpec:
    profile = str(shipped_profiles() / "rcp.yaml")
    return spec_parts.model_spec(load(profile, size, GOLDEN / "experiment.yaml", []).experiment)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_real_checkpoint_holds_the_bytes_that_were_planned(make_run, precision):
    run = make_run(train_steps=1, validation_batches=0, precision=precision)

    run.finish()

    def stored(step):
        files = (run.root / f"checkpoints/iter_000000{step}").glob("*.distcp")
        return sum(path.stat().st_size for path in files)

    trained = run.spec.model.checkpoint_bytes(precision)
    assert trained <= stored(1) < 1.5 * trained
    weights = run.spec.model.weights_bytes(precision)
    assert weights <= stored(0) < weights + trained / 8  # step 0 has no optimizer's state


NORMS = """
import json
import torch
from jobs.engine import device
device.start("cpu", 0, 1, 0)
from megatron.core.optimizer.clip_grads import get_grad_norm_fp32

torch.manual_seed(0)
sizes = ((2048, 1025), (1 << 18,), (96,), (0,), (3, 1024))
parts = [torch.randn(size) * torch.rand(size).pow(8) for size in sizes]
exact = [float(part.double().square().sum().sqrt()) for part in parts]
pairs = [(float(torch.linalg.vector_norm(part)), norm) for part, norm in zip(parts, exact)]
norm = get_grad_norm_fp32(parts, grad_stats_parallel_group=torch.distributed.group.WORLD)
print(json.dumps([*pairs, (norm, sum(norm**2 for norm in exact) ** 0.5)]))
device.end()
"""


def test_norms_of_large_tensors_are_exact_on_cpu(tmp_path, fork_server):
    printed = fork_server.run(NORMS, tmp_path)

    for norm, exact in json.loads(printed):
        assert norm == pytest.approx(exact, rel=3e-7, abs=0)
