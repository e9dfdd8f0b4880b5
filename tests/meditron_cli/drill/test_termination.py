"""A drill or a doctor that is ended by a signal cancels the jobs that it started."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ... import fake_slurm
from ...fake_slurm import FakeSlurm
from ...gate import full

ROOT = Path(__file__).parents[3]
SIGNALS = [(signal.SIGTERM, 143), full(signal.SIGHUP, 129), full(signal.SIGINT, 130)]
"""With the exit code of each."""


@pytest.fixture
def programs(tmp_path: Path) -> FakeSlurm:
    return fake_slurm.install(tmp_path / "slurm")


def start(programs: FakeSlurm, folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start `meditron` in a folder."""
    environ = {**programs.environ, "PYTHONPATH": str(ROOT), "MEDITRON_RUNS": str(folder / "runs")}
    return subprocess.Popen(
        [sys.executable, "-m", "meditron_cli", *words, "--cluster", "test-slurm"],
        cwd=folder,
        env=environ,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )


def read_until(process: subprocess.Popen[str], is_last: Callable[[str], bool]) -> None:
    """Read the program's messages up to the one that is waited for."""
    assert process.stderr
    for line in process.stderr:
        if is_last(line):
            return
    raise AssertionError("it ended first")


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_drill_that_a_signal_ends_cancels_its_jobs(
    programs: FakeSlurm, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    drill = start(programs, tmp_path, "drill")
    read_until(drill, lambda line: line.startswith("started: "))

    drill.send_signal(number)
    messages = drill.communicate()[1]

    assert drill.returncode == code, messages
    (folder,) = (tmp_path / "runs").iterdir()
    assert f"the drill's jobs are cancelled\nthe drill's runs are kept in {folder}\n" in messages
    assert programs.queued() == []


def test_a_drill_that_cannot_cancel_names_the_runs_whose_jobs_remain(
    programs: FakeSlurm, tmp_path: Path
) -> None:
    programs.replace("scancel", "exit 1")
    drill = start(programs, tmp_path, "drill")
    read_until(drill, lambda line: line.startswith("started: "))

    drill.send_signal(signal.SIGTERM)
    messages = drill.communicate()[1]

    (folder,) = (tmp_path / "runs").iterdir()
    (run,) = folder.glob("drill-tokens-*")
    assert drill.returncode == 143
    assert f"jobs of {run.name} were not cancelled" in messages
    assert f"hint: `meditron cancel {run.name} --runs-dir {folder}`" in messages
    assert "jobs are cancelled" not in messages


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_doctor_that_a_signal_ends_cancels_its_probe(
    programs: FakeSlurm, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    data = ROOT / "tests/data"
    programs.replace("scontrol", f'cat {data}/slurm-22.05.8-"$2"*.txt')
    programs.replace("sbatch", 'case "$*" in --version) echo slurm 22.05.8 ;; *) echo 7 ;; esac')
    programs.queue("7|PENDING|Resources")  # the probe has not ended before the signal comes
    doctor = start(programs, tmp_path, "doctor", "--wait", "600")
    read_until(doctor, lambda line: "examines compute nodes" in line)

    doctor.send_signal(number)
    messages = doctor.communicate()[1]

    assert doctor.returncode == code, messages
    assert programs.calls("scancel") == ["scancel --quiet 7"]
    assert list((tmp_path / "runs").iterdir()) == []
