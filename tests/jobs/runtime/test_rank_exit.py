"""The exit record of a rank: code, kind, sentence and hint of an exception."""

from __future__ import annotations

import errno

import pytest

from jobs.runtime.rank_exit import describe_error

SEE_LOG = "{meditron logs} shows the traceback"


@pytest.mark.parametrize(
    ("error", "message", "hint"),
    [
        (RuntimeError("NCCL error\nin line 7"), "RuntimeError: NCCL error", SEE_LOG),
        (MemoryError(), "MemoryError", SEE_LOG),
        (KeyError("text"), "KeyError: 'text'", SEE_LOG),
        (
            OSError(errno.ENOSPC, "No space left on device", "/runs/a"),
            "/runs/a: No space left on device",
            "free some space, then {meditron resume}",
        ),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded"),
            "Disk quota exceeded",
            "free some space, then {meditron resume}",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/runs/a"),
            "/runs/a: Permission denied",
            "{meditron logs} shows what came before",
        ),
        (OSError("no number"), "OSError: no number", SEE_LOG),
    ],
)
def test_an_unexpected_exception_is_one_sentence(error: Exception, message: str, hint: str) -> None:
    assert describe_error(error) == (1, type(error).__name__, message, hint)
