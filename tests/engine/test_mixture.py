"""Corpora that are added and reweighted during a training repeat and skip no sample."""

from __future__ import annotations

import pytest

from jobs.checkpoints import manifest
from jobs.contract.stage_specs import WHOLE, CorpusSpec, CorpusWeight, PhaseSpec, TailSpec
from jobs.data.sample_trace import Trace

from .conftest import SEQUENCE, Run, copy_tokens, parallel_spec

pytestmark = pytest.mark.engine

BATCH = 4
REPLAY = CorpusSpec("replay", ("tokens/train/00008",))


def phase(step: int, tail: TailSpec | None = None, **weights: float) -> PhaseSpec:
    listed = tuple(CorpusWeight(name, weight) for name, weight in weights.items())
    return PhaseSpec(step * BATCH * SEQUENCE - 1, "tokens", listed, tail)


def consumed(run: Run, step: int) -> dict[str, int]:
    record = manifest.read(run.root / "checkpoints" / manifest.name(step))
    return {name: corpus["samples"] for name, corpus in record.data["corpora"].items()}


def test_corpora_added_and_reweighted_over_three_resumes(make_run, tokens):
    run = make_run(train_steps=4, decay_steps=16, validation_interval=0)
    copy_tokens(tokens / "other", run.files, "tokens/train/00008")
    own = run.spec.corpora
    run.finish()
    assert consumed(run, 4) == {"corpus": 16}

    phases = (WHOLE, phase(4, corpus=1, replay=1))
    run.change(train_steps=8, corpora=(*own, REPLAY), phases=phases)
    run.finish()
    assert consumed(run, 8) == {"corpus": 24, "replay": 8}

    phases = (*phases, phase(8, corpus=1, replay=3))
    layout = parallel_spec(data=2)
    run.change(train_steps=12, phases=phases, parallel=layout, micro_batch_size=1)
    run.finish()
    assert consumed(run, 12) == {"corpus": 28, "replay": 20}

    phases = (*phases, phase(12, TailSpec(0.0, "linear"), corpus=1))
    run.change(train_steps=16, phases=phases, parallel=parallel_spec(), micro_batch_size=4)
    run.finish()
    assert consumed(run, 16) == {"corpus": 44, "replay": 20}

    rates = {line.step: line.learning_rate for line in run.steps()}
    assert [rates[step] for step in (13, 14, 15, 16)] == pytest.approx(
        [rates[12] * left / 4 for left in (3, 2, 1, 0)]
    )
    assert list(run.samples()) == list(range(1, 17))
    assert run.samples() == run.traced()
    drawn = Trace(run.files, run.spec).order.take(0, 16 * BATCH)
    for name, count in (("corpus", 44), ("replay", 20)):
        assert [item.number for item in drawn if item.corpus == name] == list(range(count))

    run.change(train_steps=20, phases=(*phases[:2], phase(8, corpus=1), *phases[3:]))
    ranks = run.start()
    assert ranks.wait() == [2]
    assert "the phases of the first 16 steps have changed since iter_0000016" in ranks.output()
    assert "may begin from_tokens: 2048" in ranks.output()
