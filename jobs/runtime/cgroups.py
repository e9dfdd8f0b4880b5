"""Count OOM kills of this job (cgroups(7)). Standard library only."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
JOB = re.compile(r"job_[\d_]+")
"""Slurm's folder of a job; its steps have folders below."""

COUNTER = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


def oom_kills(root: Path = ROOT, membership: Path = MEMBERSHIP) -> int | None:
    """Return the number of OOM kills of this job on this node so far; None where it is not known.

    With version 2 the job's own ``memory.events`` counts all levels below, with version 1 each
    folder's ``memory.oom_control`` counts its own (kernel documentation, cgroup-v2.rst and
    cgroup-v1/memory.rst).
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            kills = _count([_job_folder(root, path) / "memory.events"])
        elif "memory" in controllers.split(","):
            folder = _job_folder(root / "memory", path)
            kills = _count(sorted(folder.rglob("memory.oom_control")))
        else:
            continue
        if kills is not None:
            return kills
    return None


def _job_folder(root: Path, path: str) -> Path:
    """Return the folder of the job of a process in ``path``, else the process's own."""
    parts = path.strip("/").split("/")
    ends = [number for number, part in enumerate(parts, 1) if JOB.fullmatch(part)]
    return root.joinpath(*parts[: ends[0]] if ends else parts)


def _count(files: Iterable[Path]) -> int | None:
    counts = []
    for path in files:
        try:
            match = COUNTER.search(path.read_text())
        except OSError:
            continue
        if match:
            counts.append(int(match[1]))
    return sum(counts) if counts else None
