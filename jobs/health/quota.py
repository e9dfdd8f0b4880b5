"""Room that quotas leave a user where a folder lies, as the system's own tools tell. Standard
library only.

``lfs quota`` speaks for Lustre, ``quota`` for local disks and NFS servers that answer. Both end a
line with the same eight columns (lfs-quota(1), quota(1)): KiB in use, soft limit, hard limit and
grace, and the same four for files. The file system's own figures (statvfs(3)) know nothing of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from jobs.runtime import subprocesses

TIMEOUT_SECONDS = 20.0
"""Of each of the ``commands``."""
COLUMNS = 8


@dataclass(frozen=True)
class QuotaLeft:
    """What is left until the nearest limit; None where there is none."""

    bytes: int | None = None
    files: int | None = None


def room(folder: Path) -> QuotaLeft | None:
    """What the quotas of this user, and of the folder's group, leave; None where nobody tells."""
    said = [text for command in commands(folder) if (text := ask(command)) is not None]
    return tightest(row for text in said for row in rows(text)) if said else None


def commands(folder: Path) -> Iterator[list[str]]:
    """What to ask: Lustre, by any folder of it, and else by the mount point."""
    user, group = str(os.getuid()), str(folder.stat().st_gid)
    yield ["lfs", "quota", "-q", "-u", user, str(folder)]
    yield ["lfs", "quota", "-q", "-g", group, str(folder)]
    where = f"--filesystem={mount_point(folder)}"
    yield ["quota", "--no-wrap", "--raw-grace", "--user", "--group", where]


def mount_point(folder: Path) -> Path:
    """Where the file system of a folder is mounted."""
    path = folder.resolve()
    return next(parent for parent in (path, *path.parents) if os.path.ismount(parent))


def ask(command: list[str]) -> str | None:
    """What a tool prints; None where it is missing, fails or does not answer. ``quota`` ends with 1
    also when a limit is exceeded, so that its lines count, not its code.
    """
    try:
        said = subprocesses.run(command, TIMEOUT_SECONDS)
    except OSError:
        return None
    return said.out if said.code is not None and any(rows(said.out)) else None


def rows(text: str) -> Iterator[tuple[QuotaLeft, QuotaLeft]]:
    """Of each quota in a tool's output: what is left until the soft and until the hard limit.

    A long name of a file system stands on a line of its own.
    """
    for line in text.splitlines():
        cells = line.split()[-COLUMNS:]
        figures = [cell.strip("*[]") for cell in cells]
        numbers = [figures[n] for n in (0, 1, 2, 4, 5, 6)] if len(cells) == COLUMNS else []
        if numbers and all(number.isdigit() for number in numbers):
            used, soft, hard, files, soft_files, hard_files = map(int, numbers)
            yield (
                QuotaLeft(left(soft * 1024, used * 1024), left(soft_files, files)),
                QuotaLeft(left(hard * 1024, used * 1024), left(hard_files, files)),
            )


def left(limit: int, used: int) -> int | None:
    """What is left of a limit; 0 stands for none."""
    return max(0, limit - used) if limit else None


def tightest(found: Iterable[tuple[QuotaLeft, QuotaLeft]]) -> QuotaLeft:
    """The least of all that is left."""
    rooms = [item for pair in found for item in pair]
    sizes = [item.bytes for item in rooms if item.bytes is not None]
    counts = [item.files for item in rooms if item.files is not None]
    return QuotaLeft(min(sizes, default=None), min(counts, default=None))
