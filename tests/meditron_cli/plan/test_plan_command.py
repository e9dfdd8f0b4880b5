"""`meditron plan`: what it prints and refuses, without any scheduler."""

from __future__ import annotations

import json

from ...conftest import Bench


def test_the_plan_of_a_pipeline_is_a_table_and_sentences(meditron: Bench) -> None:
    result = meditron("plan", "pipeline", "--cluster", "test-slurm", "--size", "tiny")

    assert result.exit_code == 0, result.stderr
    stages = [line.split()[0] for line in result.stdout.splitlines()[1:5]]
    assert stages == ["curate", "tokenize", "pretrain", "evaluate"]
    assert "tensor 2 x pipeline 1 x data 2 = 4 ranks on 2 nodes" in result.stdout
    assert not meditron.runs.exists()
    assert meditron.scheduler.asked == meditron.scheduler.submitted == []


def test_json_has_stages_training_and_warnings(meditron: Bench) -> None:
    result = meditron("plan", "pretrain", "--cluster", "test-slurm", "--size", "tiny", "--json")

    found = json.loads(result.stdout)
    assert set(found) == {"format", "stages", "training", "warnings"}
    assert [stage["stage"] for stage in found["stages"]] == ["pretrain"]
    assert found["training"]["ranks"] == 4


def test_stages_without_training_have_no_training_figures(meditron: Bench) -> None:
    result = meditron("plan", "tokenize", "--cluster", "test-slurm", "--size", "tiny", "--json")

    assert json.loads(result.stdout)["training"] is None


def test_placeholders_are_shown_and_do_not_keep_from_planning(meditron: Bench) -> None:
    result = meditron("plan", "pretrain", "--cluster", "rcp", "--size", "70b")

    assert result.exit_code == 0, result.stderr
    assert "128 ranks on 16 nodes" in result.stdout
    assert result.stderr.count("<account>") == 1
    assert result.stderr.count("<partition>") == 1


def test_a_plan_that_cannot_be_is_exit_2_with_every_reason(meditron: Bench) -> None:
    result = meditron(
        *("plan", "pipeline", "--cluster", "test-slurm", "--size", "tiny"),
        *("--set", "parallel.data=8", "--set", "pretrain.global_batch_size=64"),
        *("--set", "evaluate.tensor=16"),
    )

    assert result.exit_code == 2
    assert result.stdout == ""
    assert [line for line in result.stderr.splitlines() if line.startswith("error: ")] == [
        "error: parallel.tensor x pipeline x data = 2 x 1 x 8 = 16 ranks, but cluster test-slurm "
        "has 8 GPUs (4 nodes of 2)",
        "error: evaluate.tensor = 16 is more than the 8 cores of one node",
    ]


def test_a_layout_that_does_not_fit_comes_with_one_that_does(meditron: Bench) -> None:
    result = meditron("plan", "pretrain", "--cluster", "clariden", "--size", "70b")

    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "error: parallel.tensor = 8 does not fit within a node of 4 GPUs; tensor parallelism must "
        "not cross nodes",
        "hint: --set parallel.tensor=4 --set parallel.pipeline=8 --set parallel.data=4 would fit",
    ]


def test_a_time_limit_that_leaves_no_time_to_work_is_refused(meditron: Bench) -> None:
    result = meditron(
        *("plan", "pretrain", "--cluster", "test-slurm", "--size", "tiny"),
        *("--set", "pretrain.time_minutes=2", "--set", "pretrain.signal_lead_seconds=90"),
    )

    assert result.exit_code == 2
    assert "leaves 0 s to work" in result.stderr
