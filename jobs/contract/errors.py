"""Exit codes of ranks and supervisors, and the errors a stage raises. Standard library only."""

from __future__ import annotations

FINISHED = 0


FAILED = 1


CONFIGURATION = 2


UNHEALTHY = 5


SUCCESSOR = 75


STOPPED = 130


class TaskError(Exception):
    """A stage cannot go on. One sentence for people: where, what, what instead; then a hint."""

    def __init__(self, message: str, hint: str = "", code: int = CONFIGURATION) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code


class Stopped(Exception):
    """The stage saved what it had and left because it was asked to."""
