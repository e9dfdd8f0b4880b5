"""The benchmarks still run: each in its smallest form, whatever it measures in that."""

from __future__ import annotations

import importlib
from itertools import chain
from typing import Any

import pytest

from .bench import confidence, evaluate
from .bench.__main__ import GROUPS, main, subjects, wanted_subjects
from .bench._models import SMALL

SMALLEST = {
    "help": {"rounds": 1},
    "recovery": {"rounds": 1, "counts": (20,)},
    "report": {"steps": 200, "attempts": 3, "rounds": 1},
    "status": {"rounds": 1, "count": 101},
    "loop": {"rounds": 1, "saves": 1, "shards": ()},
    "heartbeat": {"rounds": 1},
    "monitor": {"seconds": 1.0, "interval": 0.2},
    "monitor_step": {"rounds": 1, "interval": 0.3},
    "plan": {},
    "curate": {"rounds": 1, "megabytes": 0.02},
    "memory": {"sizes": ((1, 1, 1),), "recompute": ("full",), "layers": 1},
    "resume": {"faults": ("killed", "exception")},
    "weights": {"rounds": 1, "spec": SMALL},
    "saves": {"rounds": 1, "settings": {}},
    "neardup": {"documents": 400},
    "corpus": {"rounds": 1, "megabytes": 0.02},
    "finetune": {"rounds": 1},
    "evaluate": {"rounds": 1, "size": evaluate.SMALLEST},
}
"""The other subjects type commands that the end-to-end tests type too."""
MARKS = {
    "loop": [pytest.mark.engine],
    "heartbeat": [pytest.mark.engine, pytest.mark.full],
    "monitor_step": [pytest.mark.engine, pytest.mark.full],
    "resume": [pytest.mark.engine, pytest.mark.full],
    "weights": [pytest.mark.engine, pytest.mark.full],
    "saves": [pytest.mark.engine, pytest.mark.full],
    "memory": [pytest.mark.engine, pytest.mark.full],
    "finetune": [pytest.mark.engine, pytest.mark.full],
    "evaluate": [pytest.mark.engine, pytest.mark.full],
}


@pytest.mark.parametrize("name", subjects())
def test_a_subject_can_be_loaded(name: str) -> None:
    assert callable(importlib.import_module(f"tests.bench.{name}").figures)


@pytest.mark.parametrize(
    ("name", "size"),
    [pytest.param(name, size, marks=MARKS.get(name, [])) for name, size in SMALLEST.items()],
)
def test_a_subject_answers_figures(name: str, size: dict[str, Any]) -> None:
    figures = importlib.import_module(f"tests.bench.{name}").figures(**size)

    assert figures
    assert all(figure.value > 0 for figure in figures)


def test_the_interval_of_a_median_has_the_ranks_of_published_tables() -> None:
    assert confidence(range(1, 101)) == (40, 61)
    assert confidence([3.0]) == (3.0, 3.0)


def test_an_unknown_subject_is_refused_with_the_known_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["hlep"]) == 2

    assert "no subject is called hlep; there are" in capsys.readouterr().err


def test_a_group_stands_for_its_subjects_in_order() -> None:
    assert wanted_subjects(["engine", "help"]) == ["loop", "saves", "memory", "plan", "help"]
    assert set(chain(*GROUPS.values())) <= set(subjects())
