"""Loss and gradient norm are the same in every layout and for every micro-batch size, where rows
have unequal numbers of scored tokens; and those of a plain PyTorch Llama.
"""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.checkpoints import manifest
from jobs.contract.stage_specs import ParallelSpec
from jobs.conversion.sharded_reader import ShardedReader

from ..model_specs import corpus_spec
from . import plain_llama
from .conftest import MODEL, Run, copy_tokens, new_run, parallel_spec, stored_weights

pytestmark = pytest.mark.engine

FULL = pytest.mark.full

STEPS = 20

TRAINING: dict[str, Any] = {
    "corpora": corpus_spec("tokens/train/00000", validation=("tokens/validation/00000",)),
    "model": dataclasses.replace(MODEL, layers=4),
    "train_steps": STEPS,
    "decay_steps": STEPS,
    "warmup_steps": 4,
    "learning_rate": 1e-3,
    "min_learning_rate": 1e-4,
    "adam_eps": 1e-5,
    "micro_batch_size": 2,
    "global_batch_size": 8,
    "validation_interval": 10,
    "save_interval": STEPS,
    "eod_mask_loss": True,
}
"""Changes to ``SPEC``; the gradients' rounding is below Adam's epsilon, the published one."""

SMALL: dict[str, Any] = {
    "model": dataclasses.replace(MODEL, hidden_size=32, ffn_hidden_size=64),
    "micro_batch_size": 1,
    "global_batch_size": 4,
    "validation_batches": 1,
}
"""Changes to ``TRAINING``, so that eight ranks of it are cheap."""

WITHIN = {"reset_attention_mask": True, "reset_position_ids": True}
"""Attention and positions within documents."""


def uneven_run(root: Path, tokens: Path, server: Any, **options: Any) -> Run:
    """Make a run directory whose samples have between none and all of their tokens scored."""
    run = new_run(root, tokens, server, **TRAINING | options)
    for prefix in ("tokens/train/00000", "tokens/validation/00000"):
        copy_tokens(tokens / "uneven", run.files, prefix)
    return run


@pytest.fixture
def make_uneven(tmp_path, tokens, fork_server) -> Iterator[Any]:
    """Make run directories with unequally scored samples."""
    runs: list[Run] = []

    def make(name: str = "run", **options: Any) -> Run:
        runs.append(uneven_run(tmp_path / name, tokens, fork_server, **options))
        return runs[-1]

    yield make
    for run in runs:
        run.end_all()


@pytest.fixture(scope="session")
def alone(tokens, fork_server, tmp_path_factory) -> Mapping[bool, Run]:
    """Finished runs of one rank: with attention across documents, and within them."""
    folder = tmp_path_factory.mktemp("alone")
    runs = {}
    for within, options in ((False, {}), (True, WITHIN)):
        runs[within] = uneven_run(folder / str(within), tokens, fork_server, **options)
        runs[within].finish()
    return runs


@pytest.fixture(scope="session")
def table() -> Iterator[list[str]]:
    """Rows of differences, printed at the end (`pytest -s`)."""
    rows: list[str] = []
    yield rows
    print("\n| ranks | loss | gradient norm | parameter norm | validation loss |")
    print("|---|---|---|---|---|")
    print("\n".join(rows))


def differences(run: Run, other: Run) -> dict[str, float]:
    """Return the largest difference at any step: of losses, absolute, and of norms, relative."""
    pairs = list(zip(run.steps(), other.steps(), strict=True))
    assert len(pairs) == STEPS
    validations, others = run.validations(), other.validations()
    assert list(validations) == list(others) == [0, 10, 20]
    return {
        "loss": max(abs(one.loss - two.loss) for one, two in pairs),
        "norm": max(abs(one.grad_norm / two.grad_norm - 1) for one, two in pairs),
        "parameters": max(
            abs(one.param_norm / two.param_norm - 1)
            for one, two in zip(run.periods(), other.periods(), strict=True)
        ),
        "validation": max(abs(validations[step] - others[step]) for step in others),
    }


def words_of(parallel: ParallelSpec, within: bool = False) -> str:
    """Return the name of a layout: its sizes, and what is special in it."""
    words = [f"TP{parallel.tensor}xPP{parallel.pipeline}xDP{parallel.data}"]
    words += [f"{parallel.virtual}-pieces"] if parallel.virtual > 1 else []
    words += ["sequence-parallel"] if parallel.sequence_parallel else []
    words += [] if parallel.distributed_optimizer else ["whole-optimizer"]
    words += [] if parallel.recompute == "none" else [f"recompute-{parallel.recompute}"]
    words += ["within-documents"] if within else []
    return " ".join(words)


SHAPES: tuple[dict[str, int], ...] = (
    {},
    {"tensor": 2},
    {"pipeline": 2},
    {"data": 2},
    {"tensor": 2, "pipeline": 2},
    {"tensor": 2, "pipeline": 2, "data": 2},
    {"pipeline": 2, "virtual": 2},
    {"pipeline": 2, "data": 2, "virtual": 2},
)
"""Each is tested with and without sequence parallelism and the distributed optimizer, and with each
kind of recomputation.
"""

GATE = (
    (parallel_spec(tensor=2, sequence_parallel=False, recompute="selective"), False),
    (parallel_spec(pipeline=2, recompute="full"), True),
    (parallel_spec(data=2), False),
    (parallel_spec(data=2, distributed_optimizer=False), True),
)
"""Layouts of `make test`, and whether attention and positions are within documents. It has two more
in tests of their own: eight ranks, and interleaved stages.
"""

FURTHER = (
    (parallel_spec(pipeline=4), False),
    (parallel_spec(tensor=2, pipeline=2, data=2, virtual=2), False),
    (parallel_spec(tensor=2), True),
    (parallel_spec(recompute="full"), True),
    (parallel_spec(pipeline=2, data=2, virtual=2), True),
    (parallel_spec(tensor=2, pipeline=2, recompute="selective"), True),
    (parallel_spec(tensor=2, pipeline=2, data=2, sequence_parallel=False), True),
)


def cases() -> Iterator[Any]:
    """Yield the layouts of the gate, then all others."""
    own = [parallel_spec(), parallel_spec(pipeline=2, virtual=2)]
    seen = [*GATE, *((parallel, False) for parallel in own)]  # have tests of their own
    yield from (pytest.param(*case, id=words_of(*case)) for case in GATE)
    choices = itertools.product(SHAPES, (True, False), (True, False), ("none", "selective", "full"))
    for sizes, sequence, distributed, recompute in choices:
        case = parallel_spec(
            **sizes,
            sequence_parallel=sequence and "tensor" in sizes,
            distributed_optimizer=distributed,
            recompute=recompute,
        )
        if (case, False) not in seen:
            seen.append((case, False))
            yield pytest.param(case, False, id=words_of(case), marks=FULL)
    yield from (pytest.param(*case, id=words_of(*case), marks=FULL) for case in FURTHER)


@pytest.mark.parametrize(("parallel", "within"), list(cases()))
def test_every_layout_has_the_losses_and_norms_of_one_rank(
    request, make_uneven, alone, table, parallel, within
):
    run = make_uneven(parallel=parallel, **(WITHIN if within else {}))
    begin_with(run, alone[within])

    run.finish()

    assert run.samples() == alone[within].samples() == run.traced()
    compare(run, alone[within], request.node.callspec.id, table)


def test_eight_ranks_have_the_losses_and_norms_of_one_rank(make_uneven, table):
    alone = make_uneven("alone", **SMALL)
    alone.finish()
    run = make_uneven("run", **SMALL, parallel=parallel_spec(2, 2, 2))
    begin_with(run, alone)

    run.finish()

    assert run.samples() == alone.samples() == run.traced()
    compare(run, alone, "TP2xPP2xDP2 sequence-parallel, small", table)


@pytest.mark.parametrize(
    "sizes",
    [(1, 1, 2), pytest.param((2, 2, 2), marks=FULL)],
    ids=lambda sizes: "x".join(map(str, sizes)),
)
def test_the_published_average_has_the_losses_and_norms_of_one_rank(make_uneven, table, sizes):
    values = {**SMALL, "loss_average": "micro-batches"}
    alone = make_uneven("alone", **values)
    alone.finish()
    run = make_uneven("run", **values, parallel=parallel_spec(*sizes))
    begin_with(run, alone)

    run.finish()

    compare(run, alone, f"{words_of(run.spec.parallel)}, mean of means, small", table)


@pytest.fixture(scope="session")
def interleaved(alone, tokens, fork_server, tmp_path_factory) -> Run:
    """Finished run of two pipeline stages in two pieces each."""
    root = tmp_path_factory.mktemp("interleaved") / "run"
    parallel = parallel_spec(pipeline=2, virtual=2)
    run = uneven_run(root, tokens, fork_server, parallel=parallel, save_interval=10)
    begin_with(run, alone[False])
    run.finish()
    return run


def test_interleaved_stages_have_the_losses_and_norms_of_one_rank(interleaved, alone, table):
    assert interleaved.samples() == alone[False].samples()
    compare(interleaved, alone[False], "TP1xPP2xDP1 2-pieces", table)


@pytest.mark.full
def test_interleaved_stages_share_a_tied_embedding(make_uneven, table):
    tied = dataclasses.replace(TRAINING["model"], tied_embeddings=True)
    alone = make_uneven("alone", model=tied)
    alone.finish()
    run = make_uneven("run", model=tied, parallel=parallel_spec(pipeline=2, virtual=2))
    begin_with(run, alone)

    run.finish()

    compare(run, alone, "TP1xPP2xDP1 2-pieces, tied embeddings", table)


def test_a_checkpoint_of_interleaved_stages_has_the_tensors_of_one_rank(interleaved, alone):
    mixed, plain = (
        ShardedReader(run.root / "checkpoints" / manifest.name(STEPS))
        for run in (interleaved, alone[False])
    )

    assert mixed.tensors.keys() == plain.tensors.keys()
    for name in plain.tensors:
        if name.startswith("decoder."):
            assert torch.allclose(mixed.read(name), plain.read(name), rtol=0, atol=1e-5), name


@pytest.mark.parametrize(
    "sizes",
    [
        {"data": 2},
        pytest.param({"tensor": 2}, marks=FULL),
        pytest.param({"pipeline": 4}, marks=FULL),
        pytest.param({"pipeline": 2, "data": 2, "virtual": 2}, marks=FULL),
    ],
    ids=str,
)
def test_training_continues_in_another_layout_than_interleaved_stages(
    make_uneven, interleaved, alone, table, sizes
):
    run = make_uneven(parallel=parallel_spec(**sizes))
    begin_with(run, interleaved, step=10)

    run.finish()

    assert run.trained(1) == list(range(11, STEPS + 1))
    rest = [line for line in alone[False].steps() if line.step > 10]
    pairs = list(zip(run.steps(), rest, strict=True))
    losses = [abs(one.loss - two.loss) for one, two in pairs]
    norms = [abs(one.grad_norm / two.grad_norm - 1) for one, two in pairs]
    name = f"TP1xPP2xDP1 2-pieces, from step 10 on {sizes}"
    table.append(f"| {name} | {max(losses):.1e} | {max(norms):.1e} | |")
    assert max(losses + norms) < 3e-6


@pytest.mark.parametrize(
    ("size", "within"),
    [(1, True), (4, False), pytest.param(1, False, marks=FULL), pytest.param(4, True, marks=FULL)],
)
def test_every_micro_batch_size_has_the_same_losses_and_norms(
    make_uneven, alone, table, size, within
):
    run = make_uneven(micro_batch_size=size, **(WITHIN if within else {}))

    run.finish()

    assert run.samples() == alone[within].samples()
    name = f"micro-batches of {size}, not 2" + (" within-documents" if within else "")
    compare(run, alone[within], name, table)


@pytest.mark.full
@pytest.mark.parametrize(
    ("sizes", "same"),
    [({"tensor": 2}, False), ({"pipeline": 2}, False), ({"data": 2}, True)],
    ids=str,
)
def test_random_weights_depend_on_tensor_and_pipeline_ranks_and_not_on_copies(
    make_uneven, alone, sizes, same
):
    run = make_uneven(parallel=parallel_spec(**sizes), train_steps=1, warmup_steps=0)

    run.finish()

    ours, others = (
        ShardedReader(place.root / "checkpoints" / manifest.name(0))
        for place in (run, alone[False])
    )
    name = "embedding.word_embeddings.weight"
    last = "output_layer.weight"
    assert ours.tensors.keys() == others.tensors.keys()
    pairs = [(ours.read(key), others.read(key)) for key in (name, last)]
    assert all(torch.equal(*pair) for pair in pairs) == same


def begin_with(run: Run, other: Run, step: int = 0) -> None:
    """Give a run the checkpoint of a step of another; random weights depend on the layout."""
    name = f"checkpoints/{manifest.name(step)}"
    shutil.copytree(other.root / name, run.root / name)


def compare(run: Run, other: Run, name: str, table: list[str]) -> None:
    largest = differences(run, other)
    table.append(
        "| {} | {loss:.1e} | {norm:.1e} | {parameters:.1e} | {validation:.1e} |".format(
            name, **largest
        )
    )
    assert max(largest.values()) < 3e-6


SAMPLES = """
import json, sys
import torch
from pathlib import Path
from jobs.contract.rundir import RunDir
from jobs.contract.specs import load_task
from jobs.data import survey
from jobs.engine import device
folder, output = sys.argv[1:]
run = RunDir(Path(folder))
spec = load_task(run, "pretrain", 0).spec
place = device.start("cpu", 0, 1, 0)
from jobs.engine import dataset, model
model.start_parallel(spec.parallel, 0)
samples = dataset.open_splits(run, spec, survey.survey(run, spec), place).train.samples
rows = [torch.from_numpy(samples[number]) for number in range(samples.samples)]
windows = torch.stack(rows)
torch.save({"tokens": windows[:, :-1].clone(), "labels": windows[:, 1:].clone()}, output)
device.end()
"""


@pytest.mark.parametrize(
    "options",
    [
        {"eod_mask_loss": False},
        {**WITHIN},
        {"reset_position_ids": True, "loss_average": "micro-batches"},
        pytest.param({}, marks=FULL),
        pytest.param({"reset_attention_mask": True}, marks=FULL),
    ],
    ids=lambda options: " ".join(map(str, options)) or "eod_mask_loss",
)
def test_one_rank_computes_what_a_plain_pytorch_llama_computes(
    request, make_uneven, fork_server, table, options
):
    run = make_uneven(**options)

    run.finish()

    samples = run.root / "samples.pt"
    fork_server.run(SAMPLES, run.root, str(run.root), str(samples))
    rows = torch.load(samples, weights_only=True)
    size = run.spec.global_batch_size
    batches = list(zip(rows["tokens"].split(size), rows["labels"].split(size), strict=True))
    weights = stored_weights(run.root / "checkpoints", 0)
    steps = [
        partial(plain_llama.batch_loss, spec=run.spec, tokens=tokens, labels=labels)
        for tokens, labels in batches
    ]
    expected = plain_llama.train(weights, run.spec.optimizer, steps)
    losses = [abs(line.loss - loss) for line, (loss, _) in zip(run.steps(), expected, strict=True)]
    norms = [
        abs(line.grad_norm / norm - 1)
        for line, (_, norm) in zip(run.steps(), expected, strict=True)
    ]
    trained = stored_weights(run.root / "checkpoints", STEPS)
    differences = [float((trained[name] - weights[name]).abs().max()) for name in weights]
    table.append(
        f"| plain PyTorch in float64, {request.node.callspec.id} | {max(losses):.1e} "
        f"| {max(norms):.1e} | weights: {max(differences):.1e} |"
    )
    before = stored_weights(run.root / "checkpoints", 0)
    assert max(float((trained[name] - before[name]).abs().max()) for name in before) > 1e-3
    assert max(losses) < 1e-6
    assert max(norms) < 1e-5
    assert max(differences) < 1e-5
