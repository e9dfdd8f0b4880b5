"""The plan of finetuned models: what they begin with, which stages wait for which, what is read."""

from __future__ import annotations

import pytest

from jobs.contract.stage_specs import (
    EvaluateSpec,
    ExportSpec,
    FinetuneSpec,
    PrepareSpec,
    StartRef,
)
from meditron_cli.config.load import load
from meditron_cli.errors import ConfigError
from meditron_cli.plan.disk import disk_need_of
from meditron_cli.plan.early import waits_for
from meditron_cli.plan.model import Plan
from meditron_cli.runs.launch_plan import result_of
from meditron_cli.runs.prepare import stages_of

from ...plans import plan_of

MODELS = (
    "finetune.models=["
    "{name: medqa, data: [{path: /data/medqa.jsonl, kind: medqa}]}, "
    "{name: own, items: 100, data: [{path: /data/own.jsonl}]}]"
)
SCORED = (
    "evaluate.benchmarks=[{name: plain, path: /data/b.jsonl}, "
    "{name: tuned, path: /data/b.jsonl, model: medqa}]"
)


def plan(*overrides: str, cluster: str = "test-slurm", size: str = "tiny") -> Plan:
    """Return the plan of an experiment with two finetuned models."""
    return plan_of(cluster, size, MODELS, SCORED, *overrides)


def finetunings(found: Plan) -> list[FinetuneSpec]:
    specs = [task.spec for task in found.stage("finetune").tasks]
    return [spec for spec in specs if isinstance(spec, FinetuneSpec)]


def test_each_model_has_rows_steps_and_checkpoints_of_its_own() -> None:
    medqa, own = finetunings(plan())

    assert (medqa.train_steps, own.train_steps) == (480, 10)
    assert (medqa.optimizer.warmup_steps, medqa.optimizer.decay_steps) == (48, 480)
    assert medqa.checkpoint_dir == "finetune/medqa/checkpoints"
    assert medqa.rows_dir == "finetune/medqa/rows"
    assert len({result_of(spec) for spec in (medqa, own)}) == 2
    assert (medqa.loss_average, medqa.prompt_loss_weight, medqa.packing) == ("tokens", 0.0, False)


def test_rows_are_prepared_as_the_finetuning_reads_them() -> None:
    found = plan("finetune.sequence_length=64", "finetune.template=paper")
    specs = [task.spec for task in found.stage("prepare").tasks]

    for prepared, trained in zip(specs, finetunings(found), strict=True):
        assert isinstance(prepared, PrepareSpec)
        assert prepared.output_dir == trained.rows_dir
        assert prepared.tokenizer == trained.tokenizer
        assert prepared.sequence_length == trained.model.seq_length == 64
        assert prepared.template == "paper"
    assert isinstance(specs[0], PrepareSpec)
    assert (specs[0].preparation, specs[0].items) == ("medqa", 10_178)
    assert specs[0].decontamination
    assert {file.name for file in specs[0].decontamination.benchmarks} == {"plain", "tuned"}


@pytest.mark.parametrize(
    ("overrides", "start", "after"),
    [
        ([], StartRef("last", 600, "checkpoints"), ("pretrain", "prepare")),
        (
            ["finetune.start=first", "model.weights=/base"],
            StartRef("first", 600, "checkpoints"),
            ("convert", "prepare"),
        ),
        (["finetune.start=first"], StartRef("first", 600, "checkpoints"), ("pretrain", "prepare")),
        (
            ["finetune.start=20", "finetune.run=/runs/other"],
            StartRef("20", 0, "/runs/other/checkpoints"),
            ("prepare",),
        ),
    ],
)
def test_finetuning_waits_for_what_makes_its_first_weights(
    overrides: list[str], start: StartRef, after: tuple[str, ...]
) -> None:
    found = plan("pretrain.train_steps=600", *overrides)

    assert {spec.start for spec in finetunings(found)} == {start}
    assert set(found.stage("finetune").after) == set(after)


def test_scores_of_pretraining_do_not_wait_for_finetuning_nor_these_for_evaluation() -> None:
    found = plan("evaluate.checkpoints=[last]")
    stage = found.stage("evaluate")
    waits = {
        task.spec.output_dir: set(waits_for(stage, task, [], ()))
        for task in stage.tasks
        if isinstance(task.spec, EvaluateSpec)
    }

    assert waits == {
        "evaluations/plain/last": {"pretrain"},
        "evaluations/tuned/medqa-last": {"finetune"},
    }


def test_a_benchmark_of_a_model_is_scored_on_its_last_checkpoint() -> None:
    specs = [task.spec for task in plan().stage("evaluate").tasks]
    (tuned,) = [s for s in specs if isinstance(s, EvaluateSpec) and s.benchmark == "tuned"]

    assert (tuned.checkpoint, tuned.target_step) == ("last", 480)
    assert tuned.checkpoint_dir == "finetune/medqa/checkpoints"
    assert tuned.model == finetunings(plan())[0].model


def test_a_finetuned_base_model_needs_no_documents_and_is_scored_beside_its_base() -> None:
    settings = ("finetune.start=first", "model.weights=/base", "curate.sources=[]")
    experiment = load("local", "tiny", None, [MODELS, SCORED, *settings]).experiment
    stages = stages_of("pipeline", experiment)
    found = plan_of("test-slurm", "tiny", MODELS, SCORED, *settings, stages=stages)

    assert stages == ("convert", "prepare", "finetune", "evaluate", "export")
    assert found.stage("evaluate").after == ("convert", "finetune")
    scored = [getattr(task.spec, "output_dir", "") for task in found.stage("evaluate").tasks]
    assert scored == ["evaluations/plain/first", "evaluations/tuned/medqa-last"]
    assert set(found.stage("export").after) == {"finetune", "evaluate"}
    assert [getattr(task.spec, "finetuned", "") for task in found.stage("export").tasks] == [
        "medqa", "own",
    ]  # fmt: skip
    assert found.lead is None


def test_models_finetuned_from_another_run_need_no_documents() -> None:
    tuned = "evaluate.benchmarks=[{name: tuned, path: /data/b.jsonl, model: medqa}]"
    settings = [MODELS, "finetune.run=/runs/other", "model.weights=/base"]
    documents = "curate.sources=[/docs]"

    def stages(*more: str) -> tuple[str, ...]:
        return stages_of("pipeline", load("local", "tiny", None, [*settings, *more]).experiment)

    assert stages(tuned) == ("prepare", "finetune", "evaluate", "export")
    assert stages(tuned, "export.finetuned=false") == ("prepare", "finetune", "evaluate")
    assert "pretrain" in stages(tuned, documents)
    assert "pretrain" in stages(SCORED, documents)
    with pytest.raises(ConfigError, match="plain names no finetuned model, and nothing is"):
        stages(SCORED)


def test_each_finetuned_model_is_exported_unless_none_is_to_be() -> None:
    specs = [task.spec for task in plan().stage("export").tasks]
    folders = [spec.output_dir for spec in specs if isinstance(spec, ExportSpec)]

    assert folders == ["export", "export-medqa", "export-own"]
    names = [spec.finetuned for spec in specs if isinstance(spec, ExportSpec)]
    assert names == ["", "medqa", "own"]
    kept = plan("export.finetuned=false").stage("export").tasks
    assert [getattr(task.spec, "output_dir", "") for task in kept] == ["export"]


def test_the_stages_of_finetuning_are_left_out_without_models() -> None:
    bare = load("local", "tiny", None, []).experiment
    full = load("local", "tiny", None, [MODELS, "evaluate.benchmarks=[]"]).experiment

    assert not {"prepare", "finetune"} & {*stages_of("pipeline", bare)}
    assert {"prepare", "finetune"} <= {*stages_of("pipeline", full)}
    assert stages_of("finetune", full) == ("prepare", "finetune")
    for stage in ("prepare", "finetune"):
        with pytest.raises(ConfigError, match="lists no model"):
            stages_of(stage, bare)


def test_the_layout_of_finetuning_is_checked_by_its_own_keys() -> None:
    with pytest.raises(ConfigError) as refused:
        plan("finetune.parallel={tensor: 3}")

    assert "finetune.parallel.tensor = 3" in refused.value.message
    assert "pretrain." not in refused.value.message


def test_a_layout_that_finetuning_shares_is_refused_once() -> None:
    with pytest.raises(ConfigError) as refused:
        plan("parallel.pipeline=3")

    assert "parallel.pipeline = 3" in refused.value.message
    assert "finetun" not in refused.value.message


def test_checkpoints_of_finetuned_models_take_disk_space() -> None:
    less, more = disk_need_of(plan("finetune.models=[]", "evaluate.benchmarks=[]")), None
    more = disk_need_of(plan())

    assert less
    assert more
    assert more.checkpoints > less.checkpoints
    assert more.exports > less.exports
