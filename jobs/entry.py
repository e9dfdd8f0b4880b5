"""The callable handed to submitit. It carries four strings; everything else is in the run
directory.
"""

from __future__ import annotations

from pathlib import Path

import jobs
from jobs import rundir, runtime, supervisor


def run_task(run_dir: str, stage: str, index: str, attempt: str) -> None:
    """Run one task of a stage in this batch step, and leave with its exit code.

    Raises:
        SystemExit: the task did not finish; the code says why (``jobs.runtime``). submitit lets it
            pass, so that Slurm and its dependents see the truth.
    """
    run = rundir.RunDir(Path(run_dir))
    stray = wrong_code(run)
    if stray:
        code = supervisor.refuse(run, stage, int(index), int(attempt), stray)
    else:
        code = supervisor.supervise(run, stage, int(index), int(attempt))
    if code != runtime.FINISHED:
        raise SystemExit(code)


def wrong_code(run: rundir.RunDir) -> str:
    """A sentence when this is not the run's own copy of the code; empty when it is.

    A folder named ``jobs`` in the working directory or an installed version would win silently
    otherwise.
    """
    here = Path(str(jobs.__file__)).resolve().parent.parent
    if here == run.code.resolve():
        return ""
    return f"the code in {here} was loaded instead of the run's own in {run.code}"
