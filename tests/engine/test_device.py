"""The device of a rank: its number, its backend, and packages of GPU kernels beside a CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from jobs.engine import device as devices

from .conftest import REPOSITORY

pytestmark = pytest.mark.engine


@pytest.mark.parametrize(
    ("local_rank", "visible", "number"), [(0, 8, 0), (3, 8, 3), (3, 1, 0), (0, 1, 0)]
)
def test_a_rank_takes_its_gpu_of_all_or_the_only_one(
    local_rank: int, visible: int, number: int
) -> None:
    assert devices.device_number(local_rank, visible) == number


@pytest.mark.parametrize(("local_rank", "visible"), [(0, 0), (4, 4), (3, 2)])
def test_a_rank_without_a_gpu_of_its_own_is_refused(local_rank: int, visible: int) -> None:
    with pytest.raises(RuntimeError, match=f"rank {local_rank} of node .* torch sees {visible}"):
        devices.device_number(local_rank, visible)


def test_nccl_is_bound_to_the_device_and_gloo_is_not() -> None:
    gpu = torch.device("cuda", 3)

    assert devices.backend(gpu) == {"backend": "nccl", "device_id": gpu}
    assert devices.backend(torch.device("cpu")) == {"backend": "gloo"}


BROKEN = """
raise RuntimeError("no CUDA driver, as of a package for GPUs on a machine without one")
"""
PROGRAM = """
import torch
from jobs.engine import device
device.start("cpu", 0, 1, 0)
from jobs.engine import layers, optim
from megatron.core import optimizer
assert not layers.has_transformer_engine()
assert optimizer.Adam is torch.optim.AdamW, optimizer.Adam
device.end()
"""


def test_packages_of_gpu_kernels_are_not_used_on_cpus(tmp_path: Path) -> None:
    for name in devices.GPU_PACKAGES:
        (tmp_path / f"{name}.py").write_text(BROKEN)
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"}

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        env=environ,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
