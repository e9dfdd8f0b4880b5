"""The callable that submitit runs on the node. Its arguments are four strings; everything else is
in the run directory.
"""

from __future__ import annotations

from pathlib import Path

from jobs.contract import done_markers, specs
from jobs.contract.code_check import wrong_code
from jobs.contract.errors import FINISHED
from jobs.contract.rundir import RunDir
from jobs.runtime.log import log
from jobs.supervision import supervisor


def run_task(run_dir: str, stage: str, index: str, attempt: str) -> None:
    """Run one task of a stage in this batch step, and exit with its code.

    Raises:
        SystemExit: always, with a code of ``jobs.contract.errors``. submitit does not catch it, so
            that Slurm and dependent jobs receive the code, and no result file is written.
    """
    run, number, first = RunDir(Path(run_dir)), int(index), int(attempt)
    stray = wrong_code(run)
    if stray:
        code = supervisor.refuse(run, stage, number, first, stray)
    elif is_finished(run, stage, number):
        log(f"{stage} task {number} has finished already")
        code = FINISHED
    else:
        code = supervisor.supervise(run, stage, number, first)
    raise SystemExit(code)


def is_finished(run: RunDir, stage: str, index: int) -> bool:
    """Return whether a task is done: Slurm also requeues jobs that have finished, as when their
    node fails in the last moment or by ``scontrol requeue``.
    """
    task = specs.read_task(run, stage, index)
    if task is None:
        return False
    return done_markers.is_done(run, stage, index, specs.digest(task.spec))
