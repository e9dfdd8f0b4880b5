"""The loop of ``status --watch`` on a terminal."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from rich.text import Text

from jobs.contract.rundir import RunDir
from meditron_cli.reporting.live.run_screen import run_screen
from meditron_cli.reporting.live.runs_screen import runs_screen
from meditron_cli.reporting.live.terminal import ENDING, QUIT, Terminal
from meditron_cli.reporting.live.watched import WatchedRun, WatchedRuns
from meditron_cli.services import Services

READ_SECONDS = 2.0
"""Between two reads of the files."""
SHARE = 50
"""Times what a read and a drawing took until the next one: they take 2 % of the time at most, of a
core or of a slow file system."""
LONGEST_SECONDS = 60.0

Page = TypeVar("Page", covariant=True)
Shown = TypeVar("Shown")


class Screen(Protocol):
    """The place where lines are drawn: a ``Terminal``."""

    @property
    def size(self) -> tuple[int, int]:
        """Return width and height."""
        ...

    @property
    def ascii_only(self) -> bool:
        """Return whether it has no more than ASCII."""
        ...

    def draw(self, lines: Sequence[Text]) -> None:
        """Show lines in the place of those before."""
        ...

    def wait(self, seconds: float) -> int:
        """Wait; return the signal that came, ``QUIT``, or 0."""
        ...


class Watched(Protocol[Page]):
    """The source of pages, read again and again."""

    def read(self, now: float) -> Page:
        """Return the page as it is now."""
        ...


def watch_run(services: Services, run: RunDir) -> None:
    """Show a run until the view is left; Ctrl-C raises KeyboardInterrupt."""
    watch(services, WatchedRun(services, run), run_screen)


def watch_runs(services: Services, root: Path) -> None:
    """Show all runs until the view is left, in the same way."""
    watch(services, WatchedRuns(services, root), runs_screen)


def watch(
    services: Services,
    watched: Watched[Shown],
    draw: Callable[[Shown, tuple[int, int], bool], list[Text]],
) -> None:
    """Read and draw until a signal or a key ends it."""
    page = watched.read(services.clock.now())  # an error is printed where it stays
    while True:
        with Terminal() as terminal:
            received = show(services, watched, draw, terminal, page)
        if received == signal.SIGINT:
            raise KeyboardInterrupt
        if received in ENDING:
            sys.exit(128 + received)
        if received == QUIT:
            return
        os.kill(os.getpid(), signal.SIGTSTP)  # Ctrl-Z; `fg` continues here, and so does the
        # kernel at once where no shell could: SIGSTOP would leave such a terminal stuck.
        page = watched.read(services.clock.now())


def show(
    services: Services,
    watched: Watched[Shown],
    draw: Callable[[Shown, tuple[int, int], bool], list[Text]],
    terminal: Screen,
    page: Shown,
) -> int:
    """Read and draw on a terminal; return the signal that ends it, or ``QUIT``."""
    received = 0
    while received in (0, signal.SIGWINCH):
        began = time.monotonic()
        if received == 0:
            page = watched.read(services.clock.now())
        terminal.draw(draw(page, terminal.size, terminal.ascii_only))
        pause = READ_SECONDS + SHARE * (time.monotonic() - began)
        received = terminal.wait(min(pause, LONGEST_SECONDS))
    return received
