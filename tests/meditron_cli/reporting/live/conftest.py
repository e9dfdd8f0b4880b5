"""A terminal with the command line in it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ....conftest import Bench
from ....system import require_program
from .tmux import Tmux

REPOSITORY = Path(__file__).parents[4]


@pytest.fixture
def terminal(meditron: Bench, tmp_path: Path) -> Iterator[Callable[..., Tmux]]:
    """Yield a function that opens a terminal of a width and height, in which ``meditron`` works on
    the runs of the test.
    """
    require_program("tmux")
    opened: list[Tmux] = []

    def open_terminal(width: int = 80, height: int = 24, **more: str) -> Tmux:
        environ = {
            "MEDITRON_RUNS": str(meditron.runs),
            "PYTHONPATH": str(REPOSITORY),
            "PYTHON": sys.executable,
            "LC_ALL": "C.UTF-8",
            "TERM": "screen-256color",
            **more,
        }
        opened.append(Tmux(tmp_path, environ, width, height))
        return opened[-1]

    yield open_terminal
    for item in opened:
        item.close()
