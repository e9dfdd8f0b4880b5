"""An experiment in miniature: every stage, a killed rank and another layout."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.end_to_end]


def rehearse(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a rehearsal in a folder of its own."""
    command = [sys.executable, "-m", "meditron_cli", "rehearse", "--json", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)


def require_whole(done: subprocess.CompletedProcess[str], layout: str) -> dict[str, str]:
    """Return the results of a rehearsal by step, which must all be there."""
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    results = {step["step"]: step["result"] for step in content["steps"]}
    assert f"resume in another layout: {layout}" in results
    assert results["kill a rank, and resume from the last checkpoint"].startswith("killed at step")
    for stage in ("import the base model and train", "export"):
        assert "logits differ by" in results[stage]
    assert "correct" in results["evaluate"]
    assert any("GPU kernels" in sentence for sentence in content["unchecked"])
    return results


PHASES = """[
    {from_tokens: 10000000000, sequence_length: 4096},
    {from_tokens: 20000000000, mixture: {weights: {replay: 1}}, tail: {learning_rate: 0}}]"""


def test_a_recipe_is_rehearsed_with_its_phases_and_leaves_nothing(tmp_path: Path) -> None:
    settings = (
        "parallel.tensor=2",
        "parallel.data=1",
        "pretrain.corpora=[{name: replay, data: [replay], validation_data: [replay-held-out]}]",
        "pretrain.mixture={by: tokens, weights: {corpus: 9, replay: 1}}",
        f"pretrain.phases={PHASES}",
    )
    sets = [word for setting in settings for word in ("--set", setting)]

    done = rehearse(tmp_path, "--cluster", "generic-h100", "--size", "1b", *sets)

    results = require_whole(done, "tensor 1 x pipeline 2 x data 1")
    last, *phases = results["resume in another layout: tensor 1 x pipeline 2 x data 1"].split("; ")
    step = int(last.split()[1].rstrip(","))
    assert phases == [f"phase from step {step - 7}", f"phase from step {step - 5}"]
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.full
def test_the_70b_recipe_is_rehearsed_with_every_kind_of_parallelism(tmp_path: Path) -> None:
    done = rehearse(tmp_path, "--cluster", "rcp", "--size", "70b")

    require_whole(done, "tensor 1 x pipeline 2 x data 1")
