"""Remove records that a finished task no longer needs: thousands of short tasks would use up
inodes. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from jobs.contract import specs
from jobs.contract.files import read_small
from jobs.supervision.attempt_records import AttemptRef


def after_success(attempt: AttemptRef, task: specs.TaskSpec) -> None:
    """Remove the records without information of a finished task's last attempt.

    Its events, its done marker and its logs stay. A training keeps everything.
    """
    if task.training is not None:
        return
    for path in needless(attempt):
        with suppress(OSError):
            path.unlink(missing_ok=True)


def needless(attempt: AttemptRef) -> Iterator[Path]:
    """Yield an empty log of srun, health reports without a warning, the claim of the attempt's
    number, and the progress of the task.
    """
    yield attempt.run.progress(attempt.stage, attempt.index)
    yield attempt.folder / f"claim-{attempt.index:05d}"
    with suppress(OSError):
        if attempt.srun_log.stat().st_size == 0:
            yield attempt.srun_log
    for path in attempt.folder.glob(f"health-{attempt.index:05d}-*.json"):
        if read_small(path).get("verdict") in ("OK", "UNKNOWN"):
            yield path
