"""The speed of a training from its metric lines, in `status` and `report`."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from jobs.contract.metrics_log import counted_steps
from meditron_cli.reporting import speed

from ...conftest import Bench
from ...metric_lines import append, period, spike, step

FAST = {"mfu": 0.4, "mfu_without_attention": 0.3, "tokens_per_s": 2000.0, "seconds": 15.0}
LINES = [
    *(step(number) for number in range(1, 11)),
    period(10, mfu=0.2, mfu_without_attention=0.15, memory_bytes=3 << 30),
    *(step(number, seconds=1.5) for number in range(11, 21)),
    period(20, data=1.5, step_p50=1.5, step_p95=1.5, tokens_per_s_per_rank=250.0, **FAST),
]


def test_averages_are_by_time_and_the_largest_memory_counts():
    found = speed.overall(counted_steps(LINES))

    assert found.mfu == pytest.approx((0.2 * 30 + 0.4 * 15) / 45)
    assert found.tokens_per_s == pytest.approx(20 * 3000 / 45)
    assert (found.data, found.communication) == pytest.approx((1.8 / 45, 6 / 45))
    assert (found.step_p50, found.step_p95, found.memory_bytes) == (1.5, 3.0, 3 << 30)


def test_utilisation_is_unknown_where_a_period_has_none():
    found = speed.overall(counted_steps([*LINES, step(21), period(21, steps=1)]))

    assert (found.mfu, found.mfu_without_attention) == (None, None)


def test_without_a_period_there_is_no_speed():
    assert speed.overall(counted_steps([step(1)])) is None
    assert speed.newest(counted_steps([step(1)])) is None


def test_status_shows_the_newest_period_and_report_all(
    meditron: Bench, finish: Callable[..., None]
) -> None:
    meditron.submit()
    run = meditron.run()
    finish(run, "curate", 0)
    finish(run, "tokenize", 0, 1, 2)
    finish(run, "index", 0)
    append(run, *LINES, spike(20, action="recomputed"))

    status = meditron("status", run.name).stdout
    as_json = json.loads(meditron("status", run.name, "--json").stdout)["runs"][0]
    report = [" ".join(row.split()) for row in meditron("report", run.name).stdout.splitlines()]

    assert (
        "speed: 2,000 tokens/s, 250 per rank, MFU 40.0% (30.0% without attention); "
        "a step 1.5 s, 95 % within 1.5 s\n"
    ) in status
    assert "memory: 1.00 GiB at most on a rank\n" in status
    assert "last spike: the loss of step 20 is high: recomputed\n" in status
    assert "20 the loss of step 20 is high recomputed" in report
    assert as_json["speed"]["mfu"] == 0.4
    assert "MFU - 26.7%" in report
    assert "steps waiting for data - 4.0%" in report
    assert "memory of a rank - 3.00 GiB" in report
    assert "perplexity 7.389 7.389" in report
