"""Metric lines that count when attempts resumed from older checkpoints."""

from __future__ import annotations

from jobs.contract.metrics_log import StepLine, counted_steps

from ... import metric_lines
from ...metric_lines import period, skip, validation


def trained(first: int, last: int, attempt: int) -> list[StepLine]:
    return [metric_lines.step(number, attempt) for number in range(first, last + 1)]


def test_a_resumed_attempt_that_went_back_makes_later_steps_undone():
    lines = [*trained(1, 150, attempt=1), *trained(101, 120, attempt=2)]

    found = counted_steps(lines).trained

    assert [line.step for line in found] == list(range(1, 121))
    assert [line.attempt for line in found] == [1] * 100 + [2] * 20


def test_validations_beyond_the_resumed_step_are_undone_too():
    lines = [
        validation(0, loss=9.0),
        *trained(1, 100, attempt=1),
        validation(100, loss=5.0),
        *trained(101, 150, attempt=1),
        validation(150, loss=4.0),
        *trained(101, 120, attempt=2),
    ]

    assert counted_steps(lines).validated == [validation(0, loss=9.0), validation(100, loss=5.0)]


def test_periods_that_end_beyond_the_resumed_step_are_undone_too():
    lines = [
        *trained(1, 10, attempt=1),
        period(10),
        *trained(11, 20, attempt=1),
        period(20),
        *trained(16, 19, attempt=2),
    ]

    assert counted_steps(lines).periods == [period(10)]


def test_going_back_twice_counts_each_step_as_it_was_done_last():
    lines = [*trained(1, 9, 1), *trained(5, 8, 2), *trained(3, 6, 3)]

    found = counted_steps(lines).trained

    assert [(line.step, line.attempt) for line in found] == [
        (1, 1), (2, 1), (3, 3), (4, 3), (5, 3), (6, 3),
    ]  # fmt: skip


def test_an_attempt_that_begins_again_from_nothing_keeps_no_step():
    assert counted_steps([*trained(1, 9, 1), *trained(1, 2, 2)]).trained == trained(1, 2, 2)


def test_no_lines_are_no_steps():
    assert counted_steps([]) == ([], [], [], [])
    assert counted_steps([]).last == 0


def test_skipped_steps_count_as_steps_and_going_back_undoes_them():
    lines = [*trained(1, 4, 1), skip(5), skip(6), *trained(7, 8, 1), skip(9)]
    found = counted_steps(lines)
    assert [line.step for line in found.trained] == [1, 2, 3, 4, 7, 8]
    assert ([line.step for line in found.skipped], found.last) == ([5, 6, 9], 9)

    again = counted_steps([*lines, skip(4, 2), *trained(5, 6, 2)])
    assert [line.step for line in again.trained] == [1, 2, 3, 5, 6]
    assert ([(line.step, line.attempt) for line in again.skipped], again.last) == ([(4, 2)], 6)
