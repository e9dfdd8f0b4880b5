"""Progress files of running tasks, as rank 0 writes them."""

from __future__ import annotations

from typing import Any

from jobs.contract.files import write_json
from jobs.contract.json_fields import to_fields
from jobs.contract.progress_record import ProgressRecord
from jobs.contract.rundir import RunDir


def progress(**fields: Any) -> ProgressRecord:
    """Return the progress of a task's first attempt, halfway unless the fields differ."""
    values = {"time": 0.0, "attempt": 1, "done": 1.0, "total": 2.0, "unit": "steps", **fields}
    return ProgressRecord(**values)


def write_progress(run: RunDir, stage: str, **fields: Any) -> None:
    """Write the progress file of a stage's first task."""
    write_json(run.progress(stage, 0), to_fields(progress(**fields)))
