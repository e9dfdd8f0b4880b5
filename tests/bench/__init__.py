"""Benchmarks, one module per subject: ``python -m tests.bench [SUBJECT …]``.

A subject's ``figures()`` measures and returns figures; nothing asserts. Figures are medians, and
ratios come from runs that take turns, since the machine may be busy with something else.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Figure:
    """One number of ``bench.json``."""

    name: str
    value: float
    aim: str = ""
    """The target, for readers."""
    note: str = ""
    """The quantity that was measured, with spread or parts where they help."""


def record(figures: Mapping[str, float], path: Path = REPOSITORY / "bench.json") -> None:
    """Merge figures into ``bench.json``: `make bench` and the sessions of `make test` write
    different ones.
    """
    if not figures:
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        before = json.loads(path.read_text())["figures"] if path.exists() else {}
        content = {"format": 1, "figures": {**before, **figures}}
        part = path.with_name(f".{path.name}.part")
        part.write_text(json.dumps(content, indent=1) + "\n")
        part.replace(path)
    finally:
        os.close(folder)


def take_turns(rounds: int, **sides: Callable[[], float]) -> dict[str, list[float]]:
    """Return the seconds of each side, one per round; the order of the sides alternates."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: 1 if number % 2 == 0 else -1]:
            found[name].append(sides[name]())
    return found


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Return the median ratio of two sides, round by round."""
    return statistics.median(ratios(over, under))


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Return the ratio of two sides in each round."""
    return [a / b for a, b in zip(over, under, strict=True)]


def confidence(values: Sequence[float]) -> tuple[float, float]:
    """Return an interval that holds the median of what was sampled with a probability of 95 %,
    whatever its distribution: the values whose ranks lie 1.96 standard deviations of a binomial
    around the middle (Conover, Practical Nonparametric Statistics, section 3.2).
    """
    ordered, count = sorted(values), len(values)
    away = 1.96 * math.sqrt(count) / 2
    lowest = max(0, math.floor(count / 2 - away) - 1)
    highest = min(count - 1, math.ceil(count / 2 + away))
    return ordered[lowest], ordered[highest]


def seconds_of(command: Sequence[str], environ: Mapping[str, str], folder: Path) -> float:
    """Return the seconds of a command from start to end; its output is discarded.

    Raises:
        RuntimeError: it failed, and measured nothing.
    """
    started = time.perf_counter()
    done = subprocess.run(command, env=environ, cwd=folder, capture_output=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode()}")
    return seconds


def children_cpu_seconds() -> float:
    """Return the processor time of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment with our packages importable from any folder."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), **more}
