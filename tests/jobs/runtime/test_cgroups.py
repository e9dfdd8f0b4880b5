"""The number of a job's OOM kills, from files as the kernel writes them."""

from __future__ import annotations

from pathlib import Path

from jobs.runtime import cgroups

EVENTS = "low 0\nhigh 0\nmax 12\noom 3\noom_kill {}\noom_group_kill 0\n"
CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_version_2_counts_the_whole_job(tmp_path: Path) -> None:
    slice_ = "system.slice/slurmstepd.scope"
    member = write(tmp_path / "self", f"0::/{slice_}/job_42/step_batch/user/task_0\n")
    write(tmp_path / slice_ / "job_42/memory.events", EVENTS.format(3))
    write(tmp_path / slice_ / "job_42/step_batch/memory.events", EVENTS.format(0))

    assert cgroups.oom_kills(tmp_path, member) == 3


def test_version_1_counts_every_step_by_itself(tmp_path: Path) -> None:
    member = write(
        tmp_path / "self",
        "9:cpuset:/slurm/uid_1000/job_42/step_batch\n4:memory:/slurm/uid_1000/job_42/step_batch\n",
    )
    job = tmp_path / "memory/slurm/uid_1000/job_42"
    write(job / "memory.oom_control", CONTROL.format(0))
    write(job / "step_batch/memory.oom_control", CONTROL.format(1))
    write(job / "step_0/memory.oom_control", CONTROL.format(4))

    assert cgroups.oom_kills(tmp_path, member) == 5


def test_outside_a_job_the_process_s_own_group_is_read(tmp_path: Path) -> None:
    member = write(tmp_path / "self", "0::/user.slice\n")
    write(tmp_path / "user.slice/memory.events", EVENTS.format(1))

    assert cgroups.oom_kills(tmp_path, member) == 1


def test_a_kernel_without_a_count_is_not_a_kernel_with_count_zero(tmp_path: Path) -> None:
    assert cgroups.oom_kills(tmp_path, tmp_path / "missing") is None
    assert cgroups.oom_kills(tmp_path, write(tmp_path / "self", "0::/elsewhere\n")) is None
