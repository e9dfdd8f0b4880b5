"""Write why a rank ended, for the supervisor."""

from __future__ import annotations

import json
import os
import time
import traceback
from types import TracebackType

from jobs.contract.errors import ERRNO_HINTS, FAILED, errno_code
from jobs.contract.files import write_json
from jobs.contract.job import node_name
from jobs.runtime.context import Context
from jobs.runtime.log import log


def describe_error(error: Exception) -> tuple[int, str, str, str]:
    """Return exit code, kind, sentence and hint for an exception that no stage handles."""
    if isinstance(error, OSError) and error.errno is not None:
        where = f"{error.filename}: " if error.filename else ""
        hint = ERRNO_HINTS.get(error.errno, "{meditron logs} shows what came before")
        kind = type(error).__name__
        return errno_code(error.errno), kind, f"{where}{error.strerror}", hint
    kind = type(error).__name__
    first_line = next(iter(str(error).strip().splitlines()), "")
    message = f"{kind}: {first_line}" if first_line else kind
    return FAILED, kind, message, "{meditron logs} shows the traceback"


def write_rank_exit(
    context: Context,
    code: int,
    kind: str,
    message: str,
    hint: str,
    error: Exception | None = None,
) -> int:
    """Write this rank's exit record for the supervisor, log it, and return the exit code."""
    hint = context.run.hint(hint)
    message = printable(message)
    log(f"{context.task.stage}: {message}")
    if hint:
        log(f"hint: {hint}")
    record = {
        "code": code,
        "kind": kind,
        "message": message,
        "hint": hint,
        "frame": innermost_frame(error.__traceback__ if error else None),
        "errno": getattr(error, "errno", None),
        "rank": context.rank,
        "node": node_name(os.environ),
        "time": time.time(),
    }
    name = f"rank-exit-{context.task.index:05d}-{context.rank:05d}.json"
    folder = context.run.attempt(context.task.stage, context.attempt)
    try:
        write_json(folder / name, record)
    except OSError as problem:  # a full disk must not hide the message above
        log(json.dumps({**record, "unwritten": str(problem)}))
    return code


def printable(message: str) -> str:
    """Return a sentence in one line of UTF-8, whatever the name of a file in it."""
    return message.encode(errors="backslashreplace").decode().replace("\n", "\\n")


def innermost_frame(trace: TracebackType | None) -> str:
    """Return ``module:function`` of a traceback's innermost frame in ``jobs``; empty if none."""
    names = [
        f"{frame.f_globals.get('__name__', '')}:{frame.f_code.co_name}"
        for frame, _ in traceback.walk_tb(trace)
    ]
    return next((name for name in reversed(names) if name.startswith("jobs.")), "")
