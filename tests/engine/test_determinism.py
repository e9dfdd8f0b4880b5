"""The switches of `pretrain.deterministic`. That they suffice on GPUs is unproven."""

from __future__ import annotations

import json

import pytest

from jobs.contract import specs

pytestmark = pytest.mark.engine

SWITCHES = """
import json, os, sys
from jobs.contract import specs
from jobs.engine import device
from jobs.engine.switches import determinism
spec = specs.task_from_json(json.load(sys.stdin)).spec
determinism.switch_on()
place = device.start("cpu", 0, 1, 0)
import torch
from jobs.engine import model
model.start_parallel(spec.parallel, 0)
(network,) = model.pieces(
    spec.model, spec.parallel, "bf16", place, deterministic=spec.deterministic
)
looked_up = []
plain = torch.nn.functional.embedding
torch.nn.functional.embedding = lambda *inputs: looked_up.append(1) or plain(*inputs)
tokens = torch.arange(8).view(1, 8)
network(tokens, None, None, labels=tokens)
print(json.dumps({
    "algorithms": torch.are_deterministic_algorithms_enabled(),
    "cudnn": [torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark],
    "attention": {
        name: getattr(torch.backends.cuda, f"{name}_sdp_enabled")()
        for name in ("flash", "math", "mem_efficient", "cudnn")
    },
    "megatron.core": network.module.config.deterministic_mode,
    "fused loss": network.module.config.cross_entropy_loss_fusion,
    "embedding": len(looked_up),
    "variables": {name: os.environ[name] for name in sys.argv[1:]},
}))
device.end()
"""


def test_every_switch_of_a_rank_is_on(tmp_path, fork_server, make_run):
    run = make_run(deterministic=True)
    given = json.dumps(specs.to_json(specs.load_task(run.files, "pretrain", 0)))
    names = ("CUBLAS_WORKSPACE_CONFIG", "NCCL_ALGO", "NVTE_ALLOW_NONDETERMINISTIC_ALGO")

    printed = fork_server.run(SWITCHES, tmp_path, *names, stdin=given)

    assert json.loads(printed.splitlines()[-1]) == {
        "algorithms": True,
        "cudnn": [True, False],
        "attention": {"flash": True, "math": True, "mem_efficient": False, "cudnn": False},
        "megatron.core": True,
        "fused loss": False,
        "embedding": 0,
        "variables": dict(zip(names, (":4096:8", "Ring", "0"), strict=True)),
    }


def test_a_deterministic_training_is_bit_equal_and_no_operation_is_refused(make_run, layout):
    values = {"parallel": layout(data=2), "train_steps": 4, "validation_interval": 0}
    first, second = (make_run(name, **values, deterministic=True) for name in ("first", "second"))

    for run in (first, second):
        run.finish()

    assert first.losses() == second.losses()
    assert set(first.losses()) == {1, 2, 3, 4}


FOR_A_BLOCK = """
import json, os
import torch
from jobs.engine.switches import determinism
os.environ["NCCL_ALGO"] = "Tree"
def state():
    return [
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cuda.mem_efficient_sdp_enabled(),
        torch.backends.cuda.cudnn_sdp_enabled(),
        os.environ.get("NCCL_ALGO"),
        os.environ.get("NVTE_ALLOW_NONDETERMINISTIC_ALGO"),
    ]
states = [state()]
with determinism.switched_on():
    states.append(state())
print(json.dumps([*states, state()]))
"""


def test_switches_for_a_block_are_as_before_behind_it(tmp_path, fork_server):
    printed = fork_server.run(FOR_A_BLOCK, tmp_path)

    before, inside, behind = json.loads(printed.splitlines()[-1])
    assert inside == [True, True, False, False, "Ring", "0"]
    assert behind == before
    assert before[-2:] == ["Tree", None]
