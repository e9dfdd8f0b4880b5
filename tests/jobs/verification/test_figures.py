"""Differences of scores, and rates of generated texts."""

from __future__ import annotations

import math

import pytest
import torch

from jobs.verification.figures import Difference, Rates


def test_a_difference_counts_positions_values_and_equal_choices() -> None:
    one = torch.tensor([[0.0, 1.0], [3.0, 2.0]])
    other = torch.tensor([[0.0, 1.5], [1.0, 2.0]])

    found = Difference.between(one, other)

    assert found == Difference(positions=2, mean=0.625, max=2.0, agreement=0.5, scale=3.0)
    assert found.exceeds(1.9 / 3)
    assert not found.exceeds(2.0 / 3)


def test_logits_below_one_have_the_tolerance_itself() -> None:
    found = Difference.between(torch.tensor([[0.5, 0.0]]), torch.tensor([[0.25, 0.0]]))

    assert (found.exceeds(0.24), found.exceeds(0.25)) == (True, False)


def test_positions_of_all_texts_weigh_alike() -> None:
    short, long = Difference(1, 4.0, 5.0, 0.0, 2.0), Difference(3, 0.0, 1.0, 1.0, 7.0)

    assert Difference.over_all([short, long]) == Difference(4, 1.0, 5.0, 0.75, 7.0)


def test_a_score_that_is_not_finite_exceeds_every_tolerance() -> None:
    broken = Difference.between(torch.tensor([[math.nan, 1.0]]), torch.tensor([[0.0, 1.0]]))

    assert broken.exceeds(1e9)
    assert Difference.over_all([Difference(1, 0.0, 0.0, 1.0, 1.0), broken]).exceeds(1e9)


def test_rates_count_repeated_and_echoed_sequences_and_early_ends() -> None:
    prompts = [[1, 2, 3, 4, 5], [9]]
    echo, loop = [1, 2, 3, 4], [7, 7, 7, 7, 7, 7]

    found = Rates.of(prompts, [echo, loop], length=6)

    assert found == Rates(
        repetition=pytest.approx(2 / 4), prompt_echo=pytest.approx(1 / 4), early_eos=0.5
    )


def test_an_empty_continuation_has_rates() -> None:
    assert Rates.of([[1]], [[]], length=4) == Rates(0.0, 0.0, 1.0)
