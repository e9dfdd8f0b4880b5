"""Metric lines as the engine writes them, with default values."""

from __future__ import annotations

import json
from typing import Any

from jobs.contract.metrics_log import MetricLine, SaveLine, StepLine, ValidationLine, to_json
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


def validation(after: int, attempt: int = 1, **fields: Any) -> ValidationLine:
    """Return the line of a validation after a step."""
    values: dict[str, Any] = {"loss": 2.0, "seconds": 1.0, "time": 0.0}
    return ValidationLine(step=after, attempt=attempt, **{**values, **fields})


def save(after: int, attempt: int = 1, **fields: Any) -> SaveLine:
    """Return the line of a checkpoint that was written after a step."""
    values: dict[str, Any] = {"seconds": 1.0, "bytes": 1, "time": 0.0}
    return SaveLine(step=after, attempt=attempt, **{**values, **fields})


def append(run: RunDir, *lines: MetricLine, stage: str = "pretrain") -> None:
    """Append lines to the metrics of a training."""
    path = run.metrics(stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(to_json(line)) + "\n" for line in lines)
