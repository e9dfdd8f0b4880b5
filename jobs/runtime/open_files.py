"""The limit of open files of this process. Standard library only."""

from __future__ import annotations

import os
import resource

from jobs.contract.errors import TaskError

OTHER_FILES = 64
"""Files that a process opens beside those it counts."""


def raise_soft_limit() -> int:
    """Raise the soft limit of open files, often 1024, to the hard one, and return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def require_open_files(more: int, purpose: str, hint: str) -> None:
    """Let this process open some more files.

    Raises:
        TaskError: the hard limit is lower.
    """
    count = len(os.listdir("/dev/fd")) + more + OTHER_FILES
    limit = raise_soft_limit()
    if limit < count:
        raise TaskError(f"{purpose} needs {count} open files, and this node allows {limit}", hint)
