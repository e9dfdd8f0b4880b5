"""The lines of a training's metrics that a tracker receives, their order, and how often."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.contract.metrics_log import MetricLine, MetricsLog, counted_steps
from jobs.contract.rundir import RunDir
from meditron_cli.errors import ConfigError
from meditron_cli.tracking.replay import CHUNK, Point, Replay, metrics, points

from ... import metric_lines
from ...metric_lines import health, period, save, skip, snapshot, step, validation


@dataclass
class FakeTracker:
    """A tracker that keeps its points."""

    received: list[Point] = field(default_factory=list)

    @property
    def position(self) -> int:
        return self.received[-1].line if self.received else 0

    def log(self, points: Sequence[Point]) -> None:
        self.received += points


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def replay(run: RunDir, tracker: FakeTracker) -> int:
    return Replay(MetricsLog(run, "pretrain")).send_new(tracker)


def steps(tracker: FakeTracker) -> list[tuple[int, int]]:
    return [(point.step, point.attempt) for point in tracker.received]


def test_readings_of_gpus_are_sent_even_if_their_step_was_redone(run: RunDir) -> None:
    metric_lines.append(run, step(1), health(1), step(1, attempt=2))
    tracker = FakeTracker()

    replay(run, tracker)

    assert [point.values for point in tracker.received if point.line == 2] == [
        {
            "health/gpus": 16.0,
            "health/utilisation": 97.5,
            "health/power_w": 5500.0,
            "health/temperature": 71.0,
            "health/memory_bytes": 6e10,
            "health/energy_j": 1e6,
            "health/findings": 1.0,
        }
    ]


def test_every_line_is_sent_once_in_order_and_a_second_replay_adds_nothing(run: RunDir) -> None:
    metric_lines.append(run, step(1), validation(1), snapshot(1), save(1), step(2))
    tracker = FakeTracker()

    assert replay(run, tracker) == 5
    assert replay(run, tracker) == 0

    assert [point.line for point in tracker.received] == [1, 2, 3, 4, 5]
    names = [next(iter(point.values)).split("/")[0] for point in tracker.received]
    assert names == ["train", "validation", "snapshot", "save", "train"]
    assert tracker.received[0].values["train/loss"] == 2.0
    assert "train/samples" not in tracker.received[0].values


def test_steps_that_were_lost_with_an_attempt_are_not_sent(run: RunDir) -> None:
    lost = step(2), step(3), validation(3), period(3)
    metric_lines.append(run, step(1), save(1), *lost, step(2, attempt=2))
    tracker = FakeTracker()

    replay(run, tracker)

    assert steps(tracker) == [(1, 1), (1, 1), (2, 2)]


def test_a_step_that_was_trained_and_then_skipped_is_not_sent(run: RunDir) -> None:
    metric_lines.append(run, step(1), step(2), step(3), skip(2, 2), skip(3, 2), step(4, 2))
    tracker = FakeTracker()

    replay(run, tracker)

    assert steps(tracker) == [(1, 1), (2, 2), (3, 2), (4, 2)]


def test_a_step_that_was_sent_before_it_was_lost_is_followed_by_its_repetition(
    run: RunDir,
) -> None:
    metric_lines.append(run, step(1), step(2), step(3))
    tracker = FakeTracker()
    replay(run, tracker)

    metric_lines.append(run, step(2, attempt=2), step(3, attempt=2))
    replay(run, tracker)

    assert steps(tracker) == [(1, 1), (2, 1), (3, 1), (2, 2), (3, 2)]


def test_a_line_that_a_kill_cut_short_is_sent_once_it_is_whole_or_never(run: RunDir) -> None:
    metric_lines.append(run, step(1))
    with run.metrics("pretrain").open("a") as file:
        file.write('{"step": 2, "lo')
    tracker = FakeTracker()
    assert replay(run, tracker) == 1

    with run.metrics("pretrain").open("a") as file:
        file.write("\n")
    metric_lines.append(run, step(2, attempt=2))

    assert replay(run, tracker) == 1
    assert steps(tracker) == [(1, 1), (2, 2)]


def test_a_run_with_fewer_lines_than_the_tracker_is_refused(run: RunDir) -> None:
    metric_lines.append(run, step(1), step(2))
    tracker = FakeTracker()
    replay(run, tracker)
    run.metrics("pretrain").write_text("")
    metric_lines.append(run, step(1))

    with pytest.raises(ConfigError, match="has 2 lines of this run's metrics, the run has 1"):
        replay(run, tracker)


def test_many_lines_are_sent_in_chunks(run: RunDir) -> None:
    metric_lines.append(run, *(step(number) for number in range(1, 2 * CHUNK + 2)))
    sizes: list[int] = []

    class Chunks(FakeTracker):
        def log(self, points: Sequence[Point]) -> None:
            sizes.append(len(points))
            super().log(points)

    replay(run, Chunks())

    assert sizes == [CHUNK, CHUNK, 1]


def test_only_finite_numbers_are_metrics() -> None:
    line = step(1, loss=math.nan, grad_norm=math.inf)

    assert {name for name, _ in metrics(line)} >= {"train/learning_rate", "train/seconds"}
    assert not {"train/loss", "train/grad_norm", "train/samples"} & dict(metrics(line)).keys()


@given(
    attempts=st.lists(st.tuples(st.integers(1, 8), st.integers(0, 6)), min_size=1, max_size=6),
    cuts=st.lists(st.integers(0, 40)),
)
@settings(max_examples=80)
def test_whenever_replays_happen_the_last_point_of_each_step_is_the_one_that_counts(
    attempts: list[tuple[int, int]], cuts: list[int]
) -> None:
    """An attempt begins behind some step that an earlier one reached, and trains a few steps."""
    lines: list[MetricLine] = []
    reached = 0
    for number, (begin, count) in enumerate(attempts, 1):
        first = min(begin, reached + 1)
        lines += [step(n, attempt=number, loss=len(lines)) for n in range(first, first + count)]
        reached = max(reached, first + count - 1) if count else reached
    tracker = FakeTracker()

    for cut in [*sorted(cuts), len(lines)]:
        tracker.log(list(points(lines[:cut], tracker.position)))

    assert [p.line for p in tracker.received] == sorted({p.line for p in tracker.received})
    last = {point.step: point.attempt for point in tracker.received}
    trained = counted_steps(lines).trained
    assert [last[line.step] for line in trained] == [line.attempt for line in trained]
