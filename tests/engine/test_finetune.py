"""Finetuning on rows of unequal length: its loss, its layouts, its start and its resume."""

from __future__ import annotations

import dataclasses
import json
import random
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from jobs.checkpoints import manifest
from jobs.contract.files import sha256
from jobs.contract.stage_specs import FinetuneSpec, StartRef
from jobs.data.indexed_dataset import IndexedWriter

from . import plain_llama
from .conftest import MODEL, SPEC, Run, new_run, parallel_spec, stored_weights, write_tokenizer

pytestmark = pytest.mark.engine

FULL = pytest.mark.full

STEPS = 20
SMALL = dataclasses.replace(MODEL, layers=4, hidden_size=32, ffn_hidden_size=64, head_dim=8)
ROWS = 27
"""No multiple of a batch: epochs end within one."""
GROWN = ("<|im_start|>", "<|im_end|>")
FOLDER = "finetune/exam"

FINETUNE = FinetuneSpec(
    name="exam",
    start=StartRef("last", 2, "checkpoints"),
    rows_dir=f"{FOLDER}/rows",
    model=dataclasses.replace(SMALL, vocab_size=SMALL.vocab_size + len(GROWN)),
    parallel=parallel_spec(),
    device="cpu",
    precision="fp32",
    tokenizer=dataclasses.replace(SPEC.tokenizer, grown=GROWN),
    micro_batch_size=2,
    global_batch_size=8,
    train_steps=STEPS,
    optimizer=dataclasses.replace(
        SPEC.optimizer,
        learning_rate=1e-3,
        min_learning_rate=1e-4,
        warmup_steps=4,
        decay_steps=STEPS,
        adam_eps=1e-5,
    ),
    seed=7,
    validation_interval=10,
    validation_batches=2,
    save_interval=STEPS,
    keep_checkpoints=2,
    checkpoint_dir=f"{FOLDER}/checkpoints",
    tensorboard_dir=f"{FOLDER}/tensorboard",
)


@dataclasses.dataclass(frozen=True)
class Row:
    """A row, and where its answer begins."""

    ids: list[int]
    answer: int


def uneven_rows(count: int, seed: int) -> list[Row]:
    """Return rows of random tokens, of a few or of many, some of them all answer."""
    source = random.Random(seed)
    rows = []
    for _ in range(count):
        length = source.choice((3, 9, 20, 33))
        ids = [source.randrange(FINETUNE.model.vocab_size) for _ in range(length)]
        rows.append(Row(ids, source.choice((0, 1, length // 2, length - 1))))
    return rows


TRAIN, HELD_OUT = uneven_rows(ROWS, seed=1), uneven_rows(11, seed=2)


def write_rows(folder: Path) -> None:
    """Write rows as the stage ``prepare`` does."""
    for name, rows in (("train", TRAIN), ("validation", HELD_OUT)):
        writer = IndexedWriter(folder / name, "uint16")
        lengths = numpy.array([len(row.ids) for row in rows], dtype=numpy.int32)
        ids = numpy.concatenate([numpy.array(row.ids, dtype="<u2") for row in rows])
        writer.add(ids, lengths)
        writer.publish()
        answers = numpy.array([row.answer for row in rows], dtype=numpy.int32)
        numpy.save(folder / f"{name}.answers.npy", answers)


@pytest.fixture(scope="session")
def source(tokens, fork_server, tmp_path_factory) -> Path:
    """Checkpoints of a pretraining."""
    folder = tmp_path_factory.mktemp("source") / "run"
    run = new_run(folder, tokens, fork_server, model=SMALL, train_steps=2)
    run.finish()
    return run.root / "checkpoints"


def finetuning(root: Path, source: Path, server: Any, **values: Any) -> Run:
    """Make a run directory with rows, and a finetuning that starts from a pretraining's weights."""
    run = Run(root, FINETUNE, server, "finetune")
    write_rows(run.files.path(FINETUNE.rows_dir))
    write_tokenizer(root / "tokenizer.json")
    digest = sha256(root / "tokenizer.json")
    (root / "checkpoints").symlink_to(source)
    run.change(tokenizer=dataclasses.replace(FINETUNE.tokenizer, sha256=digest), **values)
    return run


@pytest.fixture(scope="session")
def alone(source, fork_server, tmp_path_factory) -> Run:
    """Finished finetuning of one rank."""
    run = finetuning(tmp_path_factory.mktemp("alone") / "run", source, fork_server)
    run.finish()
    return run


@pytest.fixture
def make(tmp_path, source, fork_server) -> Iterator[Any]:
    runs: list[Run] = []

    def make_one(**values: Any) -> Run:
        runs.append(finetuning(tmp_path / "run", source, fork_server, **values))
        return runs[-1]

    yield make_one
    for run in runs:
        run.end_all()


def batches(spec: FinetuneSpec) -> list[list[Row]]:
    """Return the rows of each step."""
    order: list[int] = []
    while len(order) < spec.train_steps * spec.global_batch_size:
        epoch = len(order) // ROWS
        order += numpy.random.RandomState([spec.seed, epoch]).permutation(ROWS).tolist()
    size = spec.global_batch_size
    return [[TRAIN[n] for n in order[at : at + size]] for at in range(0, STEPS * size, size)]


def loss_of(
    weights: plain_llama.Weights, spec: FinetuneSpec, rows: list[Row]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weighted sum of the losses of some rows' tokens, and the sum of weights."""
    total, weight = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for row in rows:
        losses = plain_llama.row_loss(weights, spec.model, torch.tensor(row.ids))
        places = torch.arange(1, len(row.ids))
        each = torch.where(places >= row.answer, 1.0, spec.prompt_loss_weight).double()
        total, weight = total + (losses * each).sum(), weight + each.sum()
    return total, weight


def batch_loss(weights: plain_llama.Weights, spec: FinetuneSpec, rows: list[Row]) -> torch.Tensor:
    """Return the loss of a step by the definition of each average."""
    if spec.loss_average == "tokens":
        total, weight = loss_of(weights, spec, rows)
        return total / weight
    size = spec.micro_batch_size
    parts = [loss_of(weights, spec, rows[at : at + size]) for at in range(0, len(rows), size)]
    return torch.stack([total / weight for total, weight in parts]).mean()


def grown_weights(source: Path) -> plain_llama.Weights:
    """Return the weights of the pretraining, each new row equal to the last one before."""
    weights = stored_weights(source, 2)
    for name in ("embedding.word_embeddings.weight", "output_layer.weight"):
        known = weights[name][: MODEL.vocab_size]
        weights[name] = torch.cat([known, known[-1:].expand(len(GROWN), -1)])
    return weights


@pytest.mark.parametrize(
    "values",
    [{}, {"loss_average": "micro-batches", "prompt_loss_weight": 0.3}],
    ids=["tokens", "micro-batches"],
)
def test_one_rank_computes_what_plain_pytorch_computes(request, make, source, values):
    run = make(**values) if values else request.getfixturevalue("alone")
    if values:
        run.finish()
    spec = run.spec
    weights = grown_weights(source)
    began = stored_weights(run.root / spec.checkpoint_dir, 0)
    for name in weights:
        assert torch.equal(began[name][: len(weights[name])], weights[name]), name

    steps = [partial(batch_loss, spec=spec, rows=rows) for rows in batches(spec)]
    expected = plain_llama.train(weights, spec.optimizer, steps)

    trained = stored_weights(run.root / spec.checkpoint_dir, STEPS)
    for line, (loss, norm) in zip(run.steps(), expected, strict=True):
        assert line.loss == pytest.approx(loss, abs=1e-6)
        assert line.grad_norm == pytest.approx(norm, rel=1e-5)
    for name in weights:
        assert torch.allclose(trained[name][: len(weights[name])], weights[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "values",
    [
        {"micro_batch_size": 1},
        {"micro_batch_size": 4},
        {"parallel": parallel_spec(data=2)},
        {"parallel": parallel_spec(tensor=2)},
        {"parallel": parallel_spec(pipeline=2)},
        {"packing": True, "micro_batch_size": 1},
        {"packing": True, "parallel": parallel_spec(pipeline=2), "micro_batch_size": 1},
        pytest.param({"parallel": parallel_spec(2, 2, 2), "micro_batch_size": 1}, marks=FULL),
        pytest.param({"parallel": parallel_spec(pipeline=2, virtual=2)}, marks=FULL),
        pytest.param(
            {"packing": True, "parallel": parallel_spec(2, 2, 2), "micro_batch_size": 1}, marks=FULL
        ),
    ],
    ids=str,
)
def test_steps_are_the_same_however_rows_are_divided(make, alone, values):
    run = make(**values)

    run.finish()

    assert run.samples() == alone.samples()
    for line, other in zip(run.steps(), alone.steps(), strict=True):
        assert line.loss == pytest.approx(other.loss, abs=3e-6)
        assert line.grad_norm == pytest.approx(other.grad_norm, rel=3e-6)
        assert line.tokens == other.tokens
    for step, loss in alone.validations().items():
        assert run.validations()[step] == pytest.approx(loss, abs=3e-6)


def test_tokens_are_those_of_the_rows(alone):
    lengths = [[len(row.ids) for row in rows] for rows in batches(alone.spec)]

    assert [line.tokens for line in alone.steps()] == numpy.cumsum([*map(sum, lengths)]).tolist()


def test_the_checkpoint_names_where_its_training_began(alone, source):
    saved = manifest.find_latest(alone.root / alone.spec.checkpoint_dir)
    assert saved
    began = manifest.read(source / manifest.name(2))

    start = saved[1].origin["start"]
    assert (saved[1].origin["weights"], saved[1].grown) == ("random", list(GROWN))
    assert (start["step"], start["manifest"]) == (2, began.manifest)


KILLED = """
import os, signal, sys
from jobs.__main__ import main
from jobs.engine import trainer

class Reporter(trainer.Reporter):
    def step(self, number, *values):
        super().step(number, *values)
        if number == 13:
            os.kill(os.getpid(), signal.SIGKILL)

trainer.Reporter = Reporter
sys.exit(main())
"""
"""A training that dies in its thirteenth step."""


def test_a_finetuning_that_was_killed_goes_on_with_the_same_losses(make, alone):
    run = make(save_interval=5, async_save=False)

    assert run.start(code=KILLED).wait() == [-signal.SIGKILL]
    run.finish()

    assert run.trained(2) == list(range(11, STEPS + 1))
    assert run.losses() == alone.losses()
    assert run.samples() == alone.samples()
    assert run.validations() == alone.validations()
    # Scores name the weights by this digest.
    assert digest_of_last(run) == digest_of_last(alone)


def digest_of_last(run):
    """Return the digest of the manifest of the last checkpoint."""
    _, record = manifest.at_step(run.root / run.spec.checkpoint_dir, STEPS)
    return record.manifest


GROWTH = """
import json, sys
from dataclasses import replace
import torch
from jobs.contract.specs import load_task
from jobs.contract.rundir import RunDir
from pathlib import Path
from jobs.engine import device
run = RunDir(Path(sys.argv[1]))
spec = load_task(run, "finetune", 0).spec
place = device.start("cpu", 0, 1, 0)
from jobs.engine import model
from jobs.engine.kinds import growth
model.start_parallel(spec.parallel, 0)
network = model.build(spec.model, spec.parallel, "fp32", place, for_inference=True)
tokens = torch.arange(30)[None]
before = model.logits(network, tokens)[0]
found = {}
for rule in ("repeat-last-row", "mean", "copy:5"):
    growth.grow([network], 96, rule, 5)
    after = model.logits(network, tokens)[0]
    expected = {"mean": before[:, :96].mean(1), "copy:5": before[:, 5]}.get(rule, before[:, 95])
    found[rule] = [
        float((after[:, :96] - before[:, :96]).abs().max()),
        float((after[:, 96:] - expected[:, None]).abs().max()),
    ]
device.end()
Path("found.json").write_text(json.dumps(found))
"""


def test_new_rows_follow_their_rule_and_scores_of_old_tokens_stay(make, fork_server):
    run = make()

    fork_server.run(GROWTH, run.root, str(run.root))

    found = json.loads((run.root / "found.json").read_text())
    assert found.keys() == {"repeat-last-row", "mean", "copy:5"}
    for old, new in found.values():
        assert old == 0.0
        assert new < 1e-6


def test_another_start_of_the_same_training_is_refused(make):
    run = make(train_steps=2)
    run.finish()
    run.change(start=StartRef("first", 2, "checkpoints"), train_steps=4)

    assert run.start().wait() == [2]
    assert (
        "its training began with step 2 of checkpoints, this one names step 0 of checkpoints"
        in (run.started[-1].output())
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"start": StartRef("last", 9, "checkpoints")}, "no unfinished model is finetuned"),
        ({"model": dataclasses.replace(FINETUNE.model, norm_eps=1.0)}, "another architecture"),
        ({"prompt_loss_weight": 0.123}, "not a number of hundredths from 0 to 1"),
        ({"model": dataclasses.replace(FINETUNE.model, seq_length=31)}, "has more than 31 tokens"),
    ],
    ids=["unfinished", "other model", "weight", "length"],
)
def test_what_cannot_be_finetuned_is_refused(make, values, words):
    ranks = make(**values).start()

    assert ranks.wait() == [2]
    assert words in ranks.output()
