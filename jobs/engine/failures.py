"""The roots of errors that torch wraps, and errors of storage. No torch."""

from __future__ import annotations

import errno
import re
from typing import TypeVar

from jobs.contract.errors import TaskError

E = TypeVar("E", bound=BaseException)

_ERRNO = re.compile(r"\[Errno (\d+)\]")


class StorageError(TaskError):
    """A checkpoint that could not be written or read, for no fault of the checkpoint itself.

    The message has the kernel's name of the error: ``ENOSPC``.
    """


def root(error: BaseException, kind: type[E]) -> E | None:
    """Return the error of a kind at the root of one that torch wrapped; None if there is none."""
    current: BaseException | None = error
    while current is not None and not isinstance(current, kind):
        failures = getattr(current, "failures", {}).values()  # of torch's CheckpointException
        roots = [found for found in (root(failure, kind) for failure, *_ in failures) if found]
        current = roots[0] if roots else current.__cause__ or current.__context__
    return current


def error_numbers(reason: str) -> list[int]:
    """Return the kernel's numbers of the errors in a message."""
    return [int(number) for number in _ERRNO.findall(reason)]


def with_name(reason: str) -> str:
    """Turn ``[Errno 28] No space left`` into ``ENOSPC: No space left``."""
    return _ERRNO.sub(lambda match: f"{errno.errorcode.get(int(match[1]), match[0])}:", reason)
