"""A selftest on CPU ranks: every trial, through the job of a local run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from meditron_cli.selftest.judges import TOLERANCE

pytestmark = [pytest.mark.engine, pytest.mark.end_to_end]


def selftest(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a selftest in a folder of its own, with a cache of its own."""
    command = [sys.executable, "-m", "meditron_cli", "selftest", "--cluster", "local", *words]
    environ = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, timeout=600
    )


def test_a_selftest_on_cpu_ranks_confirms_what_needs_no_gpu(tmp_path: Path) -> None:
    steps = ("--set", "selftest.steps=4", "--set", "pretrain.train_steps=4")

    done = selftest(tmp_path, "--json", *steps)

    assert done.returncode == 0, done.stderr
    claims = {row["claim"]: row for row in json.loads(done.stdout)["claims"]}
    assert {name for name, row in claims.items() if row["verdict"] == "confirmed"} == {
        "all-reduce sums are exact",
        "tensor 2 trains as tensor 1",
        "pipeline 2 trains as pipeline 1",
        "an interleaved pipeline trains as pipeline 1",
        "tensor 2 continues a checkpoint of tensor 1",
        "tensor 1 continues a checkpoint of tensor 2",
        "tensor 2 trains as tensor 1 when sequences become longer",
        "longer sequences train behind shorter ones as alone",
        "a resumed training is bit-equal",
        "a deterministic training is bit-equal when repeated",
        "asynchronous saves have the bits of synchronous ones",
        "overlapped communication trains as other",
        "profiled steps train as others",
    }
    assert {row["verdict"] for row in claims.values()} == {"confirmed", "not run"}
    assert all(row["reason"] for row in claims.values() if row["verdict"] == "not run")
    assert claims["two layers at full width take the planned memory"]["measured"].endswith("GiB")
    assert claims["two layers at full width take the planned time"]["measured"].endswith(" s")
    assert "over 4 steps" in claims["tensor 2 trains as tensor 1"]["measured"]
    traces = claims["traces hold kernels and the groups of collectives"]["measured"]
    assert traces == "2 steps, 0 kernels, 0 name their group"
    assert list((tmp_path / "runs").iterdir()) == []
    speeds = json.loads((tmp_path / "cache/meditron/clusters/local.json").read_text())["speeds"]
    assert speeds["product_tflops"] > 0
    assert speeds["link_gb_s"] > 0
    assert speeds["network_gb_s"] is None


@pytest.mark.full
def test_layouts_agree_in_bf16_over_all_steps_within_a_fifth_of_the_limits(tmp_path: Path) -> None:
    done = selftest(tmp_path, "--json", "--set", "pretrain.precision=bf16")

    assert done.returncode == 0, done.stderr
    trials = json.loads(done.stdout)["record"]["trials"]
    compared = [trials["tensor-parallel"]]
    compared += trials["pipeline"]["layouts"] + trials["other-layout"]["loaded"]
    compared += trials["lengths"]["trainings"]
    loss, norm = TOLERANCE["bf16"]
    assert [one["steps"] for one in compared] == [20, 20, 20, 10, 10, 20, 10]
    assert max(one["loss"] for one in compared) < loss / 5
    assert max(one["norm"] for one in compared) < norm / 5


@pytest.mark.full
def test_a_trial_that_ends_its_ranks_is_refuted_and_those_behind_it_run(tmp_path: Path) -> None:
    done = selftest(tmp_path, "--json", "--set", "selftest.steps=8", "--set", "model.init_std=1e30")

    assert done.returncode == 4, done.stderr
    claims = {row["claim"]: row for row in json.loads(done.stdout)["claims"]}
    refuted = {name for name, row in claims.items() if row["verdict"] == "refuted"}
    assert refuted == {
        "two layers at full width take the planned memory",
        "two layers at full width take the planned time",
        "reading samples runs beside computation",
        "communication is timed by events",
    }
    assert "NonFiniteLoss" in claims[min(refuted)]["reason"]
    assert claims["a resumed training is bit-equal"]["verdict"] == "confirmed"
    assert len(list((tmp_path / "runs").iterdir())) == 1
