"""Check that a process runs the run's own copy of the code, undamaged. Standard library only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jobs
from jobs.contract.files import read_small, sha256
from jobs.contract.rundir import RunDir


def wrong_code(run: RunDir) -> str:
    """Return a sentence when this is not the run's own copy of the code, or when the copy is
    damaged; an empty text otherwise.

    A folder named ``jobs`` in the working directory or an installed version would win silently
    otherwise. A file system that failed may have lost the content of files.
    """
    here = Path(str(jobs.__file__)).resolve().parent.parent
    if here != run.code.resolve():
        return f"the code in {here} was loaded instead of the run's own in {run.code}"
    damaged = damaged_files(run)
    if not damaged:
        return ""
    return f"{damage_sentence(run, damaged)}; `{run.command('resume')}` restores it"


def damage_sentence(run: RunDir, damaged: list[str]) -> str:
    """Return the sentence that names damaged files of the run's code."""
    more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
    return f"the run's code in {run.code} is damaged: {damaged[0]}{more}"


def damaged_files(run: RunDir) -> list[str]:
    """Return the files of the run's code that are missing or differ from ``code.json``."""
    return [
        item["path"]
        for item in read_small(run.code_record).get("files", ())
        if not is_intact(run.code / item["path"], item)
    ]


def is_intact(path: Path, item: dict[str, Any]) -> bool:
    """Return whether a file has the size and the SHA-256 that ``code.json`` records."""
    try:
        return (path.stat().st_size, sha256(path)) == (item["bytes"], item["sha256"])
    except OSError:
        return False
