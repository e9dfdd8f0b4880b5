"""The best interval between saves."""

from __future__ import annotations

import pytest

from jobs.contract.metrics_log import StepTimes
from meditron_cli.plan.step_times import best_save_interval

DAY = 86400.0


def test_long_saves_are_as_far_apart_as_by_youngs_formula() -> None:
    """372 minutes for 16 nodes and saves of five: by the failure rate of arXiv 2410.21680."""
    apart = best_save_interval(StepTimes(300.0, 1.0), nodes=16, job_seconds=10 * DAY)

    assert apart == pytest.approx(372 * 60, rel=0.01)


def test_cheap_saves_are_made_every_half_hour_at_least() -> None:
    assert best_save_interval(StepTimes(60.0, 1.0), nodes=16, job_seconds=10 * DAY) == 1800
    assert best_save_interval(StepTimes(0.5, 1.0), nodes=2048, job_seconds=10 * DAY) == 80


def test_a_job_saves_four_times_at_least() -> None:
    assert best_save_interval(StepTimes(300.0, 10.0), nodes=1, job_seconds=3600) == 90


def test_a_step_longer_than_the_interval_is_saved_after() -> None:
    assert best_save_interval(StepTimes(1.0, 9999.0), nodes=1, job_seconds=3600) == 1


def test_without_the_time_of_a_step_there_is_no_best() -> None:
    assert best_save_interval(StepTimes(1.0, None), nodes=1, job_seconds=3600) is None
