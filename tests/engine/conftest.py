"""Run directories with small indexed datasets, and real ranks on them."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tokenizers import Tokenizer, models

from jobs.checkpoints import manifest
from jobs.contract import done_markers, rundir, specs
from jobs.contract.errors import TaskError
from jobs.contract.files import read_json, sampled_sha256, sha256, write_json
from jobs.contract.metrics_log import MetricLine, MetricsLog, PeriodLine, StepLine, ValidationLine
from jobs.contract.stage_specs import (
    OptimizerSpec,
    ParallelSpec,
    PretrainSpec,
    TrainingSpec,
)
from jobs.conversion.sharded_reader import ShardedReader
from jobs.data import sample_index
from jobs.data.sample_trace import Trace
from jobs.supervision.ranks.launcher import reserved_port

from ..fork_server import ForkedRank, ForkServer
from ..model_specs import corpus_spec, model_spec, tokenizer_ref
from ..ranks import wait_until
from ..task_specs import task_spec

if TYPE_CHECKING:
    import torch

REPOSITORY = Path(__file__).resolve().parents[2]

INTERPRETED = ("-m", "jobs")
"""The program of a rank in an interpreter of its own, as the supervisor starts it."""

VOCABULARY = 96
"""Tokens of the test tokenizer; the last is the end of a document."""

EOD = VOCABULARY - 1

SEQUENCE = 32

MODEL = model_spec(
    layers=2,
    hidden_size=64,
    ffn_hidden_size=128,
    attention_heads=4,
    kv_heads=2,
    seq_length=SEQUENCE,
    vocab_size=VOCABULARY,
    padded_vocab_size=128,
)


def parallel_spec(tensor: int = 1, pipeline: int = 1, data: int = 1, **more: Any) -> ParallelSpec:
    """Return a layout with sequence parallelism where there is more than one tensor rank."""
    values = {
        "sequence_parallel": tensor > 1,
        "distributed_optimizer": True,
        "recompute": "none",
        **more,
    }
    return ParallelSpec(tensor=tensor, pipeline=pipeline, data=data, **values)


SPEC = PretrainSpec(
    model=MODEL,
    parallel=parallel_spec(),
    device="cpu",
    precision="fp32",
    weights="random",
    corpora=corpus_spec(
        *(f"tokens/train/{shard:05d}" for shard in range(3)),
        validation=("tokens/validation/00000",),
    ),
    tokenizer=tokenizer_ref("tokenizer.json"),  # ``make_run`` adds the digest
    micro_batch_size=2,
    global_batch_size=4,
    train_steps=8,
    optimizer=OptimizerSpec(
        learning_rate=3e-3,
        min_learning_rate=3e-4,
        warmup_steps=2,
        decay_steps=8,
        adam_beta1=0.9,
        adam_beta2=0.95,
        adam_eps=1e-8,
        weight_decay=0.1,
        clip_grad=1.0,
    ),
    seed=1234,
    validation_interval=4,
    validation_batches=2,
    save_interval=4,
    keep_checkpoints=2,
    checkpoint_dir="checkpoints",
    tensorboard_dir="tensorboard",
    index_dir="tokens/index",
)

LONG = {"train_steps": 60, "decay_steps": 60, "save_interval": 25, "validation_interval": 0}
"""Changes to ``SPEC`` for a training that takes long enough to be hit."""


@dataclass
class Ranks:
    """The processes of one attempt."""

    processes: Sequence[subprocess.Popen[str] | ForkedRank]
    logs: list[Path]
    port: ExitStack
    """Keeps the port of their rendezvous reserved."""

    def wait(self) -> list[int]:
        """Return the exit codes, once all ranks have exited."""
        with self.port:
            return [process.wait(timeout=300) for process in self.processes]

    def signal(self, number: int) -> None:
        """Send a signal to every rank and to its children, as Slurm does."""
        for process in self.processes:
            os.killpg(process.pid, number)

    def output(self) -> str:
        return "\n".join(log.read_text() for log in self.logs)


@dataclass
class Run:
    """A run directory with a task that trains."""

    root: Path
    spec: TrainingSpec
    server: ForkServer
    stage: str = "pretrain"
    attempt: int = 0
    indexes: bool = True
    """Before ranks start, their samples are laid out, as the stage ``index`` does it."""
    started: list[Ranks] = field(default_factory=list)

    @property
    def files(self) -> rundir.RunDir:
        return rundir.RunDir(self.root)

    def change(self, **values: Any) -> None:
        """Write the task's spec anew with other values."""
        names = OptimizerSpec.__dataclass_fields__.keys() & values.keys()
        changes = {name: values.pop(name) for name in names}
        optimizer = dataclasses.replace(self.spec.optimizer, **changes)
        self.spec = dataclasses.replace(self.spec, **{"optimizer": optimizer, **values})
        task = task_spec(self.stage, self.spec, ranks=self.spec.parallel.world_size)
        write_json(self.files.spec(self.stage, 0), specs.to_json(task))

    def start(self, *program: str, code: str = "", **environment: str) -> Ranks:
        """Start every rank: forked, running ``code`` where it is given, or in an interpreter of its
        own with a program or a GPU.
        """
        if self.spec.device == "cuda":  # the fork server has put the CPU in its place
            program = program or INTERPRETED
        if self.indexes and isinstance(self.spec, PretrainSpec):
            with suppress(TaskError):  # the ranks refuse the same
                sample_index.build(self.files, self.spec)
        self.attempt += 1
        world = self.spec.parallel.world_size
        reserved = ExitStack()
        shared = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONWARNINGS": "ignore",
            "OMP_NUM_THREADS": "1",
            "MEDITRON_ATTEMPT": str(self.attempt),
            "WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(reserved.enter_context(reserved_port())),
            **environment,
        }
        logs = [self.root / f"rank-{self.attempt}-{rank}.log" for rank in range(world)]
        processes: list[subprocess.Popen[str] | ForkedRank] = []
        words = (self.stage, str(self.root), "0")
        for rank, log in enumerate(logs):
            env = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            if not program:
                rank_process = self.server.start(
                    words, env=env, cwd=self.root, stdout=log, code=code
                )
                processes.append(rank_process)
                continue
            with log.open("w") as output:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, *program, *words],
                        cwd=self.root,
                        env=env,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        text=True,
                        start_new_session=True,
                    )
                )
        ranks = Ranks(processes, logs, reserved)
        self.started.append(ranks)
        return ranks

    def finish(self, *program: str, code: str = "", **environment: str) -> None:
        """Run to the target."""
        ranks = self.start(*program, code=code, **environment)
        assert ranks.wait() == [0] * self.spec.parallel.world_size, ranks.output()

    def lines(self) -> list[MetricLine]:
        return list(MetricsLog(self.files, self.stage).read_new())

    def steps(self) -> list[StepLine]:
        return [line for line in self.lines() if isinstance(line, StepLine)]

    def periods(self) -> list[PeriodLine]:
        return [line for line in self.lines() if isinstance(line, PeriodLine)]

    def trained(self, attempt: int) -> list[int]:
        """Return the steps of an attempt, in order."""
        return [line.step for line in self.steps() if line.attempt == attempt]

    def losses(self) -> dict[int, float]:
        """Return the loss of each step, the later one of a repeated step."""
        return {line.step: line.loss for line in self.steps()}

    def samples(self) -> dict[int, str]:
        """Return the fingerprint of each step's samples, the later one of a repeated step."""
        return {line.step: line.samples for line in self.steps()}

    def traced(self) -> dict[int, str]:
        """Return the fingerprint of each step's samples as ``meditron samples`` computes them."""
        assert isinstance(self.spec, PretrainSpec)
        trace = Trace(self.files, self.spec)
        return {step: str(trace.fingerprint(step)) for step in self.samples()}

    def validations(self) -> dict[int, float]:
        return {line.step: line.loss for line in self.lines() if isinstance(line, ValidationLine)}

    def rank_exit(self, rank: int = 0) -> dict[str, Any]:
        """Return the rank exit record of the last attempt."""
        folder = self.files.attempt(self.stage, self.attempt)
        return read_json(folder / f"rank-exit-00000-{rank:05d}.json")

    def checkpoints(self) -> list[str]:
        folder = self.root / self.spec.checkpoint_dir
        return sorted(path.name for path in folder.glob("iter_*"))

    def until_step(self, step: int) -> None:
        """Wait until the metrics have a step of the running attempt."""
        ranks = self.started[-1]

        def is_there() -> bool:
            return any(line.step >= step and line.attempt == self.attempt for line in self.lines())

        def has_ended() -> bool:
            return all(process.poll() is not None for process in ranks.processes)

        wait_until(lambda: is_there() or has_ended())
        assert is_there(), f"no step {step}:\n{ranks.output()}"

    def end_all(self) -> None:
        for ranks in self.started:
            for process in ranks.processes:
                if process.poll() is None:
                    with suppress(ProcessLookupError):  # it has just ended
                        os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            ranks.port.close()


WRITER = """
import json, sys
import numpy
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
for prefix, documents in json.load(sys.stdin).items():
    builder = IndexedDatasetBuilder(prefix + ".bin", dtype=numpy.uint16)
    for document in documents:
        builder.add_document(numpy.array(document, dtype=numpy.uint16), [len(document)])
    builder.finalize(prefix + ".idx")
"""


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory, fork_server: ForkServer) -> Path:
    """Indexed datasets by name, written by megatron.core's own builder."""
    folder = tmp_path_factory.mktemp("tokens")
    datasets = {
        "train-0": counting_documents(40, seed=0),
        "train-1": [],
        "train-2": counting_documents(25, seed=2),
        "validation": counting_documents(12, seed=99),
        "other": counting_documents(30, seed=5),
        "beyond": [[1, 2, VOCABULARY, 3]],
        "ends": [[EOD] * 200],
        "uneven": uneven_documents(60, seed=7),
        "marked": marked_documents(160, seed=3),
    }
    content = json.dumps({str(folder / name): texts for name, texts in datasets.items()})
    fork_server.run(WRITER, folder, stdin=content)
    return folder


def copy_tokens(source: Path, run: rundir.RunDir, prefix: str) -> None:
    """Copy an indexed dataset to a prefix in a run, with the done marker that tokenize writes."""
    outputs = []
    for suffix in (".bin", ".idx"):
        path = run.path(f"{prefix}{suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(f"{source}{suffix}", path)
        outputs.append(done_markers.describe_file(run, f"{prefix}{suffix}"))
    outputs[0]["sampled_sha256"] = sampled_sha256(run.path(f"{prefix}.bin"))
    done_markers.write_done(
        run,
        "tokenize",
        int(prefix[-1]) if "train" in prefix else 3,
        spec_digest="",
        inputs=[],
        outputs=outputs,
        summary={"vocabulary": specs.digest(SPEC.tokenizer.vocabulary)},
        seconds=0.0,
    )


def counting_documents(count: int, seed: int) -> list[list[int]]:
    """Return documents that count upwards from a random token: easy to learn, all different."""
    source = random.Random(seed)
    texts = []
    for _ in range(count):
        start, length = source.randrange(EOD), source.randrange(20, 90)
        texts.append([(start + place) % EOD for place in range(length)] + [EOD])
    return texts


def marked_documents(count: int, seed: int) -> list[list[int]]:
    """Return documents as ``counting_documents`` without the last token before the end of a
    document, which one in the middle has once.
    """
    texts = [
        [min(token, EOD - 2) for token in text[:-1]] for text in counting_documents(count, seed)
    ]
    texts[count // 2][3] = EOD - 1
    return [[*text, EOD] for text in texts]


def uneven_documents(count: int, seed: int) -> list[list[int]]:
    """Return documents of random tokens, of a few or of many, and some whose every token ends a
    document: the samples made of them have between none and all of their tokens scored.
    """
    source = random.Random(seed)
    texts = []
    for number in range(count):
        length = source.choice((0, 1, 3, 40, 90))
        texts.append([source.randrange(EOD) for _ in range(length)] + [EOD])
        if number % 6 == 0:
            texts.append([EOD] * source.choice((30, 70)))
    return texts


def write_tokenizer(path: Path) -> None:
    """Write a tokenizer of numbers, its vocabulary a list as in models made by SentencePiece."""
    made = Tokenizer(models.Unigram([(str(token), -1.0) for token in range(EOD)], unk_id=0))
    made.add_special_tokens(["<EOD>"])
    made.save(str(path))


@pytest.fixture
def make_run(tmp_path: Path, tokens: Path, fork_server: ForkServer) -> Iterator[Callable[..., Run]]:
    """Make run directories; ranks that run at the end of the test are killed."""
    runs: list[Run] = []

    def make(name: str = "run", **values: Any) -> Run:
        runs.append(new_run(tmp_path / name, tokens, fork_server, **values))
        return runs[-1]

    yield make
    for run in runs:
        run.end_all()


def new_run(root: Path, tokens: Path, server: ForkServer, **values: Any) -> Run:
    """Make a run directory with tokens and ``SPEC`` with some values replaced."""
    run = Run(root, SPEC, server)
    for shard in range(3):
        copy_tokens(tokens / f"train-{shard}", run.files, f"tokens/train/{shard:05d}")
    copy_tokens(tokens / "validation", run.files, "tokens/validation/00000")
    write_tokenizer(root / "tokenizer.json")
    tokenizer = dataclasses.replace(SPEC.tokenizer, sha256=sha256(root / "tokenizer.json"))
    run.change(**{"tokenizer": tokenizer, **values})
    return run


@pytest.fixture(scope="session")
def undisturbed(
    tokens: Path, fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, float]:
    """Losses of one undisturbed rank, of the steps of ``LONG``."""
    run = new_run(tmp_path_factory.mktemp("undisturbed") / "run", tokens, fork_server, **LONG)
    run.finish()
    return run.losses()


@pytest.fixture(scope="session")
def layout() -> Callable[..., ParallelSpec]:
    return parallel_spec


@pytest.fixture
def replace_tokens(tokens: Path) -> Callable[[Run, str, str], None]:
    """Replace a dataset of a run by one of ``tokens``."""

    def replace(run: Run, prefix: str, name: str) -> None:
        copy_tokens(tokens / name, run.files, prefix)

    return replace


def stored_weights(checkpoints: Path, step: int) -> dict[str, torch.Tensor]:
    """Return the weights of a checkpoint in float64; those of layers have the layer first."""
    reader = ShardedReader(checkpoints / manifest.name(step))
    names = [name for name in reader.tensors if name.endswith("weight") and "optimizer" not in name]
    return {name: reader.read(name).double() for name in names}
