"""The summary of a plan for people."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.contract.stage_specs import PretrainSpec
from jobs.contract.units import GIB
from meditron_cli.config.load import load_cluster
from meditron_cli.plan import summary
from meditron_cli.plan.model import Plan

from ...plans import plan_of, profile_of


def training(cluster: str, size: str, *overrides: str) -> dict[str, object]:
    """Return the figures of a plan's training."""
    plan = plan_of(cluster, size, *overrides)
    stage = plan.stage("pretrain")
    spec = stage.tasks[0].spec
    assert isinstance(spec, PretrainSpec)
    assert plan.lead
    given = any(override.startswith("supervision.startup_limit") for override in overrides)
    return summary.training(
        spec, load_cluster(str(profile_of(cluster))), stage.resources, plan.lead
    ) | summary.startup(stage.tasks[0], plan.lead, given)


def test_a_stage_is_a_row_with_its_tasks_and_jobs() -> None:
    plan: Plan = plan_of("site-pyxis", "7b", "parallel.data=2", "curate.shards=103")

    rows = {row["stage"]: row for row in summary.stage_rows(plan)}

    assert rows["tokenize"] == {
        "stage": "tokenize",
        "tasks": 104,
        "jobs": 2,
        "nodes": 1,
        "ranks": 1,
        "gpus": 0,
        "cpus_per_rank": 1,
        "memory_gb": 4,
        "time_minutes": 240,
        "partition": "cpu",
        "after": ["curate"],
    }
    assert (rows["pretrain"]["ranks"], rows["pretrain"]["gpus"]) == (8, 8)


def test_the_table_has_a_cell_for_every_column() -> None:
    columns, cells = summary.table(summary.stage_rows(plan_of("test-slurm", "tiny")))

    assert columns[0] == "stage"
    assert "memory GiB" in columns
    assert columns[-1] == "after"
    assert {len(row) for row in cells} == {len(columns)}
    assert cells[2][-1] == "tokenize"


def test_the_paper_s_70b_run_is_as_published() -> None:
    """MEDITRON (arXiv 2311.16079), section 4.1: 23,000 steps of 2.1 M tokens on 128 GPUs."""
    facts = training("rcp", "70b")

    assert facts["ranks"] == 128
    assert facts["nodes"] == 16
    assert facts["padded_vocab_size"] == 32768
    assert facts["gradient_accumulation"] == 128
    assert facts["tokens_per_step"] == 2_097_152
    assert facts["tokens"] == pytest.approx(48.2e9, rel=0.01)
    assert facts["seconds"] == pytest.approx(332 * 3600, rel=0.2)
    assert facts["gpu_hours"] == pytest.approx(42_496, rel=0.2)
    assert facts["kg_co2"] == pytest.approx(486, rel=0.2)


def test_the_steps_parts_are_its_time_and_the_training_s() -> None:
    facts: dict[str, Any] = training("rcp", "70b")

    parts = {name: value for name, value in facts["step"].items() if name != "seconds"}
    assert sum(parts.values()) == pytest.approx(facts["step"]["seconds"])
    assert facts["seconds"] == pytest.approx(23_000 * facts["step"]["seconds"])
    assert facts["step_seconds"] == facts["step"]["seconds"]
    assert facts["mfu_without_attention"] < facts["mfu"] < 1


def test_each_stage_has_its_memory_and_the_fullest_is_shown() -> None:
    facts: dict[str, Any] = training("rcp", "70b")

    totals = [stage["memory_bytes"] for stage in facts["stages"]]
    assert len(totals) == 8
    assert facts["memory_bytes"] == max(totals) == totals[facts["stage"]]
    assert summary.memory_line(facts).startswith("memory       44.5 GiB per rank of stage 0, ")
    assert summary.memory_line(facts).endswith("GiB more without transformer-engine")


def test_on_cpus_no_time_is_computed() -> None:
    facts = training("test-slurm", "tiny")

    assert facts["seconds"] is None
    assert not [line for line in summary.training_lines(facts) if line.startswith("time")]


def test_a_missing_time_is_explained() -> None:
    full = training("rcp", "70b", "pretrain.precision=fp32", "parallel.distributed_optimizer=true")
    slow = training("site-pyxis", "7b", "parallel.data=2")

    assert summary.time_lines(full) == [
        "time         not computed: times are computed for bf16 alone, not fp32"
    ]
    assert summary.time_lines(slow) == [
        "time         not computed: the profile of site-pyxis lacks "
        "gpu_partition.node.gpu_memory_gb_s, gpu_partition.node.gpu_link_gb_s, "
        "gpu_partition.node.network_gb_s"
    ]


def test_the_footprint_names_what_the_profile_gives() -> None:
    facts = training("rcp", "70b") | {"kwh": 26_432.0, "kg_co2": 423.0, "price": 73_944.0}
    bare = facts | {"pue": None, "kg_co2": None, "price": None}

    assert summary.footprint_line(facts | {"currency": "CHF"}) == (
        "footprint    26.4 MWh at a PUE of 1.1, 423 kg CO2, 73,944 CHF; computed from the GPU-hours"
    )
    assert summary.footprint_line(bare) == (
        "footprint    26.4 MWh without the data centre's overhead; computed from the GPU-hours"
    )


def test_figures_become_sentences() -> None:
    lines = summary.training_lines(training("rcp", "70b"))

    assert lines[0] == (
        "layout       tensor 8 x pipeline 8 x data 2 = 128 ranks on 16 nodes, with sequence "
        "parallelism"
    )
    assert any("the GPU has 80.0 GiB" in line for line in lines)
    assert "step 0       128.5 GiB, computed: weights alone, as in an export" in lines
    assert lines[-9].startswith("step         45.21 s, computed: compute 35.82, tensor-parallel ")
    assert lines[-8] == (
        "time         12.0 days and 36,972 GPU-hours, computed, with transformer-engine; "
        "validation, saves and restarts are not counted"
    )
    assert lines[-7] == "jobs         about 13 jobs of 24 h; each submits the next"
    assert lines[-3].startswith("saves        every 500 steps, about 6.28 h; every 477 would cost ")


def test_the_vocabulary_is_a_line() -> None:
    lines = summary.training_lines(training("rcp", "70b"))
    given = training("test-slurm", "tiny", "vocabulary.bos_token=<s>", "vocabulary.eos_token=</s>")

    assert lines[2] == (
        "vocabulary   32000 tokens of the base model and 17 added (ids 32000 to 32016, 5 of them "
        "control tokens, rows by repeat-last-row); no BOS, <EOD> after each document"
    )
    assert summary.vocabulary_line(given["vocabulary"]) == (
        "vocabulary   4096 tokens; <s> before and <EOD> after each document; </s> ends a generation"
    )


def test_steps_to_keep_are_a_line_of_those_that_have_some() -> None:
    lines = summary.training_lines(training("rcp", "7b", "pretrain.keep_steps=[500,1000]"))

    assert "kept         checkpoints of steps 500, 1000, beside the newest" in lines
    assert not any("kept" in line for line in summary.training_lines(training("rcp", "7b")))


def test_a_limit_on_host_memory_bounds_what_a_rank_holds_and_the_plan_says_what_follows() -> None:
    whole, limited, ample = (
        training("rcp", "70b", "pretrain.keep_steps=[]", *limit)
        for limit in ((), ("pretrain.save_memory_gb=32",), ("pretrain.save_memory_gb=400",))
    )
    gpus = 8

    assert limited["save_bytes"] == 32 * GIB // gpus < whole["save_bytes"]
    assert limited["save_share_bytes"] == whole["save_bytes"] == ample["save_bytes"]
    (line,) = [text for text in summary.training_lines(limited) if text.startswith("checkpoint")]
    assert line.endswith(
        "to write it through 4.0 GiB of host memory, and training waits while the rest is written"
    )


def test_weights_to_keep_are_copied_beside_a_checkpoint_and_take_less_disk() -> None:
    keep = "pretrain.keep_steps=[500,1000]"
    whole, weights = (
        training("rcp", "70b", keep, f"pretrain.keep_weights_only={value}")
        for value in ("false", "true")
    )

    assert "kept         weights of steps 500, 1000, beside the newest" in (
        summary.training_lines(weights)
    )
    assert weights["save_bytes"] == pytest.approx(whole["save_bytes"] * 8 / 7, rel=1e-6)
    assert weights["disk_bytes"] < whole["disk_bytes"]
    (line,) = [line for line in summary.training_lines(whole) if line.startswith("disk")]
    assert line.endswith(" at most for all checkpoints, computed")


def test_where_jobs_cannot_submit_the_login_node_does() -> None:
    facts = {**training("rcp", "70b"), "submit_from_jobs": False}

    assert "; `meditron recover` on the login node submits the next" in summary.jobs_line(facts)


def test_the_start_up_limit_is_shown_with_its_source() -> None:
    estimated = training("rcp", "70b")
    measured = {**estimated, "startup_limit_source": "measured"}
    given = training("rcp", "70b", "supervision.startup_limit_seconds=1800")

    assert summary.startup_line(estimated) == (
        "start-up     at most 2649 s until the first step, else it is a hang; computed from the "
        "checkpoint at a guessed 2.0 GB/s"
    )
    assert summary.startup_line(estimated) in summary.training_lines(estimated)
    assert summary.startup_line(measured).endswith("at 2.0 GB/s, measured in this run")
    slow = {**measured, "checkpoint_bytes": 2**30, "save_seconds": 20.0}
    assert summary.startup_line(slow).endswith("at 53.7 MB/s, measured in this run")
    tiny = {**measured, "checkpoint_bytes": 28_600_000, "save_seconds": 0.92}
    assert summary.startup_line(tiny).endswith(
        "computed from saves of 920 ms, measured in this run"
    )
    assert summary.startup_line(given) == (
        "start-up     at most 1800 s until the first step, else it is a hang; set by "
        "supervision.startup_limit_seconds"
    )


def test_the_lead_is_shown_with_its_source() -> None:
    estimated = summary.training_lines(training("rcp", "70b"))[-1]
    given = {**training("rcp", "70b", "pretrain.signal_lead_seconds=900"), "grace_seconds": 120}

    assert estimated == (
        "signal       860 s before the time limit, estimated from the "
        "checkpoint's size until the run has saved; a save takes about 482.9 s, estimated"
    )
    assert summary.signal_line(given) == (
        "signal       900 s before the time limit, set by pretrain.signal_lead_seconds; a save "
        "takes about 482.9 s, estimated; the grace period is 120 s"
    )
