"""Corpora of a training, and how often it may read them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from jobs.contract import done_markers
from jobs.contract.errors import TaskError
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import CorpusSpec, CorpusWeight, PhaseSpec, PretrainSpec
from jobs.data.corpora import NotAllowed, datasets, epochs_after, require_enough, rows, sizes
from jobs.data.mixture import CorpusSize
from jobs.data.tokenized import NotTokenized

from ...model_specs import corpus_spec
from .test_survey import write_dataset


@pytest.fixture
def spec(bench: Any) -> PretrainSpec:
    """Return a training of 60 steps of 4 sequences of 64 tokens, for at most 4 epochs."""
    made = bench.training().spec
    return dataclasses.replace(made, global_batch_size=4, max_epochs=4.0)


def mark(run: RunDir, index: int, tokens: int, split: str = "train") -> None:
    """Write a dataset and the done marker of its tokenization."""
    name = f"{split}/{index:05d}"
    write_dataset(run.path(f"tokens/{name}"), tokens)
    outputs = [done_markers.describe_file(run, f"tokens/{name}{end}") for end in (".bin", ".idx")]
    inputs = [{"path": f"corpus/{name}.jsonl", "bytes": 1, "mtime_ns": 1}]
    facts: dict[str, Any] = {"spec_digest": "", "inputs": inputs, "seconds": 0.0}
    summary = {"tokens": tokens, "documents": 1}
    number = index if split == "train" else 9
    done_markers.write_done(run, "tokenize", number, outputs=outputs, summary=summary, **facts)


def curate(run: RunDir, shards: int) -> None:
    """Write the done marker of a curation into so many shards, and one for validation."""
    names = [f"corpus/train/{shard:05d}.jsonl" for shard in range(shards)]
    names += ["corpus/validation/00000.jsonl", "corpus/manifest.json"]
    outputs = [{"path": name, "bytes": 1, "mtime_ns": 1} for name in names]
    facts: dict[str, Any] = {"spec_digest": "", "inputs": [], "summary": {}, "seconds": 0.0}
    done_markers.write_done(run, "curate", 0, outputs=outputs, **facts)


def test_the_shards_of_a_run_are_those_of_its_curation_and_known_once_tokenized(
    bench: Any, spec: PretrainSpec
) -> None:
    run: RunDir = bench.run
    own = dataclasses.replace(spec, corpora=corpus_spec(".", validation=(".",)))
    assert sizes(RunDir(run.root / "no run"), own) is None
    curate(run, 2)
    mark(run, 0, 500)
    with pytest.raises(NotTokenized, match=r"tokenize has not finished corpus/train/00001\.jsonl"):
        datasets(run, own.corpora[0])
    assert sizes(run, own) is None
    for index, tokens in ((1, 140), (2, 1000)):  # the third is of an earlier curation
        mark(run, index, tokens)
    mark(run, 0, 70, "validation")

    assert sizes(run, own) == {"corpus": CorpusSize(2, 640)}
    assert datasets(run, own.corpora[0]) == (
        ("tokens/train/00000", "tokens/train/00001"),
        ("tokens/validation/00000",),
    )


def test_shards_of_several_curate_tasks_and_their_datasets_come_in_the_order_of_paths(
    bench: Any, spec: PretrainSpec
) -> None:
    """The lines of a shard may be in several datasets; a part that is missing is noticed."""
    run: RunDir = bench.run
    facts: dict[str, Any] = {"spec_digest": "", "summary": {}, "seconds": 0.0}
    for task, shard in enumerate(("00001", "00000")):
        outputs = [{"path": f"corpus/train/{shard}.jsonl", "bytes": 90, "mtime_ns": 1}]
        done_markers.write_done(run, "curate", task, inputs=[], outputs=outputs, **facts)
    pieces = [
        ("00000", "00000", 0, 90),
        ("00001", "00001", 0, 40),
        ("00001", "00001-0000-0001", 40, 50),
        ("00001", "00001-0001", 50, 90),
    ]
    own = dataclasses.replace(spec, corpora=corpus_spec(".")).corpora[0]

    for index, (shard, name, begin, end) in reversed([*enumerate(pieces)]):
        with pytest.raises(NotTokenized, match=r"tokenize has not finished corpus/train/0000"):
            datasets(run, own)
        binary = {"path": f"tokens/train/{name}.bin", "bytes": 2, "mtime_ns": 1, "tokens": 1}
        stretch = {"shard": f"corpus/train/{shard}.jsonl", "begin": begin, "end": end}
        outputs = [binary | stretch | {"documents": 1}]
        done_markers.write_done(run, "tokenize", index, inputs=[], outputs=outputs, **facts)

    assert datasets(run, own).train == tuple(f"tokens/train/{piece[1]}" for piece in pieces)


def test_a_corpus_is_made_of_runs_and_of_datasets(
    bench: Any, spec: PretrainSpec, tmp_path: Path
) -> None:
    other = RunDir(tmp_path / "other")
    other.root.mkdir()
    curate(other, 1)
    mark(other, 0, 500)
    mark(other, 0, 30, "validation")
    alone = tmp_path / "elsewhere"
    write_dataset(alone, 70)
    replay = CorpusSpec("replay", (str(other.root), str(alone)), (str(other.root),))

    found = sizes(bench.run, dataclasses.replace(spec, corpora=(replay,)))

    assert found == {"replay": CorpusSize(2, 570)}
    assert datasets(bench.run, replay) == (
        (str(other.path("tokens/train/00000")), str(alone)),
        (str(other.path("tokens/validation/00000")),),
    )
    missing = dataclasses.replace(spec, corpora=corpus_spec(str(tmp_path / "missing")))
    assert sizes(bench.run, missing) is None


def weighted(from_tokens: int = 0, **weights: float) -> PhaseSpec:
    listed = tuple(CorpusWeight(name, weight) for name, weight in weights.items())
    return PhaseSpec(from_tokens, "tokens", listed)


def test_rows_have_the_epochs_of_each_corpus(spec: PretrainSpec) -> None:
    phases = (weighted(corpus=1), weighted(5 * 4 * 64, corpus=1, replay=1))
    both = {"corpus": CorpusSize(10, 640), "replay": CorpusSize(5, 128)}

    found = rows(dataclasses.replace(spec, phases=phases), both, 10)

    assert [(row["name"], row["documents"], row["tokens"], row["epochs"]) for row in found] == [
        ("corpus", 10, 640, 30 * 64 / 640),
        ("replay", 5, 128, 10 * 64 / 128),
    ]
    assert rows(spec, {"corpus": CorpusSize(0, 0)}, 10)[0]["epochs"] == 0.0


def of(tokens: int) -> dict[str, CorpusSize]:
    return {"corpus": CorpusSize(10, tokens)}


def test_as_many_epochs_as_allowed_are_trained_and_no_more(spec: PretrainSpec) -> None:
    tokens = 60 * 4 * 64 // 4
    require_enough(spec, of(tokens))
    require_enough(dataclasses.replace(spec, max_epochs=None), of(tokens // 10))

    with pytest.raises(NotAllowed) as refusal:
        require_enough(spec, of(tokens - 100))

    assert refusal.value.message == (
        "60 steps read the 3,740 training tokens 4.1 times, and pretrain.max_epochs is 4, which "
        "58 steps would keep to"
    )
    assert refusal.value.setting == "pretrain.max_epochs=5"
    assert refusal.value.code == 2
    assert refusal.value.hint == (
        "{meditron submit pretrain --set pretrain.max_epochs=5 --run} allows it"
    )
    fewer = dataclasses.replace(spec, train_steps=58)
    require_enough(fewer, of(tokens - 100))
    require_enough(dataclasses.replace(spec, max_epochs=5.0), of(tokens - 100))


def test_the_epochs_of_each_corpus_are_bounded(spec: PretrainSpec) -> None:
    both = dataclasses.replace(
        spec,
        corpora=(*corpus_spec("a"), CorpusSpec("replay", ("b",))),
        phases=(weighted(corpus=3, replay=1),),
    )
    large = CorpusSize(10, 60 * 4 * 64)
    require_enough(both, {"corpus": large, "replay": CorpusSize(5, 15 * 64)})

    with pytest.raises(NotAllowed) as refusal:
        require_enough(both, {"corpus": large, "replay": CorpusSize(5, 10 * 64)})

    assert refusal.value.message == (
        "60 steps read the 640 training tokens of the corpus 'replay' 6.0 times, and "
        "pretrain.max_epochs is 4, which 40 steps would keep to"
    )


def test_a_weight_that_gives_no_sequence_is_refused(spec: PretrainSpec) -> None:
    phases = (weighted(corpus=1), weighted(30 * 4 * 64, corpus=1, replay=1e-6))
    both = {"corpus": CorpusSize(10, 60 * 4 * 64), "replay": CorpusSize(5, 640)}

    with pytest.raises(TaskError) as refusal:
        require_enough(dataclasses.replace(spec, phases=phases), both)

    assert refusal.value.message == (
        "the weight of the corpus 'replay' gives it none of the 120 sequences of the phase that "
        "begins with step 31"
    )
    assert refusal.value.code == 2


def test_the_published_training_is_within_the_limit(spec: PretrainSpec) -> None:
    """46.7 G tokens in 7B's 14,252 steps of 1,600 x 2,048 (arXiv 2311.16079, table 1)."""
    model = dataclasses.replace(spec.model, seq_length=2048)
    published = dataclasses.replace(spec, model=model, global_batch_size=1600)

    read = epochs_after(published, of(46_700_000_000), 14_252)
    assert read["corpus"] == pytest.approx(1.0, abs=0.001)


@pytest.mark.parametrize(("tokens", "is_enough"), [(4 * 64 + 1, True), (4 * 64, False), (1, False)])
def test_fewer_sequences_than_a_batch_are_refused(
    spec: PretrainSpec, tokens: int, is_enough: bool
) -> None:
    once = dataclasses.replace(spec, train_steps=1)
    if is_enough:
        require_enough(once, of(tokens))
        return
    with pytest.raises(TaskError, match=re.escape("pretrain.global_batch_size is 4: one batch")):
        require_enough(once, of(tokens))
