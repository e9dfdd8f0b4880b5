"""Check that a process runs the run's own copy of the code. Standard library only."""

from __future__ import annotations

from pathlib import Path

import jobs
from jobs.contract import rundir


def wrong_code(run: rundir.RunDir) -> str:
    """A sentence when this is not the run's own copy of the code; empty when it is.

    A folder named ``jobs`` in the working directory or an installed version would win silently
    otherwise.
    """
    here = Path(str(jobs.__file__)).resolve().parent.parent
    if here == run.code.resolve():
        return ""
    return f"the code in {here} was loaded instead of the run's own in {run.code}"
