"""`meditron health` in a process of its own, on machines made of readings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from ...fake_nvml import NAME, build, environment, write_readings

REPOSITORY = Path(__file__).parents[3]

PROFILE = """\
name: site
description: Four A100 a node.
scheduler: slurm
device: cuda
gpu_partition:
  name: gpu
  nodes: 2
  node: {gpus: 4, gpu_kind: A100-SXM4-80GB, cpus: 8, memory_gb: 1}
health_skip: [SKIPPED]
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


def meditron_health(
    folder: Path, library: Path, readings: Mapping[str, object], *options: str
) -> subprocess.CompletedProcess[str]:
    """Run `meditron health` in a folder."""
    path = write_readings(folder / "readings", readings)
    return subprocess.run(
        [sys.executable, "-m", "meditron_cli", "health", *options],
        cwd=folder,
        env={
            **environment(library, path),
            "PYTHONPATH": str(REPOSITORY),
            "SLURMD_NODENAME": "node07",
            "MEDITRON_RUNS": str(folder),
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_machine_without_gpu_is_healthy(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("no library\n")

    done = meditron_health(tmp_path, tmp_path, {})

    assert (done.returncode, done.stderr) == (0, "")
    first, heading, count, *_ = done.stdout.splitlines()
    assert first == "node07: OK"
    assert heading.split() == ["verdict", "check", "where", "what"]
    assert count.split(None, 3) == ["OK", "gpu_count", "node", "no GPU here, none expected"]


def test_what_is_bad_comes_first_and_what_is_well_is_counted(tmp_path: Path, library: Path) -> None:
    readings = {"count": 4, "gpu.2.persistence": 0, "gpu.3.pcie.width": 8}

    done = meditron_health(tmp_path, library, readings, "--gpus", "4")

    assert (done.returncode, done.stderr) == (0, "")
    first, _, *lines = done.stdout.splitlines()
    assert first == "node07: DRAIN"
    assert [" ".join(line.split()) for line in lines[:2]] == [
        "DRAIN pcie_width GPU 3 PCIe runs on 8 of 16 lanes",
        "WARN persistence GPU 2 persistence mode is off",
    ]
    assert "OK persistence 3 GPUs persistence mode is on" in [
        " ".join(line.split()) for line in lines
    ]


def test_an_unfit_machine_is_exit_code_5_with_the_reason(tmp_path: Path, library: Path) -> None:
    readings = {"count": 3, "gpu.1.remap.failed": 1}

    done = meditron_health(tmp_path, library, readings, "--gpus", "4")

    assert done.returncode == 5
    assert done.stderr == (
        "error: node07 is unhealthy: 3 of 4 GPUs answer; "
        "GPU 1 a memory row could not be remapped: the card needs replacing\n"
    )


def test_json_holds_every_finding_fatal_or_not(tmp_path: Path, library: Path) -> None:
    done = meditron_health(tmp_path, library, {"count": 1, "gpu.mig": 1}, "--json")

    assert done.returncode == 5
    answer = json.loads(done.stdout)
    assert (answer["format"], answer["node"], answer["verdict"]) == (1, "node07", "FATAL")
    (found,) = [one for one in answer["findings"] if one["verdict"] == "FATAL"]
    assert {key: found[key] for key in ("code", "action", "evidence", "message")} == {
        "code": "mig_mode",
        "action": "exclude_now",
        "evidence": {"mig": True},
        "message": "MIG mode is on",
    }
    assert set(found) == {
        "code", "verdict", "action", "subject", "evidence", "message", "time",
    }  # fmt: skip


def test_our_own_running_work_is_no_fault(tmp_path: Path, library: Path) -> None:
    done = meditron_health(tmp_path, library, {"count": 1, "gpu.processes": f"{os.getpid()}:1"})

    assert done.returncode == 0


def test_a_profile_has_what_to_expect(tmp_path: Path, library: Path) -> None:
    profile = tmp_path / "site.yaml"
    profile.write_text(PROFILE.replace("SKIPPED", "persistence"))
    readings = {"count": 4, "gpu.3.name": "NVIDIA H100 80GB HBM3", "gpu.persistence": 0}

    done = meditron_health(tmp_path, library, readings, "--cluster", str(profile))

    assert done.returncode == 5
    assert done.stderr == (
        "error: node07 is unhealthy: GPU 3 is a NVIDIA H100 80GB HBM3, expected A100-SXM4-80GB\n"
    )
    assert "persistence" not in done.stdout


def test_a_profile_that_skips_an_unknown_check_is_refused(tmp_path: Path, library: Path) -> None:
    profile = tmp_path / "site.yaml"
    profile.write_text(PROFILE.replace("SKIPPED", "persistense"))

    done = meditron_health(tmp_path, library, {"count": 4}, "--cluster", str(profile))

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "error: site.yaml:9:14: health_skip: unknown code 'persistense'; "
    )
    assert "persistence" in done.stderr
