"""The callable handed to submitit. It carries four strings; everything else is in the run
directory.
"""

from __future__ import annotations

from pathlib import Path

from jobs.contract import rundir
from jobs.contract.code_check import wrong_code
from jobs.contract.errors import FINISHED
from jobs.supervision import supervisor


def run_task(run_dir: str, stage: str, index: str, attempt: str) -> None:
    """Run one task of a stage in this batch step, and leave with its exit code.

    Raises:
        SystemExit: the task did not finish; the code says why (``jobs.runtime.context``). submitit
        lets it
            pass, so that Slurm and its dependents see the truth.
    """
    run = rundir.RunDir(Path(run_dir))
    stray = wrong_code(run)
    if stray:
        code = supervisor.refuse(run, stage, int(index), int(attempt), stray)
    else:
        code = supervisor.supervise(run, stage, int(index), int(attempt))
    if code != FINISHED:
        raise SystemExit(code)
