"""The terminal of a full-screen view: taken over, drawn on, and given back as it was."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from types import FrameType

from rich.console import Console, ConsoleDimensions, Group
from rich.live import Live
from rich.text import Text

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
SIGNALS = (signal.SIGINT, *ENDING, signal.SIGTSTP, signal.SIGWINCH)
"""Signals that the view waits for; ``q`` and the end of the input count as ``QUIT``."""
QUIT = -1
ASCII_TERMINALS = ("linux", "vt100", "vt102", "vt220")
"""Consoles without braille characters and blocks."""


class Terminal:
    """A terminal while a view fills it: the alternate screen, without cursor and echo.

    Signals do not interrupt the program: ``wait`` returns them, so that nothing can come between
    the view and the restoration of the terminal.
    """

    def __init__(self) -> None:
        self._console = Console(
            file=sys.stdout, force_terminal=True, highlight=False, soft_wrap=False
        )
        self._stack = ExitStack()

    def __enter__(self) -> Terminal:
        with ExitStack() as stack:
            self._pipe = os.pipe()
            for descriptor in self._pipe:
                stack.callback(os.close, descriptor)
                os.set_blocking(descriptor, False)
            for number in SIGNALS:
                if signal.getsignal(number) is signal.SIG_IGN:
                    continue  # as ``nohup`` has it
                stack.callback(signal.signal, number, signal.signal(number, _note))
            before = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
            stack.callback(signal.set_wakeup_fd, before)
            self._sources = [self._pipe[0]]
            if sys.stdin and sys.stdin.isatty():
                self._take_keys(stack)
            self._live = Live(
                console=self._console,
                screen=True,
                auto_refresh=False,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            stack.enter_context(self._live)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _take_keys(self, stack: ExitStack) -> None:
        """Read keys as they are pressed, unseen."""
        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
        stack.callback(termios.tcsetattr, descriptor, termios.TCSAFLUSH, before)
        tty.setcbreak(descriptor)
        self._sources.append(descriptor)

    @property
    def size(self) -> tuple[int, int]:
        """Return width and height as they are now."""
        with suppress(OSError):
            found = os.get_terminal_size(sys.stdout.fileno())
            if found.columns and found.lines:
                self._console.size = ConsoleDimensions(*found)
        return self._console.width, self._console.height

    @property
    def ascii_only(self) -> bool:
        """Return whether the terminal's encoding, or its font, has no more than ASCII."""
        return self._console.options.ascii_only or os.environ.get("TERM", "") in ASCII_TERMINALS

    def draw(self, lines: Sequence[Text]) -> None:
        """Show the lines of a screen in the place of those before."""
        self._live.update(Group(*lines), refresh=True)

    def wait(self, seconds: float) -> int:
        """Wait for a signal, a key that leaves, or so many seconds; return the signal, ``QUIT``,
        or 0.
        """
        deadline = time.monotonic() + seconds
        while True:
            left = max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select(self._sources, [], [], left)
            if self._pipe[0] in ready:
                received = os.read(self._pipe[0], 512)
                return next(number for number in (*SIGNALS, 0) if number in received or not number)
            if not ready:
                return 0
            try:
                keys = os.read(ready[0], 512)
            except OSError:  # the terminal is gone
                return QUIT
            if not keys or b"q" in keys or b"Q" in keys:
                return QUIT


def _note(number: int, frame: FrameType | None) -> None:
    """Do nothing: the number is in the pipe of ``set_wakeup_fd``."""
