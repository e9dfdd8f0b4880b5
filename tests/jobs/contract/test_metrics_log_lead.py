"""The signal lead time of a job, from measured steps and saves."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contract import metrics_log
from jobs.contract.rundir import RunDir

from ...metric_lines import append, save, step, validation


def test_the_lead_has_room_for_a_slow_save_a_step_and_an_early_signal() -> None:
    assert (
        metrics_log.StepTimes(save_seconds=40.0, step_seconds=14.2).lead_seconds
        == 60 + 60 + 15 + 30
    )


def test_without_a_known_step_the_save_alone_counts() -> None:
    assert metrics_log.StepTimes(save_seconds=40.0, step_seconds=None).lead_seconds == 60 + 60 + 30


def test_the_newest_saves_and_steps_of_a_run_are_measured(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    append(run, save(0, seconds=900.0))
    for number in range(1, 31):
        append(run, step(number, seconds=2.0 + number / 100), save(number, seconds=float(number)))

    assert metrics_log.measured_step_times(run, "pretrain") == metrics_log.StepTimes(
        save_seconds=29.0, step_seconds=2.29, blocked_seconds=29.0
    )


def test_the_lead_has_room_for_the_rest_of_an_asynchronous_save_and_for_one_more() -> None:
    times = metrics_log.StepTimes(save_seconds=40.0, step_seconds=None, blocked_seconds=4.0)

    assert times.lead_seconds == (60 - 6) + 60 + 60 + 30


def test_the_time_of_a_validation_is_no_step_time(tmp_path: Path) -> None:
    """A stop request ends a validation after its current batch."""
    run = RunDir(tmp_path)
    append(run, step(1, seconds=2.0), validation(1, seconds=70.0), save(1, seconds=5.0))

    assert metrics_log.measured_step_times(run, "pretrain") == metrics_log.StepTimes(5.0, 2.0, 5.0)


@pytest.mark.parametrize("lines", [(), (save(1),), (step(1), validation(1))])
def test_before_the_first_save_and_step_nothing_is_measured(
    tmp_path: Path, lines: tuple[metrics_log.MetricLine, ...]
) -> None:
    run = RunDir(tmp_path)
    append(run, *lines)

    assert metrics_log.measured_step_times(run, "pretrain") is None


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_the_percentile_is_a_value_that_all_but_a_twentieth_stay_within(
    values: list[float],
) -> None:
    bound = metrics_log.quantile(values, 0.95)

    assert bound in values
    assert sum(value > bound for value in values) <= 0.05 * len(values)
