"""Starts from a checkpoint: weights alone, whose they are, and how often a byte is read."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil

import pytest

from jobs.checkpoints import manifest
from jobs.contract.files import read_json, write_json

from .conftest import MODEL

pytestmark = pytest.mark.engine

FIRST = "checkpoints/iter_0000000"


def give(source, target, step=0, **fields):
    """Copy step 0 of a run to another as its checkpoint of a step, with other fields on record."""
    path = target.root / "checkpoints" / manifest.name(step)
    shutil.copytree(source.root / FIRST, path)
    record = read_json(path / manifest.RECORD)
    write_json(path / manifest.RECORD, {**record, "iteration": step, **fields})


def change_origin(run, weights):
    """Have step 0 of a run say where its weights come from."""
    path = run.root / FIRST / manifest.RECORD
    write_json(path, {**read_json(path), "origin": {"weights": weights}, "data": {}})


@pytest.mark.parametrize(
    ("distributed", "precision"),
    [
        (True, "bf16"),
        (False, "fp32"),
        pytest.param(False, "bf16", marks=pytest.mark.full),
        pytest.param(True, "fp32", marks=pytest.mark.full),
    ],
)
def test_a_start_from_weights_alone_equals_a_training_that_was_not_interrupted(
    make_run, layout, distributed, precision
):
    """Its own random weights are others, so that they show if any of them are left."""
    values = {
        "train_steps": 4,
        "precision": precision,
        "validation_interval": 0,
        "parallel": layout(distributed_optimizer=distributed),
    }
    whole = make_run("whole", model=dataclasses.replace(MODEL, init_std=0.06), **values)
    other = make_run("other", weights="org/base", **values)
    whole.finish()
    give(whole, other)
    change_origin(other, "org/base")

    other.finish()

    assert other.losses() == whole.losses()
    folder = other.root / "checkpoints"
    first, last = manifest.at_step(folder, 0)[1], manifest.at_step(folder, 4)[1]
    assert (first.kind, last.kind) == ("weights", "training")
    assert last.origin == {"weights": "org/base"}
    assert manifest.read(whole.root / FIRST).origin == {"weights": "random", "seed": 1234}
    assert 2.5 * first.bytes < last.bytes


def test_base_weights_are_never_replaced_by_random_ones(make_run):
    run, other = make_run("run", weights="org/base"), make_run("other", train_steps=8)

    nothing = run.start()
    assert nothing.wait() == [2], nothing.output()
    assert "no checkpoint of step 0, which the stage `convert` makes of `org/base`" in (
        nothing.output()
    )
    assert f"`{run.files.command('submit', 'convert', '--run')}`" in nothing.output()
    other.finish()
    give(other, run)
    random = run.start()

    assert random.wait() == [2]
    assert "its training began with the weights `random`, this run names `org/base`" in (
        random.output()
    )
    assert run.losses() == {}


@pytest.mark.full
def test_weights_alone_of_a_later_step_are_no_training(make_run):
    run, other = make_run("run"), make_run("other", train_steps=8)
    other.finish()
    give(other, run, step=4)

    ranks = run.start()

    assert ranks.wait() == [2]
    assert "iter_0000004: it holds weights alone, and only step 0 has no optimizer state" in (
        ranks.output()
    )


@pytest.mark.full
def test_random_weights_that_a_damaged_step_0_has_replaced_in_part_are_not_trained(make_run):
    run = make_run(train_steps=4)
    other = make_run("other", train_steps=4, model=dataclasses.replace(MODEL, init_std=0.06))
    run.finish()
    shutil.rmtree(run.root / "checkpoints")
    run.files.metrics("pretrain").unlink()
    other.finish()
    give(other, run)
    shard = run.root / FIRST / "__0_0.distcp"
    content = bytearray(shard.read_bytes())
    content[-100] ^= 1
    shard.write_bytes(content)

    ranks = run.start()

    assert ranks.wait() == [1]
    assert "some of its weights are loaded" in ranks.output()
    run.finish()
    assert run.trained(3) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "sizes",
    [
        {"tensor": 2},
        pytest.param({"data": 2}, marks=pytest.mark.full),
        pytest.param({"tensor": 2, "data": 2}, marks=pytest.mark.full),
        pytest.param({"pipeline": 2}, marks=pytest.mark.full),
    ],
    ids=str,
)
def test_a_start_reads_each_byte_once_in_any_layout(make_run, layout, sizes):
    run = make_run(train_steps=2, validation_interval=0)
    run.finish()
    size = manifest.at_step(run.root / "checkpoints", 2)[1].bytes
    run.files.done("pretrain", 0).unlink()
    run.change(parallel=layout(**sizes))

    run.finish()

    said = re.search(
        r"iter_0000002 is loaded and verified: (\d+) bytes read of (\d+)",
        (run.started[-1].output()),
    )
    assert (int(said[1]), int(said[2])) == (size, size)
    assert manifest.verified_at(run.root / "checkpoints/iter_0000002") is not None


EXTRA_STATES = """
import dataclasses, json, sys
from pathlib import Path
import torch
from jobs.checkpoints import manifest
from jobs.contract import specs
from jobs.contract.errors import TaskError
from jobs.engine import device
place = device.start("cpu", 0, 1, 0)
from jobs.engine import checkpoint, model, optim, sharded_state, layers
from jobs.engine.saving import saver

spec = specs.task_from_json(json.load(sys.stdin)).spec
folder = Path(sys.argv[1])
model.start_parallel(spec.parallel, spec.seed)


class NormWithState(layers.RMSNorm):
    "As transformer-engine's: a state beside the weight."
    got = None

    def get_extra_state(self):
        return torch.tensor([7], dtype=torch.uint8)

    def set_extra_state(self, state):
        self.got = state


def build(with_state, **changes):
    network = model.build(
        dataclasses.replace(spec.model, **changes), spec.parallel, spec.precision, place
    )
    for module in network.modules():
        if with_state and isinstance(module, layers.RMSNorm):
            module.__class__ = NormWithState
    return network


def trained(network):
    return sharded_state.TrainingState([network], optim.prepare([network], spec).optimizer)


def record(step, kind):
    return manifest.CheckpointRecord(
        iteration=step, consumed_samples=0, kind=kind, origin={}, data={}, bytes=0,
        **manifest.identity(spec.model, spec.tokenizer),
        layout=dataclasses.asdict(spec.parallel), precision=spec.precision,
    )


def values(network):
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


for step, stored in enumerate((False, True), start=1):
    at = folder / str(stored)
    source = build(stored)
    path, _ = saver.save(at, trained(source), record(step, manifest.TRAINING), 9)
    for held in (False, True):
        alone, whole = build(held), build(held)
        checkpoint.load_weights(path, alone)
        layout = dataclasses.asdict(spec.parallel)
        checkpoint.load_newest(at, trained(whole), layout, 9, lambda *_: None, lambda: None)
        same = [bool((values(source) == values(other)).all()) for other in (alone, whole)]
        print(json.dumps([stored, held, same]))
    for changes in ({"qk_norm": True}, {"tied_embeddings": True}):
        try:
            checkpoint.load_weights(path, build(False, **changes))
        except TaskError as error:
            print(json.dumps(error.message))
device.end()
"""


def test_only_extra_states_may_be_missing_or_beyond_what_the_layers_have(make_run, fork_server):
    run = make_run()
    task = run.files.spec("pretrain", 0).read_text()

    printed = fork_server.run(EXTRA_STATES, run.root, str(run.root / "saved"), stdin=task)

    lines = [json.loads(line) for line in printed.splitlines() if line[0] in '["']
    rows = [line for line in lines if isinstance(line, list)]
    refusals = [line for line in lines if isinstance(line, str)]
    assert rows == [
        [stored, held, [True, True]] for stored in (False, True) for held in (False, True)
    ]
    assert len(refusals) == 4
    assert "q_layernorm.weight: in the model and not in the checkpoint" in refusals[0]
    assert "output_layer.weight: in the checkpoint and not in the model" in refusals[1]
