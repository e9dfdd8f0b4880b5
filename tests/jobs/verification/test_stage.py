"""The verification at the end of a stage, in a real conversion."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from jobs.contract.files import read_json
from jobs.contract.stage_specs import VerifySpec
from jobs.verification.stage import memory_for_generation

from ...fork_server import ForkServer
from ..conversion.models import ADDED, MODELS, convert_spec, save_folder, write_tokenizer

pytestmark = pytest.mark.engine

SPEC = MODELS["grouped"]


def convert(bench: Any, server: ForkServer) -> tuple[int, str]:
    """Run the conversion of the bench; return its exit code and its stderr."""
    outputs = [bench.run.root / name for name in ("rank.out", "rank.err")]
    rank = server.start(
        ("convert", str(bench.run.root), "0"),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=bench.run.root,
        stdout=outputs[0],
        stderr=outputs[1],
    )
    _, stderr = rank.communicate(timeout=300)
    return rank.returncode, stderr


@pytest.fixture
def task(bench: Any, tmp_path: Path) -> Any:
    """Return the task of a conversion that verifies 16 tokens per text."""
    folder = save_folder(tmp_path / "model", SPEC, "bfloat16")
    tokenizer = write_tokenizer(tmp_path / "run.json", SPEC.vocab_size, ADDED)
    spec = convert_spec(folder, SPEC, tokenizer)
    return bench.task("convert", dataclasses.replace(spec, verify=VerifySpec(True, 16)))


@pytest.mark.parametrize(("free", "expected"), [(3 << 30, 3 << 30), (1 << 40, 8 << 30)])
def test_generation_takes_no_more_memory_than_the_stage_requests(free: int, expected: int) -> None:
    assert memory_for_generation(cores=2, available=free) == expected


def test_a_conversion_records_that_both_compute_the_same(
    bench: Any, task: Any, fork_server: ForkServer
) -> None:
    code, stderr = convert(bench, fork_server)

    result = read_json(bench.run.path("verification/convert-0.json"))
    assert (code, stderr) == (0, "")
    assert bench.is_done(task)
    assert result["problems"] == []
    assert result["logits"]["max"] < 1e-5
    assert max(text["positions"] for text in result["texts"].values()) == 16
    assert result["added_rows"]["equal"]
    assert result["generation"]["equal"] == 3
    assert result["origin"] == "org/base"


def test_a_checkpoint_that_computes_something_else_fails_the_stage(
    bench: Any, task: Any, tmp_path: Path, fork_server: ForkServer
) -> None:
    """One byte of a weight changes while size and time of the file do not."""
    assert convert(bench, fork_server)[0] == 0
    bench.run.done("convert", 0).unlink()
    file = min((tmp_path / "model").glob("*.safetensors"))
    status, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 0x40
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))

    code, _ = convert(bench, fork_server)

    result = read_json(bench.run.path("verification/convert-0.json"))
    exits = list(bench.run.root.rglob("rank-exit-*.json"))
    assert code == 2
    assert result["problems"]
    assert not bench.is_done(task)
    assert "do not compute the same: logits differ by up to" in exits[0].read_text()


def test_a_tolerance_that_fails_can_be_replaced_and_nothing_is_converted_twice(
    bench: Any, task: Any, fork_server: ForkServer
) -> None:
    spec = task.spec
    bench.task("convert", dataclasses.replace(spec, verify=VerifySpec(True, 16, tolerance=1e-12)))
    code, _ = convert(bench, fork_server)
    record = bench.run.path("checkpoints/iter_0000000/meditron.json")
    written = record.stat().st_mtime_ns

    accepted = bench.task("convert", spec)

    assert code == 2
    assert convert(bench, fork_server)[0] == 0
    assert bench.is_done(accepted)
    assert record.stat().st_mtime_ns == written
