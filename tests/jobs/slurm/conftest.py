"""Slurm's commands as stand-ins on PATH, and a run directory that was submitted."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.contract.rundir import RunDir
from jobs.slurm.client import Client
from jobs.slurm.submission import Submission

from ... import fake_slurm


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> fake_slurm.FakeSlurm:
    """The stand-ins, also on this process's PATH."""
    fake = fake_slurm.install(tmp_path / "slurm")
    monkeypatch.setenv("PATH", fake.environ["PATH"])
    return fake


@pytest.fixture
def client(programs: fake_slurm.FakeSlurm) -> Client:
    return Client(programs.environ)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run directory with what sbatch needs of it."""
    run = RunDir(tmp_path / "runs" / "med-tiny-0")
    run.code.mkdir(parents=True)
    run.events.touch()
    return run


@pytest.fixture
def training() -> Submission:
    """Training as a login node submits it."""
    return Submission(
        stage="pretrain",
        indices=(0,),
        attempt=1,
        python="/venv/bin/python",
        environment=("HF_HOME",),
        parameters={"time": 60, "nodes": 2, "partition": "low", "setup": ["export A=1"]},
        lead_seconds=60,
        longest_array=100,
        janitor={"time": 10, "nodes": 1, "cpus_per_task": 1, "partition": "cpu"},
    )
