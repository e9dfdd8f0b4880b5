"""The screen of all runs. Pure: from their data to lines."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from rich.text import Text

from jobs.contract.units import plural
from meditron_cli.console import STYLES
from meditron_cli.reporting.live.drawing import (
    ASCII,
    UNICODE,
    Glyphs,
    Part,
    bar,
    flow,
    line,
    shortened,
)
from meditron_cli.reporting.live.layout import fitted
from meditron_cli.reporting.live.page import RunRow, RunsPage
from meditron_cli.reporting.live.run_screen import WIDE, footer
from meditron_cli.reporting.tables import duration
from meditron_cli.runs.state import PRECEDENCE

FULL = 100
"""Width from which a line has all its parts."""


def runs_screen(page: RunsPage, size: tuple[int, int], ascii_only: bool = False) -> list[Text]:
    """Return the lines of all runs, at most ``size`` in width and height: those that run or wait
    first, then the others, the newest first.
    """
    glyphs = ASCII if ascii_only else UNICODE
    width, height = size
    rows = sorted(page.rows, key=lambda row: (is_over(row), -row.changed))
    head = [heading(page, width), *flow(counts(page), width), line()]
    room = max(0, height - len(head) - 1)
    shown = rows if len(rows) <= room else rows[: max(0, room - 1)]
    names = min(max((len(row.view.name) for row in shown), default=0), name_width(width))
    lines = [run_line(row, names, width, glyphs) for row in shown]
    if len(shown) < len(rows):
        lines.append(line((f"{plural(len(rows) - len(shown), 'run')} more", "dim")))
    if not rows:
        lines.append(line("no runs"))
    blank = [line()] * max(0, height - 1 - len(head) - len(lines))
    foot = footer(page.asked, page.now, width)
    return fitted([*[*head, *lines, *blank][: max(0, height - 1)], foot], width, glyphs)


def is_over(row: RunRow) -> bool:
    """Return whether a run neither runs nor waits."""
    return row.view.state not in ("running", "pending", "unknown")


def heading(page: RunsPage, width: int) -> Text:
    """Return the first line: where the runs lie, and the time of day."""
    time = f"{datetime.fromtimestamp(page.now):%H:%M:%S}"
    text = line("runs in ", (page.root, "bold"))
    text.truncate(max(0, width - len(time) - 2), overflow="ellipsis", pad=True)
    return text.append(f"  {time}", "dim")


def counts(page: RunsPage) -> list[Text]:
    """Return the number of runs in each state."""
    found = Counter(row.view.state for row in page.rows)
    return [
        line((f"{found[state]} {state}", STYLES.get(state, "")))
        for state in PRECEDENCE
        if found[state]
    ]


def name_width(width: int) -> int:
    return width - 22 if width < WIDE else 24 if width < FULL else 40


def run_line(row: RunRow, names: int, width: int, glyphs: Glyphs) -> Text:
    """Return the line of a run: its first stage that has not succeeded, how far it is."""
    run = row.view
    stage = next((item for item in run.stages.values() if item.state != "succeeded"), None)
    done, total = stage.measure if stage else (1.0 if run.stages else 0.0, 1)
    share = min(done / total, 1.0) if total else 0.0
    style = STYLES.get(run.state, "")
    parts: list[Part] = [
        shortened(run.name, names, glyphs).ljust(names + 1),
        (run.state.ljust(10), style),
        *bar(share, 5 if width < WIDE else 10, style or "cyan", glyphs),
        f" {share:4.0%}",
    ]
    if width >= WIDE:
        left = duration(run.eta_s)
        loss = None if run.loss is None else f"loss {run.loss:.4g}"
        words = [
            stage.stage if stage else None,
            stage.amount if stage and width >= FULL else None,
            stage.pending_reason if stage else None,
            left,
            loss,
            run.problem,
        ]
        parts.append("  " + "  ".join(word for word in words if word))
    return line(*parts)
