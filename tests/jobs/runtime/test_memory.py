"""The memory that is left, from files as the kernel writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.runtime import memory

GIB = 1 << 30


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    """Return a machine's file with 64 GiB available."""
    lines = f"MemTotal: 99000000 kB\nMemFree: 1 kB\nMemAvailable: {64 << 20} kB\n"
    return write(tmp_path / "meminfo", lines)


def group(folder: Path, limit: str, used: int, cache: int) -> None:
    write(folder / "memory.max", f"{limit}\n")
    write(folder / "memory.current", f"{used}\n")
    write(folder / "memory.stat", f"anon 1\nfile {cache}\nshmem {GIB}\n")


def test_a_limit_of_a_group_above_counts_and_its_page_cache_is_free(
    tmp_path: Path, meminfo: Path
) -> None:
    member = write(tmp_path / "self", "0::/job_42/step_batch\n")
    group(tmp_path / "job_42", str(16 * GIB), 14 * GIB, 9 * GIB)
    group(tmp_path / "job_42/step_batch", "max", 14 * GIB, 9 * GIB)

    assert memory.available(meminfo, tmp_path, member) == (16 - 14 + 9 - 1) * GIB


def test_version_1_has_files_of_other_names(tmp_path: Path, meminfo: Path) -> None:
    member = write(tmp_path / "self", "9:cpuset:/slurm/job_42\n4:memory:/slurm/job_42\n")
    folder = tmp_path / "memory/slurm/job_42"
    write(folder / "memory.limit_in_bytes", f"{8 * GIB}\n")
    write(folder / "memory.usage_in_bytes", f"{3 * GIB}\n")
    write(folder / "memory.stat", f"cache 0\ntotal_cache {GIB}\ntotal_shmem 0\n")

    assert memory.available(meminfo, tmp_path, member) == 6 * GIB


def test_without_limits_the_machine_s_memory_is_available(tmp_path: Path, meminfo: Path) -> None:
    member = write(tmp_path / "self", "0::/user.slice\n")

    assert memory.available(meminfo, tmp_path, member) == 64 * GIB
    assert memory.available(meminfo, tmp_path, tmp_path / "missing") == 64 * GIB


@pytest.mark.parametrize(
    ("limit_gb", "part"),
    [
        pytest.param(None, 8 * GIB, id="half of what is free"),
        pytest.param(2.5, GIB * 5 // 8, id="what is set"),
        pytest.param(100.0, 16 * GIB, id="no more than is free"),
    ],
)
def test_ranks_of_a_node_share_the_memory_of_copies(limit_gb: float | None, part: int) -> None:
    assert memory.part_for_copies(64 * GIB, limit_gb, 4) == part


def test_meminfo_without_the_line_is_refused() -> None:
    with pytest.raises(ValueError, match="no MemAvailable"):
        memory.of_machine("MemTotal: 1 kB\n")
