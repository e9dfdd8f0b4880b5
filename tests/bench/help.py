"""Seconds of ``meditron --help``, over those of importing click alone."""

from __future__ import annotations

import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

from tests.bench import Figure, environment, ratio, seconds_of, take_turns

ROUNDS = 25


def figures(rounds: int = ROUNDS) -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        run = partial(seconds_of, environ=environment(), folder=Path(folder))
        ask = partial(run, [*meditron(), "--help"])
        bare = partial(run, [sys.executable, "-c", "import click"])
        ask(), bare()  # bytecode is written now
        seconds = take_turns(rounds, help=ask, click=bare)
    middle = {name: statistics.median(values) * 1000 for name, values in seconds.items()}
    note = f"--help {middle['help']:.0f} ms, import click {middle['click']:.0f} ms"
    return [Figure("help_over_click", ratio(seconds["help"], seconds["click"]), "< 3", note)]


def meditron() -> list[str]:
    """Return the installed command, or ``python -m meditron_cli`` where there is none."""
    script = Path(sys.executable).with_name("meditron")
    return [str(script)] if script.exists() else [sys.executable, "-m", "meditron_cli"]
