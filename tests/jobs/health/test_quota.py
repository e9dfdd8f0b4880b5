"""Quotas as the system's tools report them; stand-ins print what their manuals show."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from jobs.health import quota
from jobs.health.quota import QuotaLeft

KIB = 1024

LOCAL = """\
Disk quotas for user med (uid 1000):
     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace
      /dev/sda1    4500  100000  200000       0     123       0    1000       0
Disk quotas for group lab (gid 100): none
"""
EXCEEDED = """\
Disk quotas for user med (uid 1000):
     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace
      nfs:/home  100001* 100000  200000 1763800000     123       0       0       0
"""
LUSTRE = """\
/capstor/scratch/very/long/name
              52428800  104857600 157286400       -     800  100000  150000       -
"""
FREE = "     /scratch  284156       0       0       -     100       0       0       -\n"


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that is all of PATH, but for a shell."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def tell(tools: Path, name: str, text: str, code: int = 0) -> None:
    """Have a tool print something, and note what it was asked."""
    (tools / f"{name}.txt").write_text(text)
    lines = ("#!/bin/sh", f'echo "$@" >>{tools}/asked', f"/bin/cat {tools}/{name}.txt")
    (tools / name).write_text("\n".join((*lines, f"exit {code}", "")))
    (tools / name).chmod(0o755)


@pytest.mark.parametrize(
    ("name", "text", "code", "left"),
    [
        ("quota", LOCAL, 0, QuotaLeft((100000 - 4500) * KIB, 1000 - 123)),
        ("quota", EXCEEDED, 1, QuotaLeft(0, None)),
        ("lfs", LUSTRE, 0, QuotaLeft(50 * KIB**3, 100000 - 800)),
        ("lfs", FREE, 0, QuotaLeft(None, None)),
        ("quota", "Disk quotas for user med (uid 1000): none\n", 0, None),
        ("lfs", "lfs quota: cannot resolve mount point '/runs'\n", 1, None),
    ],
)
def test_the_nearest_limit_counts(
    tools: Path, tmp_path: Path, name: str, text: str, code: int, left: QuotaLeft | None
) -> None:
    tell(tools, name, text, code)

    assert quota.read(tmp_path) == left


def test_of_several_quotas_the_tightest_counts(tools: Path, tmp_path: Path) -> None:
    tell(tools, "lfs", LUSTRE)
    tell(tools, "quota", LOCAL)

    assert quota.read(tmp_path) == QuotaLeft((100000 - 4500) * KIB, 1000 - 123)


def test_without_tools_there_is_no_quota(tools: Path, tmp_path: Path) -> None:
    assert quota.read(tmp_path) is None


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_tool_that_cannot_be_killed_is_not_waited_for(tools: Path, tmp_path: Path) -> None:
    """A child of its own keeps its output open, as a process that is stuck in the kernel would."""
    pid = tmp_path / "pid"
    (tools / "lfs").write_text(f"#!/bin/sh\n/bin/sleep 600 &\necho $! >{pid}\nwait\n")
    (tools / "lfs").chmod(0o755)

    for seconds in (1.0, 10.0, 60.0):  # until the tool has begun in that time
        assert quota.query(["lfs"], seconds) is None
        if pid.exists() and pid.read_text():
            break
    os.kill(int(pid.read_text()), signal.SIGKILL)


def test_lustre_is_queried_by_folder_and_others_by_mount_point(tools: Path, tmp_path: Path) -> None:
    tell(tools, "lfs", "")
    tell(tools, "quota", "")

    quota.read(tmp_path)

    user, group, other = (tools / "asked").read_text().splitlines()
    assert user == f"quota -q -u {os.getuid()} {tmp_path}"
    assert group == f"quota -q -g {tmp_path.stat().st_gid} {tmp_path}"
    mount = Path(other.split("--filesystem=")[1])
    assert mount.is_mount()
    assert tmp_path.is_relative_to(mount)
