"""Exit codes of ranks and supervisors, and the errors a stage raises. Standard library only."""

from __future__ import annotations

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


class TaskError(Exception):
    """An error that ends a task, with one sentence (where, what, what instead) and a hint."""

    def __init__(self, message: str, hint: str = "", code: int = CONFIGURATION) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code


class Stopped(Exception):
    """The end of a stage that saved its state on a stop request."""
