"""How a run is shown while it lasts."""

from __future__ import annotations

from pathlib import Path

import pytest

from meditron_cli import view
from meditron_cli.view import RunRecord, RunView, StageRecord
from meditron_cli.watch import Bars, Lines


def training(step: int) -> RunView:
    """A run that has trained some of 40 steps."""
    progress = {"done": step, "loss": 2.5}
    pretrain = StageRecord("pretrain", 1, target_step=40, step_tokens=8, progress=progress)
    curate = StageRecord("curate", 1, done={0})
    stages = {"curate": curate, "pretrain": pretrain}
    return view.fold(RunRecord("run", Path("run"), stages=stages), {}, 0.0)


def test_a_log_gets_a_line_for_each_change_and_each_tenth(
    capsys: pytest.CaptureFixture[str],
) -> None:
    board = Lines()

    for step in (1, 2, 3, 4, 5, 7):
        board.show(training(step))

    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        "curate: succeeded 1/1 tasks",
        "pretrain: stopped 1/40 steps, loss 2.500",
        "pretrain: stopped 4/40 steps, loss 2.500",
    ]
    assert captured.out == ""


def test_bars_count_steps_of_training_and_tasks_of_the_rest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Bars() as board:
        board.show(training(10))
        board.show(training(30))

    captured = capsys.readouterr()
    assert "curate succeeded" in captured.err
    assert "30/40 steps, loss 2.500" in captured.err
    assert captured.out == ""
