"""``python -m jobs STAGE RUN_DIR INDEX``: run one rank of a task, also by hand."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from types import TracebackType

from jobs.contract.errors import (
    ERRNO_HINTS,
    FAILED,
    FINISHED,
    STOPPED,
    Stopped,
    TaskError,
    errno_code,
)
from jobs.contract.files import write_json
from jobs.contract.job import node_name
from jobs.contract.stage_specs import STAGES
from jobs.runtime import heartbeat
from jobs.runtime.context import STOP_SIGNALS, Context, context_from
from jobs.runtime.log import log

MODULES = {
    "curate": "jobs.stages.curate",
    "tokenize": "jobs.stages.tokenize_corpus",
    "pretrain": "jobs.stages.pretrain",
    "evaluate": "jobs.stages.evaluate",
}


def main(argv: list[str] | None = None) -> int:
    """Run one rank of one task and return its exit code (``jobs.contract.errors``)."""
    parser = argparse.ArgumentParser(prog="python -m jobs", description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("index", type=int)
    args = parser.parse_args(argv)
    try:
        context = context_from(args.run_dir, args.stage, args.index, os.environ)
    except TaskError as error:
        print(f"{args.stage} task {args.index} of {args.run_dir}: {error}", file=sys.stderr)
        return error.code
    context.stop.install()
    open_heartbeat(context)
    return run_stage(context)


def open_heartbeat(context: Context) -> None:
    """Open the rank's heartbeat file; without it the supervisor has only the progress file."""
    task = context.task
    node = node_name(os.environ)
    name = heartbeat.label(context.run, task.stage, task.index, context.attempt, node)
    try:
        context.heart.open(name, context.rank, heartbeat.folders(os.environ))
    except OSError as error:
        print(f"{task.stage}: no heartbeats, {error}", file=sys.stderr)


def run_stage(context: Context) -> int:
    """Run this rank's part of the stage and return its exit code."""
    stage = importlib.import_module(MODULES[context.task.stage])
    try:
        stage.run(context)
    except Stopped as stopped:
        return write_rank_exit(context, STOPPED, "Stopped", str(stopped), "")
    except TaskError as error:
        kind = type(error).__name__
        return write_rank_exit(context, error.code, kind, error.message, error.hint, error)
    except Exception as error:  # the only place: every failure of a rank gets a record
        traceback.print_exc()
        return write_rank_exit(context, *describe_error(error), error)
    return FINISHED


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
        "node": os.environ.get("SLURMD_NODENAME", os.uname().nodename),
        "time": time.time(),
    }
    name = f"rank-exit-{context.task.index:05d}-{context.rank:05d}.json"
    folder = context.run.attempt(context.task.stage, context.attempt)
    try:
        write_json(folder / name, record)
    except OSError as problem:  # a full disk must not hide the message above
        log(json.dumps({**record, "unwritten": str(problem)}))
    return code


def innermost_frame(trace: TracebackType | None) -> str:
    """Return ``module:function`` of a traceback's innermost frame in ``jobs``; empty if none."""
    names = [
        f"{frame.f_globals.get('__name__', '')}:{frame.f_code.co_name}"
        for frame, _ in traceback.walk_tb(trace)
    ]
    return next((name for name in reversed(names) if name.startswith("jobs.")), "")


if __name__ == "__main__":
    code = main()
    for number in STOP_SIGNALS:  # one that arrives now would replace the exit code
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)
