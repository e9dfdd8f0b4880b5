"""The summary of what a training reads: corpora, phases, schedule."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.contract.stage_specs import PretrainSpec
from jobs.data import corpora
from jobs.data.mixture import CorpusSize
from meditron_cli.plan import data_summary

from ...plans import plan_of

OWN = "data         at most 10 epochs; tokens are counted once tokenize has finished"
SCHEDULE = (
    "schedule     learning rate 0.003 after 50 steps of warmup, then a cosine to 0.0003 at step 500"
)
MIXED = (
    "pretrain.corpora=[{name: replay, data: [/data/replay]}]",
    "pretrain.mixture={by: documents, weights: {corpus: 3, replay: 1}}",
    "pretrain.phases=[{from_tokens: 100000, mixture: {by: tokens, weights: {corpus: 9, replay: 1}},"
    " tail: {learning_rate: 0}}]",
)
SIZES = {"corpus": CorpusSize(1000, 100_000), "replay": CorpusSize(10, 50_000)}


def facts_of(sizes: dict[str, CorpusSize] | None, *overrides: str) -> dict[str, Any]:
    """Return what a plan knows of its training's data."""
    spec = plan_of("test-slurm", "tiny", *overrides).stage("pretrain").tasks[0].spec
    assert isinstance(spec, PretrainSpec)
    return {
        **data_summary.figures(spec),
        "train_steps": spec.train_steps,
        "max_epochs": spec.max_epochs,
        "corpora": corpora.rows(spec, sizes, spec.train_steps) if sizes else None,
        "phases": [{**row, "train_steps": 500} for row in corpora.phase_rows(spec, sizes)],
    }


def test_one_corpus_without_phases_is_a_schedule_and_its_epochs() -> None:
    assert list(data_summary.lines(facts_of(None))) == [SCHEDULE, OWN]


def test_the_mixture_and_each_phase_are_a_line() -> None:
    assert list(data_summary.lines(facts_of(SIZES, *MIXED))) == [
        SCHEDULE,
        "data         8.37 epochs of corpus (100.0K tokens), 3.74 epochs of replay (50.0K tokens); "
        "at most 10 epochs of each",
        "mixture      5.66% corpus, 94.3% replay",
        "phase        from step 50 (100.4K tokens): 90% corpus, 10% replay; linear to 0 at step "
        "500",
    ]


def test_shares_that_follow_from_tokens_are_unknown_before_these_are_counted() -> None:
    facts = facts_of(None, *MIXED)

    first, second = facts["phases"]
    assert (first["shares"], second["shares"]) == (None, {"corpus": 0.9, "replay": 0.1})
    assert list(data_summary.lines(facts))[2] == (
        "mixture      corpus 3, replay 1, by documents; shares are known once tokenize has finished"
    )


def test_a_phase_of_the_tail_alone_is_shown_with_one_corpus() -> None:
    tail = "pretrain.phases=[{from_tokens: 100000, tail: {learning_rate: 1e-5, shape: cosine}}]"

    lines = list(data_summary.lines(facts_of(None, tail)))

    assert lines[2:] == [
        "mixture      100% corpus",
        "phase        from step 50 (100.4K tokens): 100% corpus; cosine to 1e-05 at step 500",
    ]


def test_skipped_steps_and_a_schedule_beyond_the_target_are_shown() -> None:
    facts = facts_of(
        None, "pretrain.skip_steps=[3,5-7]", "pretrain.train_steps=400", "pretrain.decay_steps=500"
    )

    schedule, *_, skipped = data_summary.lines(facts)

    assert skipped == "skipped      the batches of steps 3, 5-7"
    assert schedule.endswith("at step 500, beyond the target of 400")


def test_the_shares_of_corpora_add_up_to_the_whole_training() -> None:
    rows = facts_of(SIZES, *MIXED)["corpora"]

    assert sum(row["share"] for row in rows) == pytest.approx(1.0)
    assert [row["name"] for row in rows] == ["corpus", "replay"]


def test_a_phase_shows_its_sequence_length_and_a_later_target() -> None:
    """The recipe has 16 sequences of 128 tokens a step."""
    phases = (
        "pretrain.phases=[{from_tokens: 204800, sequence_length: 256},"
        " {from_tokens: 1024000, train_steps: 600, tail: {learning_rate: 0}}]"
    )
    facts = facts_of(None, phases)
    facts["phases"][2]["train_steps"] = 600
    steps = [{"step": {"seconds": 1.0}, "mfu": 0.4}, *[{"step": {"seconds": 2.5}, "mfu": 0.41}] * 2]

    lines = list(data_summary.lines({**facts, "phase_steps": steps}))

    assert facts["train_steps"] == 600
    assert [phase["tokens_per_step"] for phase in facts["phases"]] == [2048, 4096, 4096]
    assert lines[-2:] == [
        "phase        from step 101 (204.8K tokens): 100% corpus; sequences of 256 tokens, 4.1K "
        "per step of 2.50 s at 41.0% of the peak, computed",
        "phase        from step 301 (1.0M tokens): 100% corpus; to step 600; linear to 0 at step "
        "600",
    ]
