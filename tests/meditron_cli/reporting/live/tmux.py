"""A terminal for tests: a session of tmux on a server of its own, with a shell in it."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ....ranks import PATIENCE


class Tmux:
    """A shell in a terminal."""

    def __init__(self, folder: Path, environ: Mapping[str, str], width: int, height: int) -> None:
        self._socket = folder / "tmux"
        shell = ["env", *(f"{name}={value}" for name, value in environ.items()), "PS1=$ ", "bash",
                 "--norc", "--noprofile", "-i"]  # fmt: skip
        size = ("-x", str(width), "-y", str(height))
        self.command("-f", os.devnull, "new-session", "-d", *size, shlex.join(shell))

    def command(self, *words: str) -> str:
        """Run a command of tmux; return what it prints."""
        done = subprocess.run(
            ["tmux", "-u", "-S", str(self._socket), *words],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout

    def type(self, text: str) -> None:
        """Type a line into the terminal."""
        self.command("send-keys", "-l", text)
        self.press("Enter")

    def press(self, *keys: str) -> None:
        """Press keys by their names in tmux, as ``C-c``."""
        self.command("send-keys", *keys)

    def screen(self) -> str:
        """Return what the terminal shows."""
        return self.command("capture-pane", "-p")

    def history(self) -> str:
        """Return what the terminal shows and what has left it at the top."""
        return self.command("capture-pane", "-p", "-S", "-")

    def value(self, name: str) -> str:
        """Return a variable of the terminal, as ``alternate_on``."""
        return self.command("display-message", "-p", f"#{{{name}}}").strip()

    def wait_for(self, condition: Callable[[str], bool]) -> str:
        """Return the screen once it fulfils a condition."""
        deadline = time.monotonic() + PATIENCE
        while not condition(screen := self.screen()):
            assert time.monotonic() < deadline, screen
            time.sleep(0.05)
        return screen

    def wait_for_text(self, text: str) -> str:
        """Return the screen once it shows a text."""
        return self.wait_for(lambda screen: text in screen)

    def close(self) -> None:
        """End the server and what runs in it."""
        subprocess.run(
            ["tmux", "-S", str(self._socket), "kill-server"], capture_output=True, check=False
        )
