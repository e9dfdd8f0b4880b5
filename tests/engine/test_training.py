"""Real ranks train, in every layout."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import pytest

from jobs.contract import done_markers, specs
from jobs.contract.files import read_json
from jobs.contract.metrics_log import ValidationLine
from jobs.contract.stage_specs import CorpusSpec, RopeScaling

from .conftest import INTERPRETED, SPEC, Run, new_run

pytestmark = pytest.mark.engine

FULL = pytest.mark.full


@pytest.fixture(scope="session")
def padded(tokens, fork_server, tmp_path_factory) -> Run:
    """Return a finished run of four steps; the embedding of its model has 32 rows of padding."""
    run = new_run(tmp_path_factory.mktemp("padded") / "run", tokens, fork_server, train_steps=4)
    run.finish()
    return run


def test_one_rank_learns_and_writes_its_outputs(make_run):
    run = make_run(train_steps=40, decay_steps=40, validation_interval=20, save_interval=10)

    run.finish(*INTERPRETED)

    losses, validations = run.losses(), run.validations()
    assert list(losses) == list(range(1, 41))
    assert losses[40] < losses[1] - 1.5
    assert list(validations) == [0, 20, 40]
    assert validations[40] < validations[0] - 1.5
    assert run.checkpoints() == ["iter_0000000", "iter_0000020", "iter_0000030", "iter_0000040"]
    assert any((run.root / "tensorboard").iterdir())
    progress = json.loads(run.files.progress("pretrain", 0).read_text())
    assert (progress["step"], progress["target_step"], progress["phase"]) == (40, 40, "step")
    assert progress["tokens"] == progress["target_tokens"] == 40 * 4 * 32
    summary = read_json(run.files.done("pretrain", 0))["summary"]
    assert summary["steps"] == 40
    assert (summary["loss_first"], summary["loss_last"]) == (losses[1], losses[40])
    assert summary["validation_last"] == validations[40]
    assert done_markers.is_done(run.files, "pretrain", 0, specs.digest(run.spec))


def test_the_learning_rate_rises_to_its_peak_and_falls_to_its_minimum(make_run):
    run = make_run(train_steps=10, decay_steps=8, warmup_steps=4)

    run.finish()

    rates = {line.step: line.learning_rate for line in run.steps()}
    assert rates[1] == pytest.approx(run.spec.optimizer.learning_rate / 4)
    assert rates[4] == pytest.approx(run.spec.optimizer.learning_rate)
    middle = (run.spec.optimizer.learning_rate + run.spec.optimizer.min_learning_rate) / 2
    assert rates[6] == pytest.approx(middle)
    assert rates[8] == rates[10] == pytest.approx(run.spec.optimizer.min_learning_rate)


def test_each_corpus_is_validated_by_itself(make_run, tokens):
    """One made by this run, of documents that count, and one made elsewhere, of random tokens."""
    other = CorpusSpec("other", (), (str(tokens / "uneven"),))
    corpora = (*SPEC.corpora, other)
    run = make_run(train_steps=20, decay_steps=20, corpora=corpora, save_interval=20)
    alone = make_run("alone", train_steps=20, decay_steps=20, save_interval=20)

    run.finish()
    alone.finish()

    first, *_, last = (line for line in run.lines() if isinstance(line, ValidationLine))
    assert list(last.corpora) == ["corpus", "other"]
    losses = {name: found["loss"] for name, found in last.corpora.items()}
    assert losses["corpus"] == alone.validations()[20]
    assert losses["corpus"] < first.corpora["corpus"]["loss"] - 0.5
    assert losses["other"] > losses["corpus"] + 0.5
    assert last.loss == pytest.approx(sum(losses.values()) / 2)
    assert all(
        found["perplexity"] == pytest.approx(math.exp(found["loss"]))
        for found in last.corpora.values()
    )


def test_bf16_follows_fp32(make_run):
    full = make_run("full")
    half = make_run("half", precision="bf16")

    full.finish()
    half.finish()

    assert list(half.losses().values()) == pytest.approx(list(full.losses().values()), abs=0.02)


@pytest.mark.full
def test_a_checkpoint_gives_the_same_validation_loss_in_every_layout(make_run, layout, tmp_path):
    saved = make_run("saved", parallel=layout(data=2), train_steps=4)
    saved.finish()
    expected = saved.validations()[4]

    for name, sizes in {
        "alone": {},
        "tensor": {"tensor": 2},
        "pipeline": {"pipeline": 2},
        "both": {"tensor": 2, "pipeline": 2},
    }.items():
        run = make_run(name, parallel=layout(**sizes), train_steps=4)
        take_over(saved.root, run.root)

        run.finish()

        assert run.losses() == {}
        assert run.validations()[4] == pytest.approx(expected, abs=1e-5)


def test_training_resumes_in_another_layout_from_a_step_to_keep(make_run, layout):
    whole = make_run("whole")
    whole.finish()
    before = make_run("before", save_interval=6, keep_checkpoints=0, keep_steps=(4,))
    before.finish()
    kept = [path.name for path in sorted((before.root / "checkpoints").glob("iter_*"))]
    assert kept == ["iter_0000000", "iter_0000004", "iter_0000008"]
    after = make_run("after", parallel=layout(tensor=2))
    take_over(before.root, after.root)
    shutil.rmtree(after.root / "checkpoints" / "iter_0000008")

    after.finish()

    assert list(after.losses()) == [5, 6, 7, 8]
    assert after.samples() == after.traced()
    assert whole.samples() == {**before.samples(), **after.samples()}
    expected = [whole.losses()[step] for step in (5, 6, 7, 8)]
    assert list(after.losses().values()) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("rows", "sizes"),
    [(96, {}), (256, {}), (256, {"tensor": 2}), pytest.param(512, {"pipeline": 2}, marks=FULL)],
)
def test_a_checkpoint_gives_the_same_validation_loss_whatever_the_padding(
    make_run, layout, padded, rows, sizes
):
    run = make_run(
        model=dataclasses.replace(padded.spec.model, padded_vocab_size=rows),
        parallel=layout(**sizes),
        train_steps=4,
    )
    take_over(padded.root, run.root)

    run.finish()

    assert run.losses() == {}
    assert run.validations()[4] == pytest.approx(padded.validations()[4], abs=1e-6)


EVERYTHING = {
    "head_dim": 32,
    "rope_scaling": RopeScaling(8.0, 1.0, 4.0, 16),
    "tied_embeddings": True,
    "qkv_bias": True,
    "qk_norm": True,
}
"""Changes to a model: each adds tensors or shapes of its own."""


@pytest.mark.parametrize(
    ("changes", "sizes", "distributed"),
    [
        (EVERYTHING, {"pipeline": 2}, True),
        ({"post_norm": True}, {"tensor": 2}, False),
        pytest.param({"post_norm": True}, {"tensor": 2}, True, marks=FULL),
        pytest.param(EVERYTHING, {"pipeline": 2}, False, marks=FULL),
        pytest.param(EVERYTHING, {"pipeline": 2, "data": 2}, True, marks=FULL),
        pytest.param(EVERYTHING, {"tensor": 2, "pipeline": 2}, True, marks=FULL),
        pytest.param({"post_norm": True}, {"tensor": 2, "pipeline": 2}, False, marks=FULL),
    ],
)
def test_models_of_other_families_resume_in_another_layout(
    make_run, layout, changes, sizes, distributed
):
    options = {"save_interval": 4, "keep_checkpoints": 8}
    options["model"] = dataclasses.replace(SPEC.model, **changes)
    whole = make_run("whole", **options, parallel=layout(distributed_optimizer=distributed))
    whole.finish()
    split = make_run(
        "split", **options, parallel=layout(**sizes, distributed_optimizer=distributed)
    )
    take_over(whole.root, split.root)
    shutil.rmtree(split.root / "checkpoints" / "iter_0000008")

    split.finish()

    assert list(split.losses()) == [5, 6, 7, 8]
    expected = [whole.losses()[step] for step in (5, 6, 7, 8)]
    assert list(split.losses().values()) == pytest.approx(expected, abs=1e-5)
    assert split.validations()[8] == pytest.approx(whole.validations()[8], abs=1e-5)
    names = (split.root / "checkpoints/iter_0000008/.metadata").read_bytes()
    assert b"embedding.word_embeddings.weight" in names
    assert (b"output_layer" in names) is not options["model"].tied_embeddings


def take_over(source: Path, target: Path) -> None:
    """Give one run directory the checkpoints of another."""
    shutil.copytree(source / "checkpoints", target / "checkpoints")
