"""Slurm's commands as stand-ins on PATH."""

from __future__ import annotations

from pathlib import Path

import pytest

from ... import fake_slurm


@pytest.fixture
def slurm_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> fake_slurm.FakeSlurm:
    """Return the stand-ins, also on this process's PATH."""
    fake = fake_slurm.install(tmp_path / "slurm")
    fake.name_jobs("med-tiny-0.pretrain")
    monkeypatch.setenv("PATH", fake.environ["PATH"])
    return fake
