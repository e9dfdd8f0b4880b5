"""Readers of a run's files for the live view: each line of events and metrics is read once, other
files when they have changed.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from jobs.contract.files import read_small
from jobs.contract.metrics_log import (
    CountedSteps,
    MetricLine,
    PeriodLine,
    StepLine,
    ValidationLine,
)
from jobs.contract.rundir import RunDir
from jobs.health.monitor import records
from meditron_cli.reporting import speed
from meditron_cli.reporting.attempts import Attempt
from meditron_cli.reporting.live.drawing import clean
from meditron_cli.reporting.live.page import Curve, LogEnd, NodeReading
from meditron_cli.reporting.log_filter import LogFilter
from meditron_cli.reporting.speed import Speed

TAIL_BYTES = 16 * 1024
LOG_LINES = 40
LIST_SECONDS = 15.0
"""Between two looks for logs: the folder of an attempt may hold thousands of files."""
LOGS = 16
"""Newest logs of an attempt that are looked at between two such looks."""
NODES = 256
"""Nodes whose reports are read at most."""


class Due:
    """A time at which something has to be done again."""

    def __init__(self) -> None:
        self._since = self.at = 0.0

    def set(self, now: float, seconds: float) -> None:
        """Have it done after so many seconds."""
        self._since, self.at = now, now + seconds

    def is_reached(self, now: float, early: float = 0.0) -> bool:
        """Return whether its time has come, so many seconds early, or the clock was set back."""
        return not self._since <= now < self.at - early


class CurveReader:
    """The curve of a training's metric lines, which grow."""

    def __init__(self) -> None:
        self._read = 0
        self._steps: list[int] = []
        self._losses: list[float] = []
        self._validation: ValidationLine | None = None
        self._period: PeriodLine | None = None
        self.newest: StepLine | None = None

    def add(self, lines: Sequence[MetricLine]) -> None:
        """Add the lines behind those of the last call. A step that is trained again replaces its
        first line and the lines of all later steps.
        """
        for line in lines[self._read :]:
            if isinstance(line, StepLine):
                while self._steps and self._steps[-1] >= line.step:
                    self._steps.pop()
                    self._losses.pop()
                self._steps.append(line.step)
                self._losses.append(line.loss)
                self.newest = line
            elif isinstance(line, ValidationLine):
                self._validation = line
            elif isinstance(line, PeriodLine):
                self._period = line
        self._read = len(lines)

    @property
    def curve(self) -> Curve | None:
        """Return the curve; None before the first step."""
        found = self._validation
        if not self._steps:
            return None
        return Curve(self._steps, self._losses, (found.step, found.loss) if found else None)

    @property
    def speed(self) -> Speed | None:
        """Return the speed in the newest period; None before the first."""
        return speed.newest(CountedSteps([], [], [self._period], [])) if self._period else None


class ReportReader:
    """The newest reports of node monitors."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._known: dict[Path, tuple[int, NodeReading | None]] = {}

    def read(self, attempts: Iterable[Attempt]) -> list[NodeReading]:
        """Return what the reports of some attempts have of GPUs; a report that is missing or
        damaged is left out.
        """
        nodes = {
            records.report_path(
                self._run.attempt(attempt.stage, attempt.number), attempt.index, node
            ): node
            for attempt in attempts
            for node in attempt.nodes
        }
        newest = list(nodes.items())[:NODES]
        self._known = {path: self._reading(path, node) for path, node in newest}
        found = (reading for _, reading in self._known.values())
        return [reading for reading in found if reading and reading.gpus]

    def _reading(self, path: Path, node: str) -> tuple[int, NodeReading | None]:
        changed, known = modified(path), self._known.get(path)
        if known is not None and known[0] == changed:
            return known
        report = read_small(path) if changed else {}
        return changed, NodeReading.of_report(report) if records.is_report(report, node) else None


class LogReader:
    """The end of the log that an attempt wrote last."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._attempt: Attempt | None = None
        self._list_due = Due()
        self._paths: list[Path] = []
        self._known: list[tuple[int, int, Path]] = []
        self._end: LogEnd | None = None

    def read(self, attempt: Attempt, now: float) -> LogEnd | None:
        """Return the newest lines of an attempt; None where it has written none."""
        if attempt != self._attempt or self._list_due.is_reached(now):
            self._attempt = attempt
            self._list_due.set(now, LIST_SECONDS)
            self._paths = sorted(self._list(attempt), key=modified, reverse=True)[:LOGS]
        written = sorted(((*mark(path), path) for path in self._paths), reverse=True)
        if self._known != written:
            self._known, ends = (
                written,
                ((path, tail(path)) for changed, _, path in written if changed),
            )
            self._end = next(
                (
                    LogEnd(str(path.relative_to(self._run.root)), lines)
                    for path, lines in ends
                    if lines
                ),
                None,
            )
        return self._end

    def _list(self, attempt: Attempt) -> list[Path]:
        folder = self._run.attempt(attempt.stage, attempt.number)
        is_local = ":" in attempt.job_id  # its logs have names of processes
        job = "*" if is_local else f"{glob.escape(attempt.job_id)}_*"
        paths = [folder / f"ranks-{attempt.index:05d}.log"]
        with suppress(OSError):
            paths += folder.glob(f"{job}.out")
        return paths


def tail(path: Path) -> tuple[str, ...]:
    """Return the newest lines of a log; none where it cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ()
    whole = text if size <= TAIL_BYTES else text.partition("\n")[2] or text
    lines = map(clean, LogFilter().keep(whole).split("\n"))
    return tuple(line for line in lines if line.strip())[-LOG_LINES:]


def modified(path: Path) -> int:
    """Return when a file was written last, in nanoseconds; 0 where there is none."""
    return mark(path)[0]


def mark(path: Path) -> tuple[int, int]:
    """Return when a file was written last, and its size: a file system may keep one time for all
    that is written within some milliseconds.
    """
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size
