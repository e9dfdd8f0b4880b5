"""One CUDA device trains, saves and resumes. Unproven: no machine with one has run it yet."""

from __future__ import annotations

import os

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.gpu]


@pytest.fixture
def cuda() -> None:
    """Skip where there is no device to run on."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device on this machine")


@pytest.mark.usefixtures("cuda")
def test_stopped_and_resumed_on_a_gpu_it_continues_from_the_checkpoint(make_run, layout):
    for distributed in (True, False):
        run = make_run(
            f"distributed-{distributed}",
            device="cuda",
            precision="bf16",
            parallel=layout(distributed_optimizer=distributed),
        )
        run.finish()
        os.truncate(run.root / "checkpoints/iter_0000008/__0_0.distcp", 100)
        before = run.losses()

        run.finish()

        assert sorted(set(run.trained(attempt=2))) == [5, 6, 7, 8]
        assert run.losses() == pytest.approx(before, rel=1e-2)
