"""Log from a job's processes. Standard library only."""

from __future__ import annotations

import sys
from contextlib import suppress


def log(text: str) -> None:
    """Print a line to stderr, which is the job's log and may be on a disk that is full."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)
