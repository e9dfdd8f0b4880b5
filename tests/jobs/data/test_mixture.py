"""The corpus of each sample of a training."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from typing import Any

import pytest

from jobs.contract.errors import TaskError
from jobs.contract.stage_specs import CorpusWeight, PhaseSpec, PretrainSpec
from jobs.data.mixture import (
    CorpusSize,
    Drawn,
    Interleaving,
    mixture_of,
    shares,
    undivided,
)

SIZES = {"corpus": CorpusSize(100, 80_000), "replay": CorpusSize(50, 10_000)}
BATCH, LENGTH = 4, 64


def phase(by: str, from_tokens: int = 0, **weights: float) -> PhaseSpec:
    listed = tuple(CorpusWeight(name, weight) for name, weight in weights.items())
    return PhaseSpec(from_tokens, by, listed)


@pytest.fixture
def spec(bench: Any) -> PretrainSpec:
    """Return a training of 60 steps of 4 sequences of 64 tokens."""
    return dataclasses.replace(bench.training().spec, global_batch_size=BATCH)


@pytest.mark.parametrize(
    ("by", "weights", "replay"),
    [
        ("tokens", {"corpus": 99, "replay": 1}, 0.01),
        ("documents", {"corpus": 1, "replay": 1}, 200 / (800 + 200)),
        ("documents", {"corpus": 1, "replay": 4}, 800 / (800 + 800)),
        ("epochs", {"corpus": 1, "replay": 1}, 10_000 / 90_000),
        ("epochs", {"corpus": 0.5, "replay": 4}, 40_000 / 80_000),
    ],
)
def test_a_weight_counts_tokens_documents_or_epochs(
    by: str, weights: dict[str, float], replay: float
) -> None:
    found = shares(phase(by, **weights), SIZES)

    assert found["replay"] == pytest.approx(replay)
    assert sum(found.values()) == pytest.approx(1)


def interleavings() -> list[Interleaving]:
    source = random.Random(3)
    found = [Interleaving({"a": 1.0}), Interleaving({"a": 0.5, "b": 0.5})]
    for corpora in (2, 2, 3, 3, 5):
        weights = [source.choice((1, 1, 0.01, source.random())) for _ in range(corpora)]
        total = sum(weights)
        found.append(Interleaving({f"c{n}": weight / total for n, weight in enumerate(weights)}))
    return found


def test_the_order_of_the_weights_in_a_file_does_not_count() -> None:
    one, other = Interleaving({"b": 0.5, "a": 0.5}), Interleaving({"a": 0.5, "b": 0.5})

    assert one.take(0, 40) == other.take(0, 40)


@pytest.mark.parametrize("interleaving", interleavings())
def test_every_stretch_has_the_corpora_in_their_shares(interleaving: Interleaving) -> None:
    taken = interleaving.take(0, 600)
    for begin, end in ((0, 600), (0, 20), (250, 350), (599, 600)):
        counts = Counter(drawn.corpus for drawn in taken[begin:end])
        for name, share in interleaving.shares.items():
            assert abs(counts[name] - (end - begin) * share) <= 2, (begin, end)


@pytest.mark.parametrize("interleaving", interleavings())
def test_samples_of_a_corpus_come_in_order_and_each_place_is_found_without_the_others(
    interleaving: Interleaving,
) -> None:
    taken = interleaving.take(0, 600)
    counts: Counter[str] = Counter()
    for place, drawn in enumerate(taken):
        assert drawn.number == counts[drawn.corpus]
        before = interleaving.counts(place)
        assert all(before[name] == counts[name] for name in before)
        assert interleaving.place(drawn) == place
        counts[drawn.corpus] += 1
    for begin in (1, 7, 333):
        assert interleaving.take(begin, 64) == taken[begin : begin + 64]


def test_phases_continue_each_corpus_where_it_is(spec: PretrainSpec) -> None:
    phases = (
        phase("tokens", corpus=1),
        phase("tokens", 10 * BATCH * LENGTH - 1, corpus=3, replay=1),
        phase("tokens", 20 * BATCH * LENGTH, replay=1),
        phase("tokens", 30 * BATCH * LENGTH, corpus=1, replay=1),
    )
    mixture = mixture_of(dataclasses.replace(spec, phases=phases), SIZES)

    taken = mixture.take(0, 60 * BATCH)
    assert [p.first_step for p in mixture.phases] == [0, 10, 20, 30]
    assert mixture.consumed(10 * BATCH) == {"corpus": 40}
    assert mixture.consumed(20 * BATCH) == {"corpus": 70, "replay": 10}
    assert mixture.consumed(30 * BATCH) == {"corpus": 70, "replay": 50}
    for name in SIZES:
        numbers = [drawn.number for drawn in taken if drawn.corpus == name]
        assert numbers == list(range(len(numbers)))
    assert [mixture.place(drawn) for drawn in taken] == list(range(60 * BATCH))
    assert mixture.take(39, 3) == taken[39:42]
    assert mixture.place(Drawn("other", 0)) is None


def test_a_phase_begins_at_a_whole_step_of_the_length_before_it(spec: PretrainSpec) -> None:
    """Steps of 256 tokens, then of 512, then of 64."""
    longer = dataclasses.replace(phase("tokens", 2500, corpus=3, replay=1), sequence_length=128)
    shorter = dataclasses.replace(phase("tokens", 2561 + 5 * 512, corpus=1), sequence_length=16)
    spec = dataclasses.replace(spec, phases=(phase("tokens", corpus=1), longer, shorter))

    starts = [(start.first_step, start.tokens, start.sequence_length) for start in spec.starts]
    assert starts == [(0, 0, 64), (10, 2560, 128), (16, 5632, 16)]
    assert [spec.tokens(steps) for steps in (0, 1, 10, 11, 16, 17)] == [
        0,
        256,
        2560,
        3072,
        5632,
        5696,
    ]
    assert spec.longest == 128
    mixture = mixture_of(spec, SIZES)
    assert mixture.tokens(40) == {"corpus": 40 * 64, "replay": 0}
    assert mixture.tokens(64) == {"corpus": 40 * 64 + 18 * 128, "replay": 6 * 128}
    assert sum(mixture.tokens(68).values()) == spec.tokens(17)
    assert mixture.sections("corpus", 40) == [(0, 64)]
    assert mixture.sections("corpus", 62) == [(0, 64), (40, 128), (58, 16)]
    assert mixture.sections("replay", 6) == [(0, 128)]


def test_a_corpus_that_a_phase_does_not_read_has_no_section_of_it(spec: PretrainSpec) -> None:
    other = dataclasses.replace(phase("tokens", 2560, replay=1), sequence_length=128)
    back = phase("tokens", 5120, corpus=1)
    spec = dataclasses.replace(spec, phases=(phase("tokens", corpus=1), other, back))

    assert mixture_of(spec, SIZES).sections("corpus", 50) == [(0, 64)]


def test_one_corpus_alone_is_taken_in_its_order() -> None:
    assert undivided("a", 8).take(7, 3) == [Drawn("a", 7), Drawn("a", 8), Drawn("a", 9)]


def test_a_corpus_of_the_mixture_without_tokens_is_refused(spec: PretrainSpec) -> None:
    mixed = dataclasses.replace(spec, phases=(phase("epochs", corpus=1, replay=1),))

    with pytest.raises(TaskError, match="the corpus 'replay' has no training tokens") as refusal:
        mixture_of(mixed, SIZES | {"replay": CorpusSize(0, 0)})

    assert refusal.value.code == 2
