"""The metrics of real ranks: norms, speed, utilisation, memory, time by part."""

from __future__ import annotations

import math

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jobs.checkpoints import manifest
from jobs.contract.files import read_json, write_json
from jobs.contract.metrics_log import HealthLine, MetricsLog
from jobs.conversion.sharded_reader import ShardedReader

pytestmark = pytest.mark.engine

HEALTH = {
    "health": 16,
    "utilisation": 97.5,
    "power_w": 5500.0,
    "temperature": 71.0,
    "sm_clock_mhz": None,
    "memory_bytes": 6e10,
    "energy_j": 1e6,
    "findings": 0,
}


def test_a_period_has_speed_memory_norms_and_time_by_part(make_run, layout):
    run = make_run(train_steps=12, parallel=layout(data=2))
    path = run.files.spec("pretrain", 0)
    write_json(path, {**read_json(path), "peak_tflops": 0.001})
    write_json(run.files.health("pretrain"), {"time": 7.0, "attempt": 1, **HEALTH})

    run.finish()

    whole, rest = run.periods()
    assert [(line.step, line.steps) for line in (whole, rest)] == [(10, 10), (12, 2)]
    steps = run.steps()
    assert rest.loss == pytest.approx((steps[10].loss + steps[11].loss) / 2)
    assert rest.perplexity == pytest.approx(math.exp(rest.loss))
    seconds = [line.seconds for line in steps]
    assert whole.seconds == pytest.approx(sum(seconds[:10]))
    assert (rest.step_max, rest.step_p50) == (max(seconds), sorted(seconds)[5])
    assert whole.tokens_per_s == pytest.approx(10 * 4 * 32 / whole.seconds)
    assert whole.tokens_per_s_per_rank == whole.tokens_per_s / 2
    flops = run.spec.model.flops_per_token()
    assert whole.mfu == pytest.approx(whole.tokens_per_s_per_rank * flops / 1e9)
    assert 0 < whole.mfu_without_attention < whole.mfu
    assert 0 < whole.data < whole.seconds
    assert 0 < whole.communication < whole.seconds
    assert whole.checkpoint > 0
    assert whole.validation > 0
    assert 1 << 26 < whole.memory_bytes < 1 << 36
    assert rest.param_norm == pytest.approx(norm_of_weights(run, 12), rel=1e-5)
    plots = EventAccumulator(str(run.root / "tensorboard")).Reload()
    assert [event.step for event in plots.Scalars("parameter norm")] == [10, 12]
    assert {
        *("perplexity/train", "perplexity/validation", "MFU/with attention", "tokens"),
        *("checkpoint/seconds to write", "checkpoint/size in GiB", "GPUs/number"),
    } <= set(plots.Tags()["scalars"])
    lines = MetricsLog(run.files, "pretrain").read_new()
    health = [line for line in lines if isinstance(line, HealthLine)]
    assert [(line.step, line.gpus, line.power_w) for line in health] == [(10, 16, 5500.0)]
    (power,) = plots.Scalars("GPUs/power of all in kW")
    assert (power.step, power.value) == (10, 5.5)
    assert "GPUs/clock of the slowest in MHz" not in plots.Tags()["scalars"]


@pytest.mark.parametrize(
    "content", ['{"format": 3, "time": 8', '{"format": 3, "time": 8.0, "attempt": 1, "health": 8}']
)
def test_readings_of_nodes_that_cannot_be_read_are_left_out(make_run, content):
    run = make_run(train_steps=2)
    run.files.health("pretrain").parent.mkdir(parents=True, exist_ok=True)
    run.files.health("pretrain").write_text(content)

    run.finish()

    lines = MetricsLog(run.files, "pretrain").read_new()
    assert not [line for line in lines if isinstance(line, HealthLine)]


def test_utilisation_is_not_known_without_a_peak(make_run):
    run = make_run(train_steps=2)

    run.finish()

    assert [(line.mfu, line.mfu_without_attention) for line in run.periods()] == [(None, None)]


def norm_of_weights(run, step: int) -> float:
    """Return the norm of all weights of a checkpoint."""
    reader = ShardedReader(run.root / "checkpoints" / manifest.name(step))
    names = [name for name in reader.tensors if not name.startswith("optimizer")]
    squares = [reader.read(name).double().square().sum() for name in names]
    return float(torch.stack(squares).sum().sqrt())
