"""A model that is finetuned on the sample answers better than its base."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXPERIMENT = """\
name: tuned
curate:
  sources: [sample/corpus]
  shards: 4
tokenize:
  tokenizer: sample/tokenizer.json
evaluate:
  checkpoints: [last]
  benchmarks:
    - {name: base, path: sample/benchmark/questions.jsonl}
    - {name: taught, path: sample/benchmark/questions.jsonl, model: taught}
    - {name: shuffled, path: sample/benchmark/questions.jsonl, model: shuffled}
finetune:
  learning_rate: 0.002
  min_learning_rate: 0.0002
  global_batch_size: 16
  models:
    - {name: taught, items: 2000, data: [{path: sample/benchmark/train.jsonl}]}
    - {name: shuffled, items: 2000, data: [{path: sample/benchmark/shuffled.jsonl}]}
export:
  step: []
"""


def meditron(folder: Path, *words: str) -> str:
    """Return what the command prints; it must succeed."""
    command = [sys.executable, "-m", "meditron_cli", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1700)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.full
@pytest.mark.end_to_end
@pytest.mark.timeout(1800)
def test_finetuning_on_questions_of_the_sample_beats_the_base_and_shuffled_answers(
    tmp_path: Path,
) -> None:
    meditron(tmp_path, "init", "demo")
    folder, draw = tmp_path / "demo", random.Random(2)
    benchmark = folder / "sample/benchmark"
    questions = map(json.loads, (benchmark / "train.jsonl").read_text().splitlines())
    wrong = (json.dumps(question | {"answer": draw.randrange(4)}) for question in questions)
    (benchmark / "shuffled.jsonl").write_text("".join(line + "\n" for line in wrong))
    (folder / "experiment.yaml").write_text(EXPERIMENT)

    site = ("--cluster", "local", "--size", "tiny", "--wait", "--json")
    run = json.loads(meditron(folder, "submit", "pipeline", *site))["run"]
    pairs: list[dict[str, Any]] = json.loads(meditron(folder, "report", run, "--json"))["paired"]

    better = {
        (pair["first"].split()[0], pair["second"].split()[0]): pair
        for pair in pairs
        if pair["p_value"] is not None
    }
    for pair in (better["500", "taught"], better["shuffled", "taught"]):
        assert pair["n"] == 400
        assert pair["p_value"] < 1e-3, pair
    assert better["500", "taught"]["difference"] > 0.05
    assert better["shuffled", "taught"]["difference"] > 0.2
