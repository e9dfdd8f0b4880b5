"""Communication that overlaps with computation, by layout."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from jobs.engine.switches.overlap import Overlap, overlap, without_copies

from ..fork_server import ForkServer
from .conftest import MODEL, parallel_spec


@pytest.mark.parametrize(
    ("sizes", "gradients", "parameters", "stages"),
    [
        ({}, False, False, False),
        ({"tensor": 2, "pipeline": 2}, False, False, False),
        ({"data": 2}, True, True, False),
        ({"data": 2, "distributed_optimizer": False}, True, False, False),
        ({"pipeline": 2, "virtual": 2}, False, False, True),
        ({"pipeline": 4, "virtual": 2, "data": 2}, True, True, True),
    ],
)
def test_communication_overlaps_where_there_is_any_and_megatron_core_can(
    sizes: dict[str, Any], gradients: bool, parameters: bool, stages: bool
) -> None:
    expected = Overlap(gradients, parameters, stages)

    assert overlap(parallel_spec(**sizes)) == expected


def test_a_block_without_overlap_of_copies_leaves_that_of_stages() -> None:
    parallel = parallel_spec(pipeline=2, virtual=2, data=2)

    with without_copies():
        inside = overlap(parallel)

    assert inside == Overlap(False, False, True)
    assert overlap(parallel) == Overlap(True, True, True)


PREPARE = """
import json, os, sys
from jobs.contract import specs
from jobs.engine import device
spec = specs.task_from_json(json.load(sys.stdin)).spec
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
place = device.start("cpu", rank, world, rank)
from jobs.engine import model, optim
model.start_parallel(spec.parallel, spec.seed)
pieces = model.pieces(spec.model, spec.parallel, spec.precision, place)
updater = optim.prepare(pieces, spec)
config = pieces[0].config
print(json.dumps({
    "gradients": [piece.ddp_config.overlap_grad_reduce for piece in updater.wrapped],
    "parameters": [piece.ddp_config.overlap_param_gather for piece in updater.wrapped],
    "in the optimizer": updater.optimizer.config.overlap_param_gather,
    "stages": [config.overlap_p2p_comm, config.batch_p2p_comm],
    "layers": [[layer.layer_number for layer in piece.decoder.layers] for piece in pieces],
}))
device.end()
"""


@pytest.mark.engine
@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        (
            {"data": 2},
            {
                "gradients": [True],
                "parameters": [True],
                "in the optimizer": True,
                "stages": [False, True],
                "layers": [[1, 2, 3, 4]],
            },
        ),
        (
            {"pipeline": 2, "virtual": 2},
            {
                "gradients": [False, False],
                "parameters": [False, False],
                "in the optimizer": False,
                "stages": [True, False],
                "layers": [[1], [3]],
            },
        ),
    ],
    ids=str,
)
def test_megatron_core_is_told_what_overlaps_and_which_layers_a_piece_has(
    make_run: Any, fork_server: ForkServer, sizes: dict[str, Any], expected: dict[str, Any]
) -> None:
    run = make_run(parallel=parallel_spec(**sizes), model=dataclasses.replace(MODEL, layers=4))
    task = run.files.spec("pretrain", 0).read_text()

    first, _ = fork_server.run_ranks(PREPARE, run.root, 2, stdin=task)

    assert json.loads(first.splitlines()[-1]) == expected
