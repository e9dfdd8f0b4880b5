"""Saving and loading the state of an optimizer that is not torch's own, as on a GPU."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.engine

ROUND_TRIP = """
import dataclasses, json, sys
from pathlib import Path
import torch
from jobs.checkpoints import manifest
from jobs.engine import device
from jobs.contract import specs

task = specs.task_from_json(json.load(sys.stdin))
spec = task.spec
place = device.start("cpu", 0, 1, 0)
from jobs.engine import checkpoint, model, optim
from jobs.engine.saving import saver
from jobs.engine import sharded_state


class GroupAdam(torch.optim.Optimizer):
    # As transformer-engine's FusedAdam: the step count is a group's, and load_state_dict knows the
    # names of all that it keeps of a parameter.
    kept = {"exp_avg": torch.float32, "exp_avg_sq": torch.float32}

    def step(self):
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            for parameter in group["params"]:
                for number, name in enumerate(self.kept):
                    self.state[parameter][name] = torch.full_like(parameter, number + 0.5)

    def load_state_dict(self, state):
        super().load_state_dict(state)
        for held in self.state.values():
            for name in held:
                held[name] = held[name].to(self.kept[name])


def trained(fills):
    network = model.build(spec.model, spec.parallel, spec.precision, place)
    whole = optim.prepare([network], spec).optimizer
    (part,) = whole.chained_optimizers
    part.optimizer = GroupAdam(part.optimizer.param_groups, {})
    part.init_state_fn(part.optimizer, part.config)
    for _ in range(fills):
        part.optimizer.step()
    return sharded_state.TrainingState([network], whole), part.optimizer


model.start_parallel(spec.parallel, spec.seed)
layout = dataclasses.asdict(spec.parallel)
for steps in (0, 3):
    record = manifest.CheckpointRecord(
        iteration=steps,
        consumed_samples=0,
        kind=manifest.TRAINING,
        **manifest.identity(spec.model, spec.tokenizer),
        origin={},
        layout=layout,
        precision=spec.precision,
        data={},
        bytes=0,
    )
    path, saved = saver.save(Path(sys.argv[1]), trained(steps)[0], record, 9)
    again, optimizer = trained(0)
    checkpoint.load_newest(path.parent, again, layout, steps, lambda *_: None, lambda: None)
    states = optimizer.state.values()
    moments = {
        name: sorted(set(torch.cat([held[name].flatten() for held in states]).tolist()))
        for name in GroupAdam.kept
    }
    counts = sorted({group.get("step", 0) for group in optimizer.param_groups})
    print(json.dumps([steps, counts, moments]))
device.end()
"""


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_optimizer_that_counts_steps_a_group_is_given_no_count_a_parameter(
    make_run, layout, fork_server, precision
):
    run = make_run(precision=precision, parallel=layout(distributed_optimizer=False))
    task = run.files.spec("pretrain", 0).read_text()

    printed = fork_server.run(ROUND_TRIP, run.root, str(run.root / "saved"), stdin=task)

    assert [line for line in printed.splitlines() if line.startswith("[")] == [
        '[0, [0], {"exp_avg": [0.0], "exp_avg_sq": [0.0]}]',
        '[3, [3], {"exp_avg": [0.5], "exp_avg_sq": [1.5]}]',
    ]
