"""The table of rules in the documentation, and what the program does."""

from __future__ import annotations

import re
from pathlib import Path

from jobs.health.monitor import rules, xid_rules
from jobs.health.monitor.xid_events import XidEvent
from jobs.health.xid import XID

PAGE = (Path(__file__).parents[4] / "docs" / "monitoring.md").read_text()
OF_SUPERVISOR = {
    "driver_version",
    "straggler",
    "slow_steps",
    "slow_storage",
    "goodput",
    "rising_loss",
    "stalled_learning",
    "loss_spike",
    "restart_storm",
    "monitor_silent",
}


def test_every_code_has_a_row() -> None:
    section = PAGE.partition("## Rules")[2].partition("XID errors")[0]

    rows = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)

    assert sorted(rows) == sorted(rules.CODES | OF_SUPERVISOR)


def numbers(row: str) -> set[int]:
    text = row.partition(";")[0].partition(", and")[0]
    found = set(map(int, re.findall(r"\d+", text)))
    for first, last in re.findall(r"(\d+) to (\d+)", text):
        found |= set(range(int(first), int(last) + 1))
    return found


def test_every_xid_is_in_the_row_of_its_verdict() -> None:
    section = PAGE.partition("XID errors")[2].partition("## Hangs")[0]
    rows = re.findall(r"^\| (\d[^|]*) \| (\w+)", section, re.MULTILINE)
    documented = {number: verdict for text, verdict in rows for number in numbers(text)}

    actual = {}
    for number in XID:
        found = list(xid_rules.outcomes([XidEvent(0.0, 0, "", number)]))
        actual[number] = found[0].outcome.verdict.name if found else "none"

    assert documented == actual
