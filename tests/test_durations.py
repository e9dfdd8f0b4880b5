"""The seconds per group of tests that a session records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from . import bench
from .durations import BUDGETS, GATE_SECONDS, SESSIONS, figures, group_of, summary


@pytest.mark.parametrize(
    ("markers", "group"),
    [
        ((), "fast"),
        (("parametrize", "timeout"), "fast"),
        (("engine",), "engine"),
        (("engine", "end_to_end"), "end_to_end"),
        (("parametrize", "slurm"), "slurm"),
        (("slurm", "full"), "full"),
    ],
)
def test_a_test_belongs_to_the_group_of_its_most_expensive_marker(
    markers: tuple[str, ...], group: str
) -> None:
    assert group_of(markers) == group


def test_groups_with_deselected_tests_have_no_figure() -> None:
    assert figures({"fast": 61.04, "slurm": 900.0}, {"slurm"}) == {"test_fast_s": 61.0}


def test_a_group_over_its_budget_is_a_warning_in_the_summary() -> None:
    assert summary({"slurm": 1101.0, "full": 4000.0, "fast": 61.2}) == [
        "fast: 61 s of 1000 s",
        "slurm: 1101 s of 1100 s (warning: over budget)",
        "full: 4000 s",
    ]


def test_the_budgets_keep_the_promise_about_the_gate() -> None:
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()

    assert f"the gate, under {GATE_SECONDS // 60} minutes on two cores" in text
    assert {group for groups in SESSIONS for group in groups} == BUDGETS.keys() - {"full"}
    assert all(sum(BUDGETS[group] for group in groups) <= GATE_SECONDS for groups in SESSIONS)


def test_figures_are_merged_into_those_of_other_commands(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"

    bench.record({"status_1000_runs_s": 1.5, "test_fast_s": 80.0}, path)
    bench.record({"test_fast_s": 61.0}, path)
    bench.record({}, path)

    assert json.loads(path.read_text()) == {
        "format": 1,
        "figures": {"status_1000_runs_s": 1.5, "test_fast_s": 61.0},
    }
