"""Corpora that are added and reweighted during a training, and another sequence length, repeat
and skip nothing.
"""

from __future__ import annotations

from collections import Counter

import pytest

from jobs.checkpoints import manifest
from jobs.contract.stage_specs import WHOLE, CorpusSpec, CorpusWeight, PhaseSpec, TailSpec
from jobs.data.sample_trace import Trace

from .conftest import SEQUENCE, Run, copy_tokens, parallel_spec

pytestmark = pytest.mark.engine

BATCH = 4
REPLAY = CorpusSpec("replay", ("tokens/train/00008",))


def phase(
    tokens: int, tail: TailSpec | None = None, length: int | None = None, **weights: float
) -> PhaseSpec:
    listed = tuple(CorpusWeight(name, weight) for name, weight in weights.items())
    return PhaseSpec(tokens - 1, "tokens", listed, tail, length)


def consumed(run: Run, step: int) -> dict[str, tuple[int, int]]:
    """Return the samples and tokens of each corpus in a checkpoint's record."""
    record = manifest.read(run.root / "checkpoints" / manifest.name(step))
    return {
        name: (corpus["samples"], corpus["tokens"])
        for name, corpus in record.data["corpora"].items()
    }


def test_corpora_and_lengths_changed_over_three_resumes(make_run, tokens):
    whole, half = BATCH * SEQUENCE, SEQUENCE // 2
    run = make_run(train_steps=4, decay_steps=16, validation_interval=2)
    copy_tokens(tokens / "other", run.files, "tokens/train/00008")
    own = run.spec.corpora
    run.finish()
    assert consumed(run, 4) == {"corpus": (16, 16 * SEQUENCE)}

    phases = (WHOLE, phase(4 * whole, length=half, corpus=1, replay=1))
    run.change(train_steps=8, corpora=(*own, REPLAY), phases=phases)
    run.finish()
    assert consumed(run, 8) == {
        "corpus": (24, 16 * SEQUENCE + 8 * half),
        "replay": (8, 8 * half),
    }

    phases = (*phases, phase(6 * whole, length=2 * SEQUENCE, corpus=1, replay=3))
    layout = parallel_spec(data=2)
    run.change(train_steps=12, phases=phases, parallel=layout, micro_batch_size=1)
    run.finish()
    assert consumed(run, 12) == {
        "corpus": (28, 16 * SEQUENCE + 8 * half + 8 * SEQUENCE),
        "replay": (20, 8 * half + 24 * SEQUENCE),
    }

    phases = (*phases, phase(14 * whole, TailSpec(0.0, "linear", 16), corpus=1))
    run.change(train_steps=16, phases=phases, parallel=parallel_spec(), micro_batch_size=4)
    run.finish()
    corpus = 16 * SEQUENCE + 8 * half + 8 * SEQUENCE + 16 * SEQUENCE
    assert consumed(run, 16) == {"corpus": (44, corpus), "replay": (20, 8 * half + 24 * SEQUENCE)}

    steps = {line.step: line for line in run.steps()}
    assert [steps[step].learning_rate for step in (13, 14, 15, 16)] == pytest.approx(
        [steps[12].learning_rate * left / 4 for left in (3, 2, 1, 0)]
    )
    assert [steps[step].tokens for step in (4, 8, 12, 16)] == [
        4 * whole,
        6 * whole,
        14 * whole,
        18 * whole,
    ]
    assert list(run.samples()) == list(range(1, 17))
    assert run.samples() == run.traced()
    order = Trace(run.files, run.spec).order
    drawn = order.take(0, 16 * BATCH)
    for name, count in (("corpus", 44), ("replay", 20)):
        assert [item.number for item in drawn if item.corpus == name] == list(range(count))
        read: Counter[tuple[int, int]] = Counter()
        for item in drawn:
            if item.corpus == name:
                *stretches, (document, offset, size) = order.stretches(item)
                for number, first, tokens_ in [*stretches, (document, offset, size - 1)]:
                    read.update((number, first + place) for place in range(tokens_))
        assert set(read.values()) == {1}

    run.change(train_steps=20, phases=(*phases[:2], phase(6 * whole, corpus=1), *phases[3:]))
    ranks = run.start()
    assert ranks.wait() == [2]
    assert "pretrain.phases.1.mixture: the phases of the first 16 steps have" in ranks.output()
    assert f"may begin from_tokens: {18 * whole}" in ranks.output()
