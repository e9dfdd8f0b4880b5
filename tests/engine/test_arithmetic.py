"""What a plan computes without the engine is what the engine computes."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.contract import specs
from jobs.contract.stage_specs import ModelSpec
from meditron_cli.config.files import shipped_profiles
from meditron_cli.config.load import load
from meditron_cli.plan import layout, stages

pytestmark = pytest.mark.engine

GOLDEN = Path(__file__).parents[1] / "golden"
SIZES = ["tiny", "7b", "70b"]

COUNT = """
import json, sys
from jobs.engine import device
from jobs.contract import specs
device.start("cpu", 0, 1, 0)
from jobs.engine import model, optim
for data in json.load(sys.stdin):
    spec = specs.task_from_json(data).spec
    count = model.parameter_count(spec.model)
    print(json.dumps([count, count * optim.bytes_per_parameter(spec)]))
device.end()
"""


def test_plans_count_parameters_and_checkpoint_bytes_as_the_engine_does(make_run):
    run = make_run()
    plain = specs.task_from_json(json.loads(run.files.spec("pretrain", 0).read_text()))
    recipes = [recipe(size) for size in SIZES]
    tasks = [
        dataclasses.replace(
            plain, spec=dataclasses.replace(run.spec, model=model, precision=precision)
        )
        for model in recipes
        for precision in ("bf16", "fp32")
    ]

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COUNT],
        input=json.dumps([specs.to_json(task) for task in tasks]),
        capture_output=True,
        text=True,
        check=True,
    )

    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        [layout.parameters(model), layout.checkpoint_bytes(model, precision)]
        for model in recipes
        for precision in ("bf16", "fp32")
    ]


def recipe(size: str) -> ModelSpec:
    profile = str(shipped_profiles() / "rcp.yaml")
    return stages.model_spec(load(profile, size, GOLDEN / "experiment.yaml", []).experiment)


def test_every_shipped_recipe_is_looked_at():
    shipped = (Path(stages.__file__).parents[1] / "recipes").glob("*.yaml")

    assert sorted(path.stem for path in shipped) == sorted(SIZES)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_real_checkpoint_holds_the_bytes_that_were_planned(make_run, precision):
    run = make_run(train_steps=1, validation_batches=0, precision=precision)

    run.finish()

    planned = layout.checkpoint_bytes(run.spec.model, precision)
    files = (run.root / "checkpoints/iter_0000001").glob("*.distcp")
    assert planned <= sum(path.stat().st_size for path in files) < 1.5 * planned
