"""A user at the login node of the test Slurm: a folder with an experiment, and `meditron`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.checkpoints import manifest
from jobs.contract.metrics_log import MetricsLog, StepLine
from jobs.contract.rundir import RunDir
from meditron_cli.config.files import shipped_profiles
from meditron_cli.sample import generate

from .. import exits
from .cluster import PATIENCE, Cluster

REPOSITORY = Path(__file__).parents[2]
EXPERIMENT = """\
name: trial
curate:
  sources: [docs.jsonl]
  shards: 2
  validation_fraction: 0.2
tokenize:
  tokenizer: tokenizer.json
model:
  layers: 2
  hidden_size: 64
  ffn_hidden_size: 128
  seq_length: 64
pretrain:
  micro_batch_size: 2
  global_batch_size: 8
  train_steps: 8
  max_epochs: null
  warmup_steps: 2
  save_interval: 4
  validation_interval: 4
  validation_batches: 1
evaluate:
  benchmarks:
    - {name: quiz, path: quiz.jsonl, limit: 4}
export: {step: []}
"""


@dataclass(frozen=True)
class Desk:
    """A folder and the cluster it submits to."""

    folder: Path
    slurm: Cluster
    timeout: float = PATIENCE
    """Seconds that a command may take."""

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def __call__(self, *words: str, code: int | None = 0, **more: str) -> Answer:
        """Run `meditron WORDS`, and assert its exit code unless that is None."""
        environ = {**self.slurm.env, "MEDITRON_RUNS": str(self.runs), **more}
        environ.update(PYTHONPATH=str(REPOSITORY), HOME=str(self.folder))
        environ.update(XDG_CACHE_HOME=str(self.folder / "cache"))
        done = subprocess.run(
            [sys.executable, "-m", "meditron_cli", *words],
            cwd=self.folder,
            env=environ,
            capture_output=True,
            text=True,
            timeout=self.timeout,
            check=False,
        )
        answer = Answer(done.returncode, done.stdout, done.stderr)
        assert code is None or answer.code == code, answer
        return answer

    def submit(
        self,
        stage: str,
        *overrides: str,
        cluster: str = "test-slurm",
        code: int | None = 0,
        **environ: str,
    ) -> Answer:
        """Run `meditron submit --json`."""
        sets = [word for override in overrides for word in ("--set", override)]
        words = ("submit", stage, "--cluster", cluster, "--size", "tiny", "--json", *sets)
        return self(*words, code=code, **environ)

    def status(self, run: RunDir) -> dict[str, Any]:
        """Return a run as `meditron status RUN --json` reports it."""
        (found,) = self("status", run.name, "--json").json["runs"]
        assert isinstance(found, dict)
        return found

    def profile(self, name: str, *changes: tuple[str, str]) -> None:
        """Write the shipped profile under another name, with some of its text changed."""
        text = (shipped_profiles() / "test-slurm.yaml").read_text()
        for old, new in (("name: test-slurm", f"name: {name}"), *changes):
            assert old in text
            text = text.replace(old, new, 1)
        (self.folder / "clusters").mkdir(exist_ok=True)
        (self.folder / "clusters" / f"{name}.yaml").write_text(text)

    def queued(self) -> list[str]:
        """Return the ids of all pending and running jobs, array elements one by one."""
        return self.slurm.run("squeue", "-h", "-r", "-o", "%i").split()

    def accounts(self, job_id: str, columns: str) -> list[list[str]]:
        """Return the rows of sacct for all starts of a job, without its steps."""
        text = self.slurm.run("sacct", "-D", "-n", "-P", "-X", "-o", columns, "-j", job_id)
        return [line.split("|") for line in text.splitlines()]

    def wait_end(self, *job_ids: str) -> None:
        """Wait until none of the jobs is in the queue."""
        wait(lambda: not set(job_ids) & set(self.queued()), f"the end of {', '.join(job_ids)}")


@dataclass(frozen=True)
class Answer:
    """Exit code and output of a command."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        found = json.loads(self.stdout)
        assert isinstance(found, dict)
        return found

    @property
    def jobs(self) -> dict[str, list[str]]:
        """Job ids by stage, of `submit` and `resume`."""
        found: dict[str, list[str]] = self.json["jobs"]
        return found

    @property
    def run(self) -> RunDir:
        return RunDir(Path(self.json["dir"]))


def make_desk(folder: Path, slurm: Cluster) -> Desk:
    """Write forty documents, a tokenizer, a benchmark and an experiment that names them."""
    generate.write(folder / "sample")
    documents = (folder / "sample/corpus/guideline.jsonl").read_text().splitlines()[:40]
    (folder / "docs.jsonl").write_text("\n".join(documents) + "\n")
    (folder / "sample/tokenizer.json").rename(folder / "tokenizer.json")
    (folder / "sample/benchmark/questions.jsonl").rename(folder / "quiz.jsonl")
    (folder / "experiment.yaml").write_text(EXPERIMENT)
    return Desk(folder, slurm)


def wait(happened: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(0.2)


def steps(run: RunDir, attempt: int | None = None) -> list[int]:
    """Return the recorded training steps, of one attempt or of all."""
    return [
        line.step
        for line in MetricsLog(run, "pretrain").read_new()
        if isinstance(line, StepLine) and attempt in (None, line.attempt)
    ]


def saved_steps(run: RunDir) -> list[int]:
    """Return the steps of the finished checkpoints on disk."""
    return sorted(manifest.saved_steps(run.path("checkpoints")))


def exit_of(run: RunDir, stage: str, attempt: int, index: int = 0) -> dict[str, Any]:
    """Return the exit record of a task's attempt, once it is written."""
    wait(
        lambda: bool(exits.exits(run, stage, attempt, index)),
        f"the exit of {stage} {index} attempt {attempt} in {run.events}",
    )
    return exits.exit_of(run, stage, attempt, index)


def rank_processes(run: RunDir, stage: str = "pretrain", index: int = 0) -> dict[int, int]:
    """Return the process ids of a task's training ranks by rank, from /proc."""
    found = {}
    wanted = [word.encode() for word in ("-m", "jobs", stage, str(run.root), str(index))]
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            environ = (folder / "environ").read_bytes()
        except OSError:
            continue
        rank = re.search(rb"(?:^|\0)SLURM_PROCID=(\d+)\0", environ)
        if words[2:7] == wanted and rank:
            found[int(rank[1])] = int(folder.name)
    return found


def kill_rank(run: RunDir, rank: int, stage: str = "pretrain", index: int = 0) -> None:
    """Kill a rank."""
    os.kill(rank_processes(run, stage, index)[rank], 9)


def array_of(job_ids: Iterable[str]) -> set[str]:
    """Return the arrays, or plain jobs, that ids belong to."""
    return {name.split("_")[0] for name in job_ids}
