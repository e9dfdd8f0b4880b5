"""Check that a process runs the run's own copy of the code, undamaged. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jobs
from jobs.contract.files import read_small, sha256
from jobs.contract.json_fields import from_fields
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
        name for name, item in recorded_files(run).items() if not is_intact(run.code / name, item)
    ]


@dataclass(frozen=True)
class CodeFile:
    """A file of the run's code, as ``code.json`` records it."""

    path: str
    bytes: int
    sha256: str


def recorded_files(run: RunDir) -> dict[str, CodeFile]:
    """Return the files that ``code.json`` lists, by path; none where it is missing or damaged."""
    try:
        files = [from_fields(CodeFile, item) for item in read_small(run.code_record)["files"]]
    except (LookupError, TypeError, ValueError):
        return {}
    return {item.path: item for item in files}


def is_intact(path: Path, item: CodeFile) -> bool:
    """Return whether a file has the size and the SHA-256 that ``code.json`` records."""
    try:
        return (path.stat().st_size, sha256(path)) == (item.bytes, item.sha256)
    except OSError:
        return False
