"""Ranks that are slower than their peers, and trainings that are slow as a whole."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping

import pytest

from jobs.supervision.alarms.stragglers import (
    WINDOW_SECONDS,
    WINDOWS,
    Place,
    RankPace,
    SlowJob,
    Straggler,
    StragglerDetector,
    median_without,
)

Parts = tuple[float, float, float]
"""Seconds of a step: computing, waiting for data, communicating."""

USUAL: Parts = (1.0, 0.02, 0.2)


def alone(rank: int) -> Place:
    """Return the place of a rank that has the whole model."""
    return Place(0, rank)


def detect(
    windows: list[Mapping[int, Parts]], place_of: Callable[[int], Place] = alone
) -> StragglerDetector:
    """Return a detector after some windows of 25 steps; four ranks are on a node."""
    detector, sums = StragglerDetector(place_of), {rank: [0, 0.0, 0.0, 0.0] for rank in windows[0]}
    now = 0.0
    detector.add(now, paces(sums))
    for window in windows:
        for rank, (compute, data, communication) in window.items():
            parts = (1, compute + data + communication, data, communication)
            sums[rank] = [a + 25 * b for a, b in zip(sums[rank], parts, strict=True)]
        now += WINDOW_SECONDS + 1
        assert detector.add(now, paces(sums))
    return detector


def paces(sums: Mapping[int, list[float]]) -> list[RankPace]:
    return [
        RankPace(rank, f"gpu{rank // 4:02d}", int(row[0]), *row[1:]) for rank, row in sums.items()
    ]


def even(ranks: int, parts: Parts = USUAL) -> dict[int, Parts]:
    return dict.fromkeys(range(ranks), parts)


def test_ranks_of_equal_speed_are_no_stragglers() -> None:
    detector = detect([even(8)] * 9)

    assert detector.stragglers() == []
    assert detector.slow_job() is None


def test_a_rank_that_computes_slower_is_named_with_its_node() -> None:
    window = even(8) | {5: (1.4, 0.02, 0.0)}

    assert detect([window] * WINDOWS).stragglers() == [
        Straggler("gpu01", (5,), pytest.approx(1.42 / 1.02), "computing")
    ]


def test_a_node_that_waits_for_data_is_named_once() -> None:
    window = even(8) | dict.fromkeys(range(4), (1.0, 0.7, 0.0))

    (found,) = detect([{**window, 8: USUAL, 9: USUAL}] * WINDOWS).stragglers()

    assert (found.node, found.ranks, found.cause) == ("gpu00", (0, 1, 2, 3), "waiting for data")
    assert found.sentence == (
        "ranks 0-3 take 1.67 times as long as peers for a step, waiting for data"
    )


def test_a_rank_that_is_slow_now_and_then_is_not_named() -> None:
    slow = even(8) | {5: (1.4, 0.02, 0.0)}

    assert detect([slow] * (WINDOWS - 1)).stragglers() == []
    assert detect([slow, slow, even(8), slow, slow]).stragglers() == []
    assert detect([*[slow] * WINDOWS, even(8)]).stragglers() == []


def test_pipeline_stages_are_not_compared_with_each_other() -> None:
    """The last stage has the output layer, and more work."""
    window = even(4) | dict.fromkeys(range(4, 8), (1.6, 0.02, 0.1))

    assert detect([window] * WINDOWS, lambda rank: Place(rank // 4, rank % 4)).stragglers() == []
    assert detect([window] * WINDOWS).stragglers() != []


def test_stages_on_several_nodes_that_wait_for_each_other_blame_no_node() -> None:
    """Rank 5 is slow, and rank 1, the other stage of its model, waits for it within the step."""
    window = even(8) | dict.fromkeys((1, 5), (1.4, 0.02, 0.0))

    (found,) = detect([window] * WINDOWS, lambda rank: Place(rank // 4, rank % 4)).stragglers()

    assert (found.node, found.ranks, found.nodes) == ("", (1, 5), ("gpu00", "gpu01"))
    assert found.sentence == (
        "ranks 1, 5 take 1.39 times as long as peers for a step, computing; they wait for each "
        "other: one of gpu00, gpu01 is slow"
    )


def test_stages_on_one_node_name_it() -> None:
    """Two stages of two replicas on each of two nodes."""
    window = even(8) | dict.fromkeys((0, 1), (1.4, 0.02, 0.0))

    (found,) = detect([window] * WINDOWS, lambda rank: Place(rank % 2, rank // 2)).stragglers()

    assert (found.node, found.ranks, found.nodes) == ("gpu00", (0, 1), ())


@pytest.mark.parametrize("values", [[3.0], [1.0, 2.0], [1.0, 2.0, 4.0], [1.0, 1.0, 3.0, 9.0]])
def test_the_median_of_the_others_leaves_one_out(values: list[float]) -> None:
    for place in range(len(values)):
        others = values[:place] + values[place + 1 :]

        assert median_without(values, place) == (statistics.median(others) if others else 0.0)


@pytest.mark.parametrize(
    ("later", "cause"),
    [
        ((1.6, 0.02, 0.2), "computing"),
        ((1.0, 0.7, 0.2), "waiting for data"),
        ((1.0, 0.02, 0.9), "communicating"),
    ],
)
def test_a_training_that_slows_down_on_all_ranks_is_no_straggler(later: Parts, cause: str) -> None:
    detector = detect([*[even(8)] * WINDOWS, *[even(8, later)] * WINDOWS])

    assert detector.stragglers() == []
    found = detector.slow_job()
    assert found == SlowJob(pytest.approx(sum(later) / sum(USUAL)), cause)


def test_a_single_rank_has_no_peers() -> None:
    assert detect([even(1)] * WINDOWS).stragglers() == []


def test_ranks_that_start_again_begin_a_new_window() -> None:
    detector = StragglerDetector(alone)
    detector.add(0.0, [RankPace(0, "a", 50, 50.0, 0.0, 0.0)])

    assert not detector.add(100.0, [RankPace(0, "a", 5, 5.0, 0.0, 0.0)])
    assert not detector.add(110.0, [RankPace(0, "a", 40, 40.0, 0.0, 0.0)])
    assert detector.add(200.0, [RankPace(0, "a", 90, 90.0, 0.0, 0.0)])


@pytest.mark.parametrize("seed", range(20))
def test_noise_makes_no_straggler(seed: int) -> None:
    dice = random.Random(seed)

    def window() -> dict[int, Parts]:
        return {
            rank: (dice.gauss(1.0, 0.05), dice.expovariate(50), dice.gauss(0.3, 0.1))
            for rank in range(64)
        }

    detector = detect([window() for _ in range(30)])

    assert detector.stragglers() == []
    assert detector.slow_job() is None
