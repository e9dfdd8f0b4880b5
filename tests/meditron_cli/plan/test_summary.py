"""The summary of a plan for people."""

from __future__ import annotations

import pytest

from jobs.contract.stage_specs import PretrainSpec
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
        "cpus_per_rank": 4,
        "memory_gb": 16,
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


def test_without_a_peak_no_time_is_guessed() -> None:
    facts = training("test-slurm", "tiny")

    assert facts["seconds"] is None
    assert not [line for line in summary.training_lines(facts) if line.startswith("time")]


def test_figures_become_sentences() -> None:
    lines = summary.training_lines(training("rcp", "70b"))

    assert lines[0] == (
        "layout       tensor 8 x pipeline 8 x data 2 = 128 ranks on 16 nodes, with sequence "
        "parallelism"
    )
    assert any("the GPU has 80.0 GiB" in line for line in lines)
    assert any("at a guessed 40% of peak, pipeline bubble included" in line for line in lines)
    assert lines[-4] == "jobs         about 16 jobs of 24 h; each submits the next"
    assert lines[-2].startswith("saves        every 500 steps, about 8.11 h; every 370 would cost ")


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


def test_where_jobs_cannot_submit_the_login_node_does() -> None:
    facts = {**training("rcp", "70b"), "submit_from_jobs": False}

    assert "; `meditron recover` on the login node submits the next" in summary.jobs_line(facts)


def test_the_start_up_limit_is_shown_with_its_source() -> None:
    estimated = training("rcp", "70b")
    measured = {**estimated, "startup_limit_source": "measured"}
    given = training("rcp", "70b", "supervision.startup_limit_seconds=1800")

    assert summary.startup_line(estimated) == (
        "start-up     2649 s until the first step, computed from the checkpoint at a guessed "
        "2.0 GB/s"
    )
    assert summary.startup_line(estimated) in summary.training_lines(estimated)
    assert summary.startup_line(measured).endswith("at 2.0 GB/s, measured in this run")
    assert summary.startup_line(given) == (
        "start-up     1800 s until the first step, set by supervision.startup_limit_seconds"
    )


def test_the_lead_is_shown_with_its_source() -> None:
    estimated = summary.training_lines(training("rcp", "70b"))[-1]
    given = {**training("rcp", "70b", "pretrain.signal_lead_seconds=900"), "grace_seconds": 120}

    assert estimated == (
        "signal       873 s before the time limit, estimated from the "
        "checkpoint's size until the run has saved; a save takes about 482.9 s, estimated"
    )
    assert summary.signal_line(given) == (
        "signal       900 s before the time limit, set by pretrain.signal_lead_seconds; a save "
        "takes about 482.9 s, estimated; the grace period is 120 s"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1000, "1.0K"), (48.2e9, "48.2B"), (2.1e12, "2.1T"), (3.3e6, "3.3M")],
)
def test_counts_are_short(value: float, text: str) -> None:
    assert summary.count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(512, "0.5 KiB"), (2**20, "1.0 MiB"), (19.4 * 2**30, "19.4 GiB"), (3 * 2**40, "3.0 TiB")],
)
def test_sizes_are_in_binary_units(value: float, text: str) -> None:
    assert summary.size(value) == text
