"""How long before its end a job is asked to save."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contract import metrics_log
from jobs.contract.rundir import RunDir


def test_the_lead_has_room_for_a_slow_save_a_step_and_an_early_signal() -> None:
    assert (
        metrics_log.StepTimes(save_seconds=40.0, step_seconds=14.2).lead_seconds
        == 60 + 60 + 15 + 30
    )


def test_without_a_known_step_the_save_alone_counts() -> None:
    assert metrics_log.StepTimes(save_seconds=40.0, step_seconds=None).lead_seconds == 60 + 60 + 30


def test_the_newest_saves_and_steps_of_a_run_are_measured(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    lines: list[dict[str, float]] = [{"save": 900.0, "step": 0, "time": 1.0, "attempt": 1}]
    for step in range(1, 31):
        lines.append({"step": step, "loss": 1.0, "seconds": 2.0 + step / 100})
        lines.append({"save": float(step), "step": step, "time": 1.0, "attempt": 1})
    lines.append({"step": 30, "validation_loss": 2.0})
    run.metrics("pretrain").parent.mkdir(parents=True)
    run.metrics("pretrain").write_text("".join(json.dumps(line) + "\n" for line in lines))

    assert metrics_log.measured_step_times(run, "pretrain") == metrics_log.StepTimes(
        save_seconds=29.0, step_seconds=2.29
    )


@pytest.mark.parametrize("lines", [[], [{"save": 1.0}], [{"step": 1, "seconds": 1.0}]])
def test_before_the_first_save_and_step_nothing_is_measured(lines: list[dict[str, float]]) -> None:
    assert metrics_log.step_times(lines) is None


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_the_percentile_is_a_value_that_all_but_a_twentieth_stay_within(
    values: list[float],
) -> None:
    bound = metrics_log.quantile(values, 0.95)

    assert bound in values
    assert sum(value > bound for value in values) <= 0.05 * len(values)
