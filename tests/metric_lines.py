"""Metric lines as the engine writes them, with default values."""

from __future__ import annotations

import json
from typing import Any

from jobs.contract.metrics_log import (
    HealthLine,
    MetricLine,
    PeriodLine,
    SaveLine,
    SkipLine,
    SnapshotLine,
    SpikeLine,
    StepLine,
    ValidationLine,
    to_json,
)
from jobs.contract.rundir import RunDir


def step(number: int, attempt: int = 1, **fields: Any) -> StepLine:
    """Return the line of a training step."""
    values: dict[str, Any] = {
        "loss": 2.0,
        "learning_rate": 1e-4,
        "grad_norm": 1.0,
        "consumed_samples": 4 * number,
        "samples": f"{number:016x}",
        "tokens": 100 * number,
        "seconds": 3.0,
        "tokens_per_s": 10.0,
        "time": 0.0,
    }
    return StepLine(step=number, attempt=attempt, **{**values, **fields})


def period(last: int, attempt: int = 1, **fields: Any) -> PeriodLine:
    """Return the line of the ten steps that end with this one, each of three seconds."""
    values: dict[str, Any] = {
        "steps": 10,
        "loss": 2.0,
        "perplexity": 7.4,
        "param_norm": 50.0,
        "seconds": 30.0,
        "data": 0.3,
        "communication": 3.0,
        "checkpoint": 1.0,
        "validation": 0.0,
        "step_p50": 3.0,
        "step_p95": 3.5,
        "step_max": 4.0,
        "tokens_per_s": 1000.0,
        "tokens_per_s_per_rank": 125.0,
        "mfu": None,
        "mfu_without_attention": None,
        "memory_bytes": 1 << 30,
        "time": 0.0,
    }
    return PeriodLine(step=last, attempt=attempt, **{**values, **fields})


def skip(number: int, attempt: int = 1, **fields: Any) -> SkipLine:
    """Return the line of a step whose batch was skipped."""
    values: dict[str, Any] = {"reason": "pretrain.skip_steps", "seconds": 0.1, "time": 0.0}
    return SkipLine(step=number, attempt=attempt, **{**values, **fields})


def validation(after: int, attempt: int = 1, **fields: Any) -> ValidationLine:
    """Return the line of a validation after a step."""
    values: dict[str, Any] = {"loss": 2.0, "corpora": {}, "seconds": 1.0, "time": 0.0}
    return ValidationLine(step=after, attempt=attempt, **{**values, **fields})


def spike(number: int, attempt: int = 1, **fields: Any) -> SpikeLine:
    """Return the line of a spike."""
    values: dict[str, Any] = {
        "problem": f"the loss of step {number} is high",
        "action": "warned",
        "samples": f"{number:016x}",
        "saved": None,
        "first": None,
        "time": 0.0,
    }
    return SpikeLine(step=number, attempt=attempt, **{**values, **fields})


def snapshot(after: int, attempt: int = 1, **fields: Any) -> SnapshotLine:
    """Return the line of a copy of the state after a step."""
    values: dict[str, Any] = {"seconds": 1.0, "time": 0.0}
    return SnapshotLine(step=after, attempt=attempt, **{**values, **fields})


def save(after: int, attempt: int = 1, **fields: Any) -> SaveLine:
    """Return the line of a checkpoint of a step; without ``written``, training waited for all."""
    seconds = fields.get("seconds", 1.0)
    values: dict[str, Any] = {"seconds": seconds, "written": seconds, "bytes": 1, "time": 0.0}
    return SaveLine(step=after, attempt=attempt, **{**values, **fields})


def health(number: int, attempt: int = 1, **fields: Any) -> HealthLine:
    """Return the line of the GPUs' readings at a step."""
    values: dict[str, Any] = {
        "gpus": 16,
        "utilisation": 97.5,
        "power_w": 5500.0,
        "temperature": 71.0,
        "sm_clock_mhz": None,
        "memory_bytes": 6e10,
        "energy_j": 1e6,
        "findings": 1,
        "time": 0.0,
    }
    return HealthLine(step=number, attempt=attempt, **{**values, **fields})


def append(run: RunDir, *lines: MetricLine, stage: str = "pretrain", index: int = 0) -> None:
    """Append lines to the metrics of a training."""
    path = run.metrics(stage, index)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(to_json(line)) + "\n" for line in lines)
