"""Read what quotas leave a user on a folder's file system. Standard library only.

``lfs quota`` reports Lustre's quotas, ``quota`` those of local disks and of NFS servers. Both end a
line with the same eight columns (lfs-quota(1), quota(1)): KiB in use, soft limit, hard limit and
grace, and the same four for files. statvfs(3) does not know quotas.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from jobs.runtime import subprocesses

TIMEOUT_SECONDS = 20.0
"""Limit of each of the ``commands``."""
COLUMNS = 8


@dataclass(frozen=True)
class QuotaLeft:
    """Bytes and files left until the nearest limit; None without a limit."""

    bytes: int | None = None
    files: int | None = None


def read(folder: Path, seconds: float = TIMEOUT_SECONDS) -> QuotaLeft | None:
    """Return what the quotas of this user and of the folder's group leave.

    None when no tool reports a quota within ``seconds`` each.
    """
    queried = (query(command, seconds) for command in commands(folder))
    outputs = [text for text in queried if text is not None]
    return tightest(row for text in outputs for row in rows(text)) if outputs else None


def commands(folder: Path) -> Iterator[list[str]]:
    """Yield the tools' commands: Lustre takes any of its folders, ``quota`` the mount point."""
    user, group = str(os.getuid()), str(folder.stat().st_gid)
    yield ["lfs", "quota", "-q", "-u", user, str(folder)]
    yield ["lfs", "quota", "-q", "-g", group, str(folder)]
    where = f"--filesystem={mount_point(folder)}"
    yield ["quota", "--no-wrap", "--raw-grace", "--user", "--group", where]


def mount_point(folder: Path) -> Path:
    """Return the mount point of a folder's file system."""
    path = folder.resolve()
    return next(parent for parent in (path, *path.parents) if os.path.ismount(parent))


def query(command: list[str], seconds: float) -> str | None:
    """Return a tool's output; None when it is missing, fails or does not answer.

    ``quota`` exits with 1 also when a limit is exceeded, so that its lines count, not its code.
    """
    try:
        result = subprocesses.run(command, seconds)
    except OSError:
        return None
    return result.out if result.code is not None and any(rows(result.out)) else None


def rows(text: str) -> Iterator[tuple[QuotaLeft, QuotaLeft]]:
    """Yield what is left until the soft and the hard limit, per quota in a tool's output.

    A file system with a long name has a line of its own.
    """
    for line in text.splitlines():
        cells = line.split()[-COLUMNS:]
        figures = [cell.strip("*[]") for cell in cells]
        numbers = [figures[n] for n in (0, 1, 2, 4, 5, 6)] if len(cells) == COLUMNS else []
        if numbers and all(number.isdigit() for number in numbers):
            used, soft, hard, files, soft_files, hard_files = map(int, numbers)
            yield (
                QuotaLeft(remaining(soft * 1024, used * 1024), remaining(soft_files, files)),
                QuotaLeft(remaining(hard * 1024, used * 1024), remaining(hard_files, files)),
            )


def remaining(limit: int, used: int) -> int | None:
    """Return what is left of a limit; a limit of 0 means none."""
    return max(0, limit - used) if limit else None


def tightest(pairs: Iterable[tuple[QuotaLeft, QuotaLeft]]) -> QuotaLeft:
    """Return the least of all that is left."""
    quotas = [item for pair in pairs for item in pair]
    sizes = [item.bytes for item in quotas if item.bytes is not None]
    counts = [item.files for item in quotas if item.files is not None]
    return QuotaLeft(min(sizes, default=None), min(counts, default=None))
