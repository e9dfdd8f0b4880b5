"""The best interval between saves."""

from __future__ import annotations

import pytest

from jobs.contract.metrics_log import StepTimes
from meditron_cli.plan.step_times import best_save_interval, startup_limit_of

from ...plans import plan_of

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


def test_what_a_save_blocks_counts_and_not_before_the_one_before_it_is_written() -> None:
    whole, beside = StepTimes(300.0, 1.0), StepTimes(300.0, 1.0, 3.0)

    assert best_save_interval(whole, nodes=2048, job_seconds=10 * DAY) == 1973
    assert best_save_interval(beside, nodes=2048, job_seconds=10 * DAY) == 300
    assert best_save_interval(beside, nodes=512, job_seconds=10 * DAY) == 394


def test_a_start_may_take_three_times_as_long_as_a_save_of_the_bytes_it_reads() -> None:
    times = StepTimes(save_seconds=500.0, step_seconds=None)

    assert startup_limit_of(None, 1000, times, 1000) == 1200 + 1500
    assert startup_limit_of(None, 140, times, 1000) == 1200 + 210
    assert startup_limit_of(None, 0, times, 1000) == 1200
    assert startup_limit_of(900, 1000, times, 1000) == 900


def test_each_stage_of_a_plan_has_the_limit_of_what_it_reads() -> None:
    def limits(*overrides: str) -> dict[str, int]:
        plan = plan_of("rcp", "70b", *overrides)
        return {
            stage.stage: stage.tasks[0].supervision.startup_limit_seconds for stage in plan.stages
        }

    computed, given = limits(), limits("supervision.startup_limit_seconds=900")

    assert (computed["curate"], computed["tokenize"]) == (1200, 1200)
    assert 2600 < computed["pretrain"] < 2700
    assert 1400 < computed["evaluate"] < 1420
    assert set(given.values()) == {900}
