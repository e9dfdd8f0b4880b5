"""The memory that this process can still get. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jobs.contract.units import GIB
from jobs.runtime.cgroups import MEMBERSHIP, ROOT

MEMINFO = Path("/proc/meminfo")

FILES = {
    "": ("memory.max", "memory.current", "file", "shmem"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache", "total_shmem"),
}
"""Per controller of /proc/self/cgroup, none with version 2: the files of a group's limit and use,
and the lines of its ``memory.stat`` for the page cache and the shared memory in it (kernel
documentation, cgroup-v2.rst and cgroup-v1/memory.rst)."""


def available(meminfo: Path = MEMINFO, root: Path = ROOT, membership: Path = MEMBERSHIP) -> int:
    """Return the bytes that this process can allocate: of the machine, and below the limits of its
    control groups. A group's page cache counts as free, as the kernel drops it first.

    Raises:
        ValueError, OSError: /proc/meminfo lacks the line, or cannot be read.
    """
    return min(of_machine(meminfo.read_text()), *_below_limits(root, membership), 1 << 62)


def part_for_copies(free: int, limit_gb: float | None, ranks: int) -> int:
    """Return the bytes that a rank may take for the copy from which a save writes.

    Args:
        free: bytes on the node.
        limit_gb: GiB that all ranks of the node may take, as far as they are free; None for half of
            what is free.
        ranks: of the node.
    """
    return (free // 2 if limit_gb is None else min(free, int(limit_gb * GIB))) // ranks


def of_machine(meminfo: str) -> int:
    """Return ``MemAvailable`` of /proc/meminfo's text, in bytes.

    Raises:
        ValueError: the text has no such line (kernels before 3.14).
    """
    for line in meminfo.splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    raise ValueError("/proc/meminfo has no MemAvailable")


def _below_limits(root: Path, membership: Path) -> Iterator[int]:
    """Yield what each control group of this process, and each above it, has left."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller in set(controllers.split(",")) & set(FILES):
            folder = root / controller / path.strip("/")
            for group in (folder, *folder.parents):
                if not group.is_relative_to(root):
                    break
                left = _left(group, *FILES[controller])
                if left is not None:
                    yield left


def _left(group: Path, limit: str, usage: str, cache: str, shared: str) -> int | None:
    """Return the bytes below a group's limit; None without a limit."""
    try:
        most = int((group / limit).read_text())
        used = int((group / usage).read_text())
        pairs = (line.split() for line in (group / "memory.stat").read_text().splitlines())
        stat = {name: int(value) for name, value in pairs}
        return most - used + stat[cache] - stat[shared]
    except (OSError, ValueError, LookupError):  # no such file, or the limit is ``max``
        return None
