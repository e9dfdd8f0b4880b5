"""The disk space of a run's checkpoints."""

from __future__ import annotations

import pytest

from jobs.contract.stage_specs import EvaluateSpec, PretrainSpec
from meditron_cli.plan.disk import disk_need, disk_need_of
from meditron_cli.plan.summary import training_lines

from ...plans import plan_of
from .test_summary import training

NOTHING_KEPT = ("pretrain.keep_steps=[]", "pretrain.keep_weights_only=false")


def spec_of(*settings: str) -> PretrainSpec:
    spec = plan_of("rcp", "70b", *NOTHING_KEPT, *settings).training.tasks[0].spec
    assert isinstance(spec, PretrainSpec)
    return spec


def test_the_checkpoints_that_were_published_as_scored_are_counted_as_weights() -> None:
    """Table 6 of the paper: steps 5,000, 10,000, 15,000 and 23,000 of 70B."""
    quiz = "evaluate.benchmarks=[{name: quiz, path: quiz.jsonl}]"
    plan = plan_of("rcp", "70b", "evaluate.checkpoints=[kept]", quiz)

    scored = [task.spec for task in plan.stage("evaluate").tasks]
    assert [spec.checkpoint for spec in scored if isinstance(spec, EvaluateSpec)] == [
        "5000", "10000", "15000", "23000",
    ]  # fmt: skip
    spec = plan.training.tasks[0].spec
    assert isinstance(spec, PretrainSpec)
    need, without = disk_need(spec), disk_need(spec_of())
    assert need == (without.checkpoints, 4 * spec.model.weights_bytes("bf16"), 0)
    assert [line for line in training_lines(training("rcp", "70b")) if "kept" in line] == [
        "kept         weights of steps 5000, 10000, 15000, 23000, beside the newest"
    ]


def test_steps_to_keep_behind_the_end_of_a_shorter_training_are_left_out_with_a_warning() -> None:
    plan = plan_of("rcp", "70b", "pretrain.train_steps=12000", "evaluate.checkpoints=[kept]")

    spec = plan.training.tasks[0].spec
    assert isinstance(spec, PretrainSpec)
    assert spec.keep_steps == (5000, 10000)
    assert disk_need(spec).kept == 2 * spec.model.weights_bytes("bf16")
    (warning,) = [text for text in plan.warnings if "keep_steps" in text]
    assert warning == (
        "pretrain.keep_steps: 15000, 23000 are never reached, the last step is 12000"
    )


def test_the_rolling_checkpoints_and_those_to_keep_are_counted() -> None:
    plain = spec_of("pretrain.keep_checkpoints=3")
    whole = plain.model.checkpoint_bytes("bf16")
    weights = plain.model.weights_bytes("bf16")
    keep = "pretrain.keep_steps=[500, 1000]"

    assert disk_need(plain) == (weights + 6 * whole, 0, 0)
    assert disk_need(spec_of(keep)).checkpoints == weights + 8 * whole
    assert disk_need(spec_of(keep, "pretrain.keep_weights_only=true"), exports=3) == (
        weights + 6 * whole,
        2 * weights,
        3 * weights,
    )
    assert whole / weights == pytest.approx(7)


def test_a_short_training_saves_no_more_than_it_has_steps_for() -> None:
    spec = spec_of("pretrain.save_interval=400", "pretrain.train_steps=700")

    assert disk_need(spec).checkpoints == (
        spec.model.weights_bytes("bf16") + 2 * spec.model.checkpoint_bytes("bf16")
    )


@pytest.mark.parametrize(
    ("saved", "first", "whole", "weights"),
    [
        ((), 1, 6 + 2, 0),
        ((0,), 0, 6 + 2, 0),
        ((0, 500), 0, 6 + 1, 0),  # one that is kept
        ((0, 500, 1000, 1500), 0, 5, 0),
        ((0, 500, 1000, *range(20_000, 23_000, 500)), 0, 0, 0),
        ((0, 500, 1000, 22_000, 22_500), 0, 1, 0),  # the last step is one more save
        ((0, 500, 1000, 23_000), 0, 0, 0),
    ],
)
def test_a_run_that_is_continued_needs_what_is_not_saved(
    saved: tuple[int, ...], first: int, whole: int, weights: int
) -> None:
    spec = spec_of("pretrain.keep_checkpoints=3", "pretrain.keep_steps=[500, 1000]")
    of_weights = spec.model.weights_bytes("bf16")

    assert disk_need(spec, saved=saved) == (
        first * of_weights + whole * spec.model.checkpoint_bytes("bf16"),
        weights * of_weights,
        0,
    )


def test_weights_to_keep_are_those_of_steps_to_come() -> None:
    keep = ("pretrain.keep_steps=[500, 1000]", "pretrain.keep_weights_only=true")
    spec = spec_of("pretrain.keep_checkpoints=3", *keep)

    assert disk_need(spec, saved=(0, 500)) == (
        5 * spec.model.checkpoint_bytes("bf16"),
        spec.model.weights_bytes("bf16"),
        0,
    )


def test_a_plan_counts_its_exports_and_one_without_training_nothing() -> None:
    need = disk_need_of(plan_of("test-slurm", "tiny", "export.step=[first, last]"))

    assert need is not None
    assert need.exports > 0
    assert need.total == sum(need)
    assert disk_need_of(plan_of("test-slurm", "tiny", stages=("curate",))) is None
    plan = plan_of("test-slurm", "tiny", "export.step=[first, last]")
    one = disk_need_of(plan, exported=("export",))
    assert one is not None
    assert 2 * one.exports == need.exports
