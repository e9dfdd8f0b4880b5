"""Exit codes of ranks and supervisors, and the errors a stage raises. Standard library only."""

from __future__ import annotations

import errno

RESUME = "{meditron resume}"
"""The command that resumes the run, in a hint; ``RunDir.hint`` completes it."""

FINISHED = 0
"""The task is done."""

FAILED = 1
"""A crash, a failed save, a non-finite loss: another attempt may succeed."""

CONFIGURATION = 2
"""A person has to correct something; another attempt fails in the same way."""

UNHEALTHY = 5
"""A preflight check failed on this node."""

SUCCESSOR = 75
"""A requeued or resubmitted job continues the task (EX_TEMPFAIL of sysexits.h)."""

STOPPED = 130
"""A stop was requested and obeyed."""


ERRNO_HINTS = {
    errno.ENOSPC: f"free some space, then {RESUME}",
    errno.EDQUOT: f"free some space, then {RESUME}",
    errno.EFBIG: (
        "raise the limit of a file's size (`ulimit -f unlimited`, or the file system's own), then "
        f"{RESUME}"
    ),
    errno.EROFS: f"{RESUME} where the file system can be written to",
}
"""Hints about errors of the operating system, by errno."""


def errno_code(number: int) -> int:
    """Return the exit code for an error of the operating system, by its number: a limit on file
    sizes is there at the next attempt too.
    """
    return CONFIGURATION if number == errno.EFBIG else FAILED


class TaskError(Exception):
    """An error that ends a task, with one sentence (where, what, what instead) and a hint, which
    ``RunDir.hint`` completes.
    """

    def __init__(self, message: str, hint: str = "", code: int = CONFIGURATION) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code


class Stopped(Exception):
    """The end of a stage that saved its state on a stop request."""
