"""``python -m jobs STAGE RUN_DIR INDEX``: run one rank of a task, also by hand; a task that has
finished runs again.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import traceback
from pathlib import Path

from jobs.contract.errors import FINISHED, STOPPED, Stopped, TaskError
from jobs.contract.job import node_name
from jobs.contract.stage_specs import STAGE_KINDS, STAGES
from jobs.runtime import heartbeat, nsys
from jobs.runtime.context import STOP_SIGNALS, Context, context_from
from jobs.runtime.offline import work_offline
from jobs.runtime.open_files import raise_soft_limit
from jobs.runtime.rank_exit import describe_error, write_rank_exit


def main(argv: list[str] | None = None) -> int:
    """Run one rank of one task and return its exit code (``jobs.contract.errors``)."""
    parser = argparse.ArgumentParser(prog="python -m jobs", description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("index", type=int)
    args = parser.parse_args(argv)
    work_offline()
    raise_soft_limit()
    try:
        context = context_from(args.run_dir, args.stage, args.index, os.environ)
    except TaskError as error:
        print(f"{args.stage} task {args.index} of {args.run_dir}: {error}", file=sys.stderr)
        return error.code
    nsys.start_again(context, os.environ, sys.argv[1:] if argv is None else argv)
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
    stage = importlib.import_module(STAGE_KINDS[context.task.stage].module)
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


if __name__ == "__main__":
    code = main()
    for number in STOP_SIGNALS:  # one that arrives now would replace the exit code
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)
