"""A run directory to put tasks in, and tasks started as they are on a node: `python -m jobs …`."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from jobs.contract import done_markers, rundir, specs
from jobs.contract.files import read_json, sha256, write_json
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import Spec, TokenizerRef, TokenizeSpec
from jobs.slurm.client import Client
from jobs.slurm.submission import Submission

from .. import fake_slurm
from ..corpus_specs import curate_spec
from ..fork_server import ForkServer
from ..model_specs import pretrain_spec, vocabulary_spec
from ..task_specs import task_spec

REPOSITORY = Path(__file__).parents[2]

SIGNAL_AT_EVENT = """
import os, runpy, sys
event, left, number = sys.argv.pop(1), int(sys.argv.pop(1)), int(sys.argv.pop(1))
def watch(name, arguments):
    global left
    if name == event:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), number)
sys.addaudithook(watch)
runpy.run_module("jobs", run_name="__main__", alter_sys=True)
"""
"""Runs `jobs`, which gets a signal just before the n-th of an audit event (os.rename, open …)."""

REGISTRY = ("eod_token", "bos_token", "base_size", "added_tokens", "control_tokens")
"""Fields of the vocabulary registry that a test of tokenize may set."""


@dataclass(frozen=True)
class Workbench:
    """One run directory and what a test does with it."""

    run: rundir.RunDir
    server: ForkServer | None = None
    """Forks the tasks, which then need not import torch; without it each has an interpreter."""

    def task(self, stage: str, spec: Spec, index: int = 0, cpus: int = 1) -> specs.TaskSpec:
        """Write a task's spec file, as the login node does."""
        task = task_spec(stage, spec, index, cpus_per_rank=cpus)
        write_json(self.run.spec(stage, index), specs.to_json(task))
        return task

    def curate(self, *sources: Path, **changes: Any) -> specs.TaskSpec:
        """Write the spec of a curate task over some sources."""
        values = {"min_chars": 10, "shards": 2, "validation_fraction": 0.2, **changes}
        return self.task("curate", curate_spec(*sources, **values))

    def tokenize(self, shard: Path | str, tokenizer: Path, **changes: Any) -> specs.TaskSpec:
        """Write the spec of a tokenize task over one shard, given by its path in the run."""
        digest = sha256(tokenizer) if tokenizer.is_file() else ""
        roles = {key: changes.pop(key) for key in REGISTRY if key in changes}
        values: dict[str, Any] = {
            "inputs": (str(shard),),
            "output_prefixes": (changes.pop("output_prefix", "tokens/train/00000"),),
            "part": 0,
            "parts": 1,
            "shard_tokens": 10**9,
            "tokenizer": TokenizerRef(
                str(tokenizer), digest, vocabulary_spec(**{"base_size": 1000} | roles)
            ),
            "text_key": "text",
            "model_vocab_size": 1000,
            "special_tokens_in_text": False,
        }
        return self.task("tokenize", TokenizeSpec(**{**values, **changes}), cpus=2)

    def training(self) -> specs.TaskSpec:
        """Write the spec of a pretraining that is to reach step 60."""
        return self.task("pretrain", pretrain_spec())

    def start(
        self,
        stage: str,
        file_limit: int | None = None,
        open_files: int | None = None,
        index: int = 0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a task of a stage; a file larger than `file_limit` bytes is refused, and more than
        `open_files` open files at once.
        """
        if self.server and not file_limit and not open_files:
            return self._fork("", stage, str(self.run.root), str(index))
        words = ["-m", "jobs", stage, str(self.run.root), str(index)]
        return self._python(words, file_limit, open_files)

    def start_and_signal(
        self, stage: str, event: str, count: int, number: int, index: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run a task of a stage and send it a signal just before the count-th audit event."""
        words = [event, str(count), str(int(number)), stage, str(self.run.root), str(index)]
        if self.server:
            return self._fork(SIGNAL_AT_EVENT, *words)
        return self._python(["-c", SIGNAL_AT_EVENT, *words], None)

    def run_code(self, code: str, *words: str, index: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a task by Python code that gets words, the last of them the stage, and the rest of
        the arguments of `jobs`.
        """
        return self._fork(code, *words, str(self.run.root), str(index))

    def done(self, stage: str) -> dict[str, Any]:
        """Return the done marker of task 0."""
        return read_json(self.run.done(stage, 0))

    def is_done(self, task: specs.TaskSpec) -> bool:
        return done_markers.is_done(self.run, task.stage, task.index, specs.digest(task.spec))

    def files(self, folder: str) -> dict[str, bytes]:
        """Return every file under a folder of the run, hidden ones too, with its content."""
        root = self.run.path(folder)
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }

    def documents(self, folder: str = "corpus/train") -> list[dict[str, Any]]:
        """Return the documents of all shards in a folder, in order."""
        shards = sorted(self.run.path(folder).glob("*.jsonl"))
        return [json.loads(line) for shard in shards for line in shard.read_text().splitlines()]

    def _fork(self, code: str, *words: str) -> subprocess.CompletedProcess[str]:
        assert self.server is not None
        outputs = [self.run.root.parent / f"{uuid4().hex}.{name}" for name in ("out", "err")]
        task = self.server.start(
            words, env=os.environ, cwd=REPOSITORY, stdout=outputs[0], stderr=outputs[1], code=code
        )
        stdout, stderr = task.communicate(timeout=300)
        assert task.returncode is not None
        return subprocess.CompletedProcess(task.args, task.returncode, stdout, stderr)

    def _python(
        self, arguments: list[str], file_limit: int | None, open_files: int | None = None
    ) -> subprocess.CompletedProcess[str]:
        def limit() -> None:
            hard = open_files or resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            soft = min(1024, hard)  # what most systems begin with
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            if file_limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

        return subprocess.run(
            [sys.executable, *arguments],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            preexec_fn=limit,
            check=False,
        )


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    """Return a run directory without any task."""
    root = tmp_path / "run"
    root.mkdir()
    return Workbench(rundir.RunDir(root))


@pytest.fixture
def forked(bench: Workbench, fork_server: ForkServer) -> Workbench:
    """Return the same run directory for tasks that import torch."""
    return dataclasses.replace(bench, server=fork_server)


@pytest.fixture(scope="module")
def module_forked(tmp_path_factory: pytest.TempPathFactory, fork_server: ForkServer) -> Workbench:
    """Return a run directory that the tests of a module share."""
    root = tmp_path_factory.mktemp("module") / "run"
    root.mkdir()
    return Workbench(rundir.RunDir(root), fork_server)


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Writes records as JSON lines under a name and answers the path."""

    def write(name: str, *records: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return path

    return write


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> fake_slurm.FakeSlurm:
    """Return the stand-ins, also on this process's PATH."""
    fake = fake_slurm.install(tmp_path / "slurm")
    fake.name_jobs("med-tiny-0.pretrain")
    monkeypatch.setenv("PATH", fake.environ["PATH"])
    return fake


@pytest.fixture
def client(programs: fake_slurm.FakeSlurm) -> Client:
    return Client(programs.environ)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """Return a run directory with what sbatch needs of it."""
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
        recovery_job={"time": 10, "nodes": 1, "cpus_per_task": 1, "partition": "cpu"},
    )
