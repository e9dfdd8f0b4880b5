"""The callable that submitit runs on the node. Its arguments are four strings; everything else is
in the run directory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from jobs.contract import done_markers, specs
from jobs.contract.code_check import wrong_code
from jobs.contract.errors import FINISHED
from jobs.contract.rundir import RunDir
from jobs.runtime.log import log
from jobs.supervision import supervisor


def run_task(run_dir: str, stage: str, indices: str, attempt: str) -> None:
    """Run one task of a stage in this batch step, and exit with its code.

    Args:
        indices: the task's index; of an array, the indices of its elements, with commas between.

    Raises:
        SystemExit: always, with a code of ``jobs.contract.errors``. submitit does not catch it, so
            that Slurm and dependent jobs receive the code, and no result file is written.
    """
    run, number, first = RunDir(Path(run_dir)), own_index(indices, os.environ), int(attempt)
    problem = wrong_code(run)
    if problem:
        code = supervisor.refuse(run, stage, number, first, problem)
    elif is_finished(run, stage, number):
        log(f"{stage} task {number} has finished already")
        code = FINISHED
    else:
        code = supervisor.supervise(run, stage, number, first)
    raise SystemExit(code)


def own_index(indices: str, environ: Mapping[str, str]) -> int:
    """Return the index of this element's task, by its number in the array (sbatch(1)); submitit
    numbers elements from 0.
    """
    numbers = [int(index) for index in indices.split(",")]
    return numbers[int(environ["SLURM_ARRAY_TASK_ID"])] if len(numbers) > 1 else numbers[0]


def is_finished(run: RunDir, stage: str, index: int) -> bool:
    """Return whether a task is done: Slurm also requeues jobs that have finished, as when their
    node fails in the last moment or by ``scontrol requeue``.
    """
    task = specs.read_task(run, stage, index)
    if task is None:
        return False
    return done_markers.is_done(run, stage, index, specs.digest(task.spec))
