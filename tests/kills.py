"""Kill a process just before one of its steps: SIGKILL, so that nothing is cleaned up."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

WRITING = os.O_WRONLY | os.O_RDWR
EVENTS = ("subprocess.Popen", "os.rename")
"""Steps, beside opening a file to write: audit events of Python."""


def kill_before_step(
    number: int,
    act: Callable[[], object],
    is_step: Callable[[str], bool] = lambda name: True,
    interrupt: bool = False,
) -> bool:
    """Do something in a child process that is killed just before its n-th step; return whether it
    had so many.

    Args:
        is_step: decides about a file opened to write, or a program, by its name.
        interrupt: raise KeyboardInterrupt there, as Ctrl-C does, instead of SIGKILL.
    """
    child = os.fork()
    if child == 0:
        left = number

        def count(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            writes = event == "open" and int(str(arguments[2])) & WRITING
            if (writes or event in EVENTS) and is_step(str(arguments[0])):
                left -= 1
                if left == 0 and interrupt:
                    raise KeyboardInterrupt
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            act()
        finally:
            os._exit(int(left <= 0))
    return os.waitpid(child, 0)[1] != 0
