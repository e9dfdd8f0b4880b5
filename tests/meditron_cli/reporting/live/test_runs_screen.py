"""The screen of all runs, from data alone."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from meditron_cli.reporting.live.page import Asked, RunRow, RunsPage
from meditron_cli.reporting.live.runs_screen import runs_screen
from meditron_cli.runs.views import RunView

from .test_run_screen import NOW, TRAINING, stage, view


def row(name: str, state: str = "running", changed: float = 0.0) -> RunRow:
    found = stage("pretrain", state) if state != "running" else TRAINING
    run = view(found, state=state)
    return RunRow(RunView(name, state, "site", run.stages, 2.5, 5400.0, ""), changed)


ROWS = [
    row("med-7b-00000001", "succeeded", 5),
    row("med-7b-00000002", "failed", 9),
    row("med-7b-00000003", changed=1),
    row("med-70b-a-long-name-00000004", "pending", 7),
]


def shown(width: int = 80, height: int = 20, rows: list[RunRow] = ROWS) -> list[str]:
    page = RunsPage(NOW, "/scratch/runs", rows, Asked("slurm", NOW - 3, NOW + 12))
    return [item.plain.rstrip() for item in runs_screen(page, (width, height))]


def test_runs_that_may_change_come_first_then_the_newest() -> None:
    found = shown()

    assert found[0].startswith("runs in /scratch/runs")
    assert found[1] == "1 running  1 failed  1 pending  1 succeeded"
    assert [item.split()[0][-8:] for item in found[3:7]] == [
        "00000004", "00000003", "00000002", "00000001",
    ]  # fmt: skip
    assert found[4].endswith("running   ━━────────  23%  pretrain  1h 30m  loss 2.5")
    assert found[-1] == "q leaves  Slurm answered 3 s ago, asked again in 12 s"


def test_names_are_shortened_in_the_middle_at_forty_columns() -> None:
    found = shown(40)

    assert found[4] == "med-70b-a…00000004 pending   ─────   0%"
    assert found[5] == "med-7b-00000003    running   ━────  23%"


def test_runs_beyond_the_screen_are_counted() -> None:
    found = shown(80, 10, [row(f"med-7b-{number:08x}") for number in range(1000)])

    assert found[-2] == "995 runs more"


@pytest.mark.parametrize("width", [1, 30, 80, 200])
@pytest.mark.parametrize("height", [1, 3, 30])
def test_a_screen_is_filled_and_never_exceeded(width: int, height: int) -> None:
    for rows in (ROWS, []):
        found = shown(width, height, rows)

        assert len(found) == height
        assert max(map(cell_len, found)) <= width


def test_a_run_that_cannot_be_read_is_not_shown_as_done() -> None:
    unreadable = RunView("med-7b-1", "unknown", "", {}, None, None, "plan.json: not JSON")
    found = shown(120, rows=[RunRow(unreadable, 1)])

    assert found[3].startswith("med-7b-1 unknown   ──────────   0%  plan.json: not JSON")
