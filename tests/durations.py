"""A pytest plugin: seconds per group of tests, shown at the end and merged into ``bench.json``.

A test belongs to the first group of ``BUDGETS`` whose marker it has, and to ``fast`` without any.
Its seconds are those of setup, call and teardown, so a shared fixture counts in the group of the
test that asks for it first. Only a whole group is recorded: one of which no test was deselected,
in a session that was given no paths and in which nothing failed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import pytest

from . import bench

FAST = "fast"
GATE_SECONDS = 1500
"""What CONTRIBUTING.md promises for the gate on two quiet cores."""
SESSIONS = (("slurm",), ("engine", "end_to_end"), (FAST,))
"""The groups of its three sessions at once (see ``side_by_side.py``), which share it."""
BUDGETS = {"full": 0, "slurm": 1100, "end_to_end": 420, "engine": 500, FAST: 1000}
"""Seconds per group of a gate on two cores, in the order in which markers decide; 0 is no budget:
the gate does not run the group. A slow machine took 1042 (without a test that waited in vain), 413,
426 and 993; one group after another on a quiet one took 617, 147, 204 and 628, a while ago.

More is a warning and no failure: on a loaded machine the seconds are another program's, and a
correct change must not fail for them.
"""


def group_of(markers: Iterable[str]) -> str:
    """Return the group of a test with these markers."""
    names = set(markers)
    return next((group for group in BUDGETS if group in names), FAST)


def figures(seconds: Mapping[str, float], partial: Iterable[str]) -> dict[str, float]:
    """Return the figures of ``bench.json`` for the groups that ran as a whole."""
    whole = {group: value for group, value in seconds.items() if group not in set(partial)}
    return {f"test_{group}_s": round(value, 1) for group, value in whole.items()}


def summary(seconds: Mapping[str, float]) -> list[str]:
    """Return one line per group that ran, with a warning where it took more than its budget."""
    lines = []
    for group in reversed(BUDGETS):
        if group in seconds:
            budget = BUDGETS[group]
            limit = f" of {budget} s" if budget else ""
            warning = " (warning: over budget)" if 0 < budget < seconds[group] else ""
            lines.append(f"{group}: {seconds[group]:.0f} s{limit}{warning}")
    return lines


class Durations:
    """The seconds of one session, by group."""

    def __init__(self, config: pytest.Config) -> None:
        self.given_paths = config.args_source is not pytest.Config.ArgsSource.TESTPATHS
        self.groups: dict[str, str] = {}
        self.partial: set[str] = set()
        self.seconds: Counter[str] = Counter()

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Note the group of each test before any is deselected."""
        for item in items:
            self.groups[item.nodeid] = group_of(mark.name for mark in item.iter_markers())

    def pytest_deselected(self, items: Iterable[pytest.Item]) -> None:
        """Note the groups that do not run as a whole."""
        self.partial |= {self.groups[item.nodeid] for item in items}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add up the seconds of setup, call and teardown."""
        self.seconds[self.groups[report.nodeid]] += report.duration

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Merge what ran as a whole into ``bench.json``."""
        if exitstatus == pytest.ExitCode.OK and not self.given_paths:
            bench.record(figures(self.seconds, self.partial))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show the seconds of each group."""
        lines = summary(self.seconds)
        if lines:
            terminalreporter.section("seconds per group of tests")
        for line in lines:
            terminalreporter.write_line(line)
