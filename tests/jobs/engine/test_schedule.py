"""The learning rate in the tails of a schedule."""

from __future__ import annotations

import math

import pytest

from jobs.contract.stage_specs import TailSpec
from jobs.engine.schedule import rate

END = 100


def planned(step: int) -> float:
    return 1.0 - step / 200


def test_without_a_tail_and_before_it_the_schedule_is_as_planned() -> None:
    tails = [(60, TailSpec(0.0, "linear", END))]

    assert [rate(planned, [], step) for step in (1, 50, 100)] == [0.995, 0.75, 0.5]
    assert rate(planned, tails, 60) == planned(60)


def test_a_tail_falls_from_the_rate_before_it_to_its_own() -> None:
    linear, cosine = [(60, TailSpec(0.1, "linear", END))], [(60, TailSpec(0.1, "cosine", END))]

    assert rate(planned, linear, 80) == pytest.approx((0.7 + 0.1) / 2)
    assert rate(planned, linear, 100) == pytest.approx(0.1)
    quarter = 0.1 + 0.6 * (1 + math.cos(math.pi / 4)) / 2
    assert rate(planned, cosine, 70) == pytest.approx(quarter)
    assert rate(planned, cosine, 100) == pytest.approx(0.1)


def test_a_later_tail_begins_with_the_rate_of_the_one_before_it() -> None:
    tails = [(60, TailSpec(0.1, "linear", END)), (80, TailSpec(0.0, "linear", END))]

    assert rate(planned, tails, 80) == pytest.approx(0.4)
    assert rate(planned, tails, 90) == pytest.approx(0.2)
