"""A tiny tokenizer, random checkpoints of the real engine, and runs with one evaluate task."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.contract import rundir, specs
from jobs.contract.files import read_json, read_lines, sha256, write_json
from jobs.contract.stage_specs import EvaluateSpec, ParallelSpec
from jobs.supervision.ranks.launcher import reserved_port

from ..byte_tokenizer import EOD, write_byte_tokenizer
from ..fork_server import ForkedRank, ForkServer
from ..model_specs import model_spec, tokenizer_ref, vocabulary_spec
from ..ranks import PATIENCE
from ..task_specs import task_spec

ROOT = Path(__file__).parents[2]

MODEL = model_spec(
    layers=2,
    hidden_size=32,
    ffn_hidden_size=48,
    attention_heads=4,
    kv_heads=2,
    seq_length=128,
    vocab_size=257,
    padded_vocab_size=288,
)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory) -> Path:
    """Return a ``tokenizer.json`` with one token per byte, and ``<EOD>``."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    write_byte_tokenizer(path)
    return path


def question(number: int, choices: list[str], answer: int, **more: str) -> dict:
    return {
        "id": f"q{number}",
        "question": f"Which of these is number {number}?",
        "choices": choices,
        "answer": answer,
        **more,
    }


QUESTIONS = [
    question(0, ["yes", "no", "maybe", "yes please"], 0),
    question(1, ["aspirin", "heparin", "ibuprofen"], 2),
    question(2, ["iron", "zinc", "copper", "iodine"], 1),
    question(3, ["heart", "lung"], 0, subject="anatomy"),
    question(4, ["red", "green", "blue", "pink"], 3),
    question(5, ["one", "two", "three"], 1, split="train"),
    question(6, ["north", "south"], 0, split="train"),
    {**question(7, ["left", "right"], 1), "question": "Long. " * 40 + "Which side?"},
]


@pytest.fixture(scope="session")
def benchmark(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("benchmark") / "questions.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in QUESTIONS))
    return path


@dataclasses.dataclass(frozen=True)
class Made:
    """Checkpoints of steps 0, 4 and 6 (broken), and the log-likelihoods of step 4 by the model."""

    folder: Path
    answers: dict[str, list[float]]


@pytest.fixture(scope="session")
def made(tmp_path_factory, tokenizer, benchmark, fork_server) -> Made:
    from jobs.prompts import plain
    from jobs.questions import readers

    folder = tmp_path_factory.mktemp("made")
    short = [
        item for item in readers.read(benchmark, "mcq") if item.split == "test" and item.id != "q7"
    ]
    pairs = [
        (plain.prompt(item), f" {text}") for item in short for text in plain.continuations(item)
    ]
    asked = {
        "model": dataclasses.asdict(MODEL),
        "tokenizer": str(tokenizer),
        "vocabulary": dataclasses.asdict(vocabulary_spec(257, EOD)),
        "pairs": pairs,
    }
    (folder / "spec.json").write_text(json.dumps(asked))
    names = [str(folder / name) for name in ("spec.json", "checkpoints", "answers.json")]
    script = Path(__file__).with_name("make_checkpoints.py")
    fork_server.run(script.read_text(), folder, *names)
    values = iter(json.loads((folder / "answers.json").read_text()))
    answers = {item.id: [next(values) for _ in item.choices] for item in short}
    return Made(folder / "checkpoints", answers)


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a rank."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "HOME": os.environ["HOME"],
        **more,
    }


@dataclasses.dataclass
class Evaluation:
    """A run directory with one evaluate task."""

    run: rundir.RunDir
    task: specs.TaskSpec
    server: ForkServer
    starts: int = 0

    def begin(
        self, port: int = 0, code: str = "", index: int = 0, **variables: str
    ) -> list[ForkedRank]:
        """Fork every rank of the task of an index, running ``code`` where it is given; several meet
        at a port.
        """
        self.starts += 1
        logs = [self.run.root / f"{self.starts}-{rank}" for rank in range(self.task.ranks)]
        return [
            self.server.start(
                (*self.words[:-1], str(index)),
                env=environment(**(variables | self._rank(rank, port))),
                cwd=self.run.root,
                stdout=log.with_suffix(".out"),
                stderr=log.with_suffix(".err"),
                code=code,
            )
            for rank, log in enumerate(logs)
        ]

    def interpret(self, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the task of one rank in an interpreter of its own, as the supervisor does."""
        return subprocess.run(
            [sys.executable, "-m", "jobs", *self.words],
            env=environment(**variables),
            cwd=self.run.root,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    @property
    def words(self) -> tuple[str, ...]:
        return ("evaluate", str(self.run.root), "0")

    def start(self, index: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run every rank of the task to its end, and return the first rank's outcome."""
        with reserved_port() as port:
            ranks = self.begin(port, index=index, **variables)
            outcomes = [(process.communicate(timeout=PATIENCE), process) for process in ranks]
        (stdout, stderr), first = outcomes[0]
        assert all(process.returncode == first.returncode for _, process in outcomes), outcomes
        return subprocess.CompletedProcess(first.args, first.returncode, stdout, stderr)

    def _rank(self, rank: int, port: int) -> dict[str, str]:
        if self.task.ranks == 1:
            return {}
        return {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(self.task.ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }

    @property
    def folder(self) -> Path:
        return self.run.path(self.task.spec.output_dir)

    def results(self) -> dict:
        return read_json(self.folder / "results.json")

    def questions(self) -> list[dict]:
        return list(read_lines(self.folder / "questions.jsonl"))


@pytest.fixture(scope="session")
def evaluation(tmp_path_factory, tokenizer, benchmark, made, fork_server):
    """Make a run with one evaluate task on the checkpoints, with some fields replaced."""

    def make(tensor: int = 1, **fields) -> Evaluation:
        run = rundir.RunDir(tmp_path_factory.mktemp("run"))
        reference = tokenizer_ref(
            str(tokenizer),
            fields.pop("tokenizer_sha256", sha256(tokenizer)),
            fields.pop("eod_token", EOD),
            base_size=257,
            bos_token=fields.pop("bos_token", ""),
        )
        spec = EvaluateSpec(
            **{
                "benchmark": "sample",
                "path": str(benchmark),
                "kind": "mcq",
                "checkpoint": "last",
                "target_step": 4,
                "checkpoint_dir": str(made.folder),
                "model": MODEL,
                "parallel": ParallelSpec(tensor, 1, 1, tensor > 1, True, "none"),
                "device": "cpu",
                "precision": "fp32",
                "tokenizer": reference,
                "shots": 0,
                "limit": 0,
                "batch_size": 4,
                "seed": 3,
                "output_dir": "evaluations/sample/last",
                **fields,
            }
        )
        task = task_spec("evaluate", spec, ranks=tensor)
        write_json(run.spec("evaluate", 0), specs.to_json(task))
        return Evaluation(run, task, fork_server)

    return make
