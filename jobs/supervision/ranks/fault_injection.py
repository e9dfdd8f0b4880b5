"""``python -m jobs.supervision.ranks.fault_injection RUN_DIR {kill,freeze} RANK``: kill or freeze a
rank of training on this node.

``meditron drill`` runs it once on every node of a job; the node of the rank prints its name, the
others print nothing. Standard library only.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from jobs.contract import attempt_history, rundir
from jobs.contract.job import node_name
from jobs.contract.stage_specs import TRAINING_STAGES
from jobs.runtime import heartbeat, processes

SIGNALS = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP}


def main(argv: list[str] | None = None) -> int:
    """Send the signal to the rank if it is on this node, and print the node's name."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.supervision.ranks.fault_injection", description=__doc__
    )
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("word", choices=SIGNALS)
    parser.add_argument("rank", type=int)
    args = parser.parse_args(argv)
    if strike(rundir.RunDir(args.run_dir.resolve()), SIGNALS[args.word], args.rank, os.environ):
        print(node_name(os.environ))
    return 0


def strike(
    run: rundir.RunDir, number: signal.Signals, rank: int, environ: Mapping[str, str]
) -> bool:
    """Send a signal to a rank of the running attempt; return whether it is on this node.

    Raises:
        PermissionError: the process belongs to another user.
    """
    history = attempt_history.read(run)
    tasks = (task for stage in TRAINING_STAGES for task in history.tasks(stage).values())
    start = next((task.open for task in tasks if task.open), None)
    if start is None:
        return False
    found = heartbeat.find(run, start.stage, start.index, start.attempt, environ=environ)
    beat = found.get(rank)
    process = processes.read(beat.pid) if beat else None
    if beat is None or process is None or process.started != beat.started:
        return False
    os.kill(beat.pid, number)
    return True


if __name__ == "__main__":
    sys.exit(main())
