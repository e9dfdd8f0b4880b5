"""The real command line as a subprocess, on a project of forty documents and a very small model."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jobs.contract.events import read_events
from jobs.contract.rundir import RunDir

from ..ranks import processes_about, wait_until

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("jobs", "meditron_cli", "clusters")
DOCUMENTS = 40
QUESTIONS = 4
STEPS = 30
TUNED_STEPS = 10

EXPERIMENT = f"""\
name: small
curate:
  sources: [docs.jsonl]
  shards: 2
  validation_fraction: 0.2
tokenize:
  tokenizer: sample/tokenizer.json
model:
  layers: 2
  hidden_size: 32
  ffn_hidden_size: 64
  attention_heads: 2
  kv_heads: 2
  seq_length: 64
pretrain:
  micro_batch_size: 2
  global_batch_size: 4
  train_steps: {STEPS}
  warmup_steps: 1
  validation_interval: 10
  validation_batches: 1
  save_interval: 10
evaluate:
  benchmarks:
    - name: quiz
      path: sample/benchmark/questions.jsonl
      limit: {QUESTIONS}
      modes: [top-token, cot]
    - name: quiz-tuned
      path: sample/benchmark/questions.jsonl
      limit: {QUESTIONS}
      model: tuned
  generate: {{max_tokens: 16, batch_size: 2}}
finetune:
  sequence_length: 192
  global_batch_size: 4
  validation_batches: 1
  save_interval: 5
  learning_rate: 3e-3
  min_learning_rate: 3e-4
  decontaminate: {{enabled: false}}
  models:
    - name: tuned
      preparation: sample
      items: 40
      train_steps: {TUNED_STEPS}
      data: [{{path: train.jsonl}}]
"""


@dataclass(frozen=True)
class Desk:
    """A user's folder: a project, its runs, and `meditron` from a checkout of its own."""

    folder: Path
    source: Path
    """The folder that the packages are imported from."""

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def command(self, *words: str) -> tuple[list[str], dict[str, Any]]:
        """Return the command and the settings of `meditron WORDS` for subprocess."""
        kept = ("PATH", "HOME", "LANG", "TMPDIR")
        environ = {name: os.environ[name] for name in kept if name in os.environ}
        settings = {
            "cwd": self.folder,
            "env": {**environ, "PYTHONPATH": str(self.source)},
            "stdin": subprocess.DEVNULL,
            "text": True,
        }
        return [sys.executable, "-m", "meditron_cli", *words], settings

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start `meditron WORDS` in the background."""
        command, settings = self.command(*words)
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **settings)

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `meditron WORDS` to its end."""
        command, settings = self.command(*words)
        return subprocess.run(command, capture_output=True, check=False, timeout=300, **settings)

    def submit_words(self, stage: str, *words: str) -> tuple[str, ...]:
        """Return the words of `meditron submit` on the project's experiment."""
        target = ("--cluster", "local", "--size", "tiny", "--config", "experiment.yaml")
        return "submit", stage, *target, *words

    def submit(self, stage: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `meditron submit` on the project's experiment."""
        return self(*self.submit_words(stage, *words))

    def names(self) -> list[str]:
        """Return the names of everything in the runs directory, hidden or not."""
        return sorted(path.name for path in self.runs.iterdir()) if self.runs.exists() else []

    def run(self, name: str = "") -> RunDir:
        """Return a run by its name, or the only one."""
        (found,) = [name] if name else self.names()
        return RunDir(self.runs / found)

    def state(self, run: RunDir) -> dict[str, Any]:
        """Return a run as `meditron status RUN --json` reports it."""
        (found,) = json.loads(self("status", run.name, "--json").stdout)["runs"]
        return dict(found)

    def wait_idle(self) -> None:
        """Wait until no process works on a run of this desk."""
        wait_until(lambda: processes_about(self.runs) == [])

    def end_everything(self) -> None:
        """Kill all processes that work on a run of this desk, as a power cut would."""
        while pids := processes_about(self.runs):
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue


def events(run: RunDir, kind: str, stage: str) -> list[dict[str, Any]]:
    """Return the events of a kind of one stage, oldest first."""
    return [
        event for event in read_events(run) if event["event"] == kind and event["stage"] == stage
    ]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the sample that `meditron init` writes."""
    folder = tmp_path_factory.mktemp("sample")
    desk = Desk(folder, REPOSITORY)
    assert desk("init", ".").returncode == 0
    return folder / "sample"


def make_desk(folder: Path, sample: Path, source: Path = REPOSITORY) -> Desk:
    """Make a project with the first documents of the sample."""
    (folder / "sample").symlink_to(sample)
    lines = (sample / "corpus" / "guideline.jsonl").read_text().splitlines()[:DOCUMENTS]
    (folder / "docs.jsonl").write_text("\n".join(lines) + "\n")
    questions = (sample / "benchmark" / "questions.jsonl").read_text().splitlines()[-40:]
    train = [json.dumps(json.loads(line) | {"split": "train"}) for line in questions]
    (folder / "train.jsonl").write_text("\n".join(train) + "\n")
    (folder / "experiment.yaml").write_text(EXPERIMENT)
    return Desk(folder, source)


@pytest.fixture
def desk(tmp_path: Path, sample: Path) -> Iterator[Desk]:
    """Yield a project of one test."""
    desk = make_desk(tmp_path, sample)
    yield desk
    desk.end_everything()


@pytest.fixture(scope="module")
def long_desk(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Iterator[Desk]:
    """Yield a project that the tests of a module share, with a checkout that they may edit."""
    folder = tmp_path_factory.mktemp("desk")
    source = folder / "checkout"
    for package in PACKAGES:
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / package, source / package, ignore=skip)
    desk = make_desk(folder, sample, source)
    yield desk
    desk.end_everything()
