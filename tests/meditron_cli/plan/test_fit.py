"""Plans that fit a cluster and plans that do not, with the sentences that a person reads."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contract.metrics_log import EARLY_SECONDS, StepTimes
from jobs.contract.stage_specs import ParallelSpec
from meditron_cli.config.cluster_schema import Cluster, Partition
from meditron_cli.plan import fit
from meditron_cli.plan.layout import BatchLayout
from meditron_cli.plan.model import Lead

from ...model_specs import model_spec

TENSOR = "evaluate.tensor"
SEVEN = model_spec(
    layers=32,
    hidden_size=4096,
    ffn_hidden_size=11008,
    attention_heads=32,
    kv_heads=32,
    seq_length=2048,
    vocab_size=32000,
    padded_vocab_size=32000,
)
ONE = ParallelSpec(1, 1, 1, False, True, "none")
BATCH = BatchLayout(1, 1, 1)


def cluster(nodes: int = 2, device: str = "cuda", **node: Any) -> Cluster:
    """Return a profile whose only partition is called gpu."""
    shape = {"gpus": 4, "cpus": 16, "memory_gb": 64, **node}
    partition = {"name": "gpu", "nodes": nodes, "node": shape, "max_time_minutes": 60}
    values = {"name": "site", "scheduler": "slurm", "device": device, "gpu_partition": partition}
    return Cluster.model_validate(values)


def partition(grace: int | None) -> Partition:
    """Return a partition whose preempted jobs have so long, in seconds."""
    node = {"cpus": 16, "memory_gb": 64}
    values = {"name": "gpu", "nodes": 2, "node": node, "grace_seconds": grace}
    return Partition.model_validate(values)


def layout(tensor: int = 1, pipeline: int = 1, data: int = 1) -> ParallelSpec:
    return dataclasses.replace(ONE, tensor=tensor, pipeline=pipeline, data=data)


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        (
            (2, 2, 4),
            "parallel.tensor x pipeline x data = 2 x 2 x 4 = 16 ranks, but cluster site has 8 GPUs "
            "(2 nodes of 4)",
        ),
        (
            (1, 1, 5),
            "parallel.tensor x pipeline x data = 1 x 1 x 5 = 5 ranks do not fill whole nodes of 4 "
            "GPUs",
        ),
        (
            (8, 1, 1),
            "parallel.tensor = 8 does not fit within a node of 4 GPUs; tensor parallelism must not "
            "cross nodes",
        ),
    ],
)
def test_a_layout_that_cannot_be_laid_over_the_nodes_is_refused(
    sizes: tuple[int, int, int], sentence: str
) -> None:
    assert fit.shape_findings(cluster(), layout(*sizes)) == fit.error_findings(sentence)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 1, 1), (4, 2, 1), (2, 2, 2), (1, 1, 3)])
def test_a_layout_on_part_of_a_node_or_on_whole_nodes_fits(sizes: tuple[int, int, int]) -> None:
    assert fit.shape_findings(cluster(), layout(*sizes)) == fit.Findings()


def test_without_gpus_a_rank_takes_a_core() -> None:
    found = fit.shape_findings(cluster(1, "cpu", gpus=0, cpus=2), layout(data=3))

    assert found.errors == (
        "parallel.tensor x pipeline x data = 1 x 1 x 3 = 3 ranks, but cluster site has 2 cores "
        "(1 node of 2)",
    )


def test_a_time_limit_over_the_partitions_is_refused() -> None:
    partition = cluster().gpu_partition

    assert fit.time_findings("evaluate", 60, partition) == fit.Findings()
    assert fit.time_findings("evaluate", 61, partition) == fit.error_findings(
        "evaluate.time_minutes = 61 is over the 60 minutes of partition gpu"
    )


def test_a_signal_that_may_come_before_any_work_is_refused() -> None:
    assert fit.lead_findings("pretrain", 2, 60) == fit.error_findings(
        "pretrain.time_minutes = 2 leaves 0 s to work: Slurm signals the job 60 s before the "
        "end, and up to 60 s too early"
    )


def test_a_signal_that_takes_more_than_half_of_the_job_is_doubted() -> None:
    found = fit.lead_findings("pretrain", 20, 600)

    assert found.errors == ()
    assert found.warnings[0].startswith("pretrain.time_minutes = 20 leaves 540 s to work: ")


@given(st.integers(1, 10_000), st.integers(1, 100_000))
def test_a_job_that_is_not_refused_has_time_to_work(minutes: int, lead: int) -> None:
    found = fit.lead_findings("pretrain", minutes, lead)

    assert bool(found.errors) == (minutes * 60 - lead - EARLY_SECONDS <= 0)
    assert not (found.errors and found.warnings)


def lead(seconds: int, save: float, step: float | None, source: str = "measured") -> Lead:
    """Return a lead that the experiment gives, beside measured times."""
    return Lead(seconds, "given", StepTimes(save, step), source)


def test_a_given_lead_shorter_than_a_save_is_refused_where_saves_were_measured() -> None:
    sentence = (
        "pretrain.signal_lead_seconds = 50 is shorter than a step and a save, which take about 70 "
        "s ({}); leave it out to compute it"
    )

    assert fit.given_lead_findings(lead(50, 40, 10)) == fit.error_findings(
        sentence.format("measured")
    )
    estimated = fit.given_lead_findings(lead(50, 40, 10, "estimated"))
    assert estimated == fit.warning_findings(sentence.format("estimated"))
    assert fit.given_lead_findings(lead(70, 40, 10)) == fit.Findings()


def test_a_computed_lead_is_never_too_short() -> None:
    computed = dataclasses.replace(lead(91, 40, 100), source="estimated")

    assert fit.given_lead_findings(computed) == fit.Findings()


@pytest.mark.parametrize(
    ("step", "gpus", "lost"),
    [
        (10.0, 16, "500 steps (about 83.3 minutes, 22.2 GPU-hours)"),
        (10.0, 0, "500 steps (about 83.3 minutes)"),
        (None, 16, "500 steps"),
    ],
)
def test_a_grace_too_short_to_save_in_is_doubted_with_what_is_lost(
    step: float | None, gpus: int, lost: str
) -> None:
    found = fit.grace_findings(partition(30), lead(600, 40, step), 500, gpus)

    need = 70 if step else 60
    assert found == fit.warning_findings(
        f"partition gpu has a grace period of 30 s, and a step and a save take about {need} s "
        f"(measured): a preempted job cannot save and loses at most {lost}, fewer with a smaller "
        "pretrain.save_interval"
    )


@pytest.mark.parametrize("grace", [None, 70, 600])
def test_a_grace_that_is_not_known_or_long_enough_is_not_doubted(grace: int | None) -> None:
    assert fit.grace_findings(partition(grace), lead(600, 40, 10), 500, 16) == fit.Findings()


def test_a_save_interval_longer_than_a_job_is_doubted() -> None:
    assert fit.interval_findings(60, lead(600, 40, 6), 500) == fit.Findings()
    assert fit.interval_findings(60, lead(600, 40, None), 500) == fit.Findings()
    assert fit.interval_findings(40, lead(600, 40, 6), 500) == fit.warning_findings(
        "pretrain.save_interval = 500 is about 50 min of training (measured), and a job trains "
        "for 30: one that fails loses all its steps; lower it"
    )


def test_memory_has_no_finding_where_the_profile_has_no_figure() -> None:
    assert (
        fit.memory_findings(cluster(memory_gb=512), SEVEN, ONE, BATCH, "bf16", copies=1)
        == fit.Findings()
    )


def test_states_beyond_the_gpu_are_refused() -> None:
    found = fit.memory_findings(cluster(gpu_memory_gb=80), SEVEN, ONE, BATCH, "bf16", copies=1)

    assert found == fit.error_findings(
        "weights, gradients and optimizer need 113 GiB per GPU, cluster site has 80; raise "
        "parallel.tensor or parallel.pipeline"
    )


def test_activations_beyond_the_gpu_are_only_doubted_since_they_are_an_estimate() -> None:
    found = fit.memory_findings(
        cluster(gpu_memory_gb=120, memory_gb=512),
        SEVEN,
        ONE,
        BatchLayout(8, 8, 1),
        "bf16",
        copies=1,
    )

    assert found.errors == ()
    assert found.warnings[0].endswith("lower pretrain.micro_batch_size or set parallel.recompute")


def test_what_fits_the_gpu_is_not_doubted() -> None:
    site = cluster(gpu_memory_gb=800, memory_gb=512)

    assert fit.memory_findings(site, SEVEN, ONE, BATCH, "bf16", copies=1) == fit.Findings()


def test_a_save_that_does_not_fit_the_nodes_memory_is_doubted() -> None:
    site = cluster(gpu_memory_gb=800, memory_gb=64)
    sharded = dataclasses.replace(layout(data=4), distributed_optimizer=True)

    found = fit.memory_findings(site, SEVEN, sharded, BatchLayout(1, 4, 4), "bf16", copies=1)

    assert found == fit.warning_findings(
        "an asynchronous save copies about 88 GiB to the memory of each node, of which half of 64 "
        "GiB is for it in cluster site; training waits while the rest is written, unless "
        "parallel.data is raised"
    )
    assert not fit.memory_findings(
        site, SEVEN, sharded, BatchLayout(1, 4, 4), "bf16", copies=0
    ).warnings


def test_more_memory_for_copies_than_a_node_has_is_refused() -> None:
    partition = cluster(memory_gb=64).gpu_partition

    assert fit.copy_findings(partition, 64.0) == fit.copy_findings(partition, None)
    assert fit.copy_findings(partition, 65.0) == fit.error_findings(
        f"pretrain.save_memory_gb = 65 is more than the 64 GiB of a node in {partition.name}"
    )


def test_weights_that_are_kept_beside_a_save_need_memory_of_the_node_too() -> None:
    sharded = dataclasses.replace(layout(data=4), distributed_optimizer=True)

    def sentences(copies: int) -> tuple[str, ...]:
        site = cluster(gpu_memory_gb=800, memory_gb=180)  # half of it: 90 GiB
        batch = BatchLayout(1, 4, 4)
        return fit.memory_findings(site, SEVEN, sharded, batch, "bf16", copies=copies).warnings

    assert not sentences(1)
    (sentence,) = sentences(2)
    assert "copies about 100 GiB to the memory of each node" in sentence


def test_the_nearest_layout_that_fits_keeps_the_ranks_then_the_tensor_size() -> None:
    site = cluster(gpu_memory_gb=80, memory_gb=1000)
    asked = layout(tensor=8)

    found = fit.fitting_layout(site, [SEVEN], asked, BatchLayout(1, 8, 1), "bf16", copies=1)

    assert found == layout(tensor=4, data=2)


def test_no_layout_is_proposed_where_none_fits() -> None:
    tiny = cluster(gpu_memory_gb=2)

    assert (
        fit.fitting_layout(tiny, [SEVEN], layout(tensor=8), BatchLayout(1, 8, 1), "bf16", copies=1)
        is None
    )


@pytest.mark.parametrize(
    ("changes", "tensor", "sentences"),
    [
        ({}, 8, ("evaluate.tensor = 8 is more than the 4 GPUs of one node",)),
        (
            {"kv_heads": 2, "ffn_hidden_size": 11010},
            4,
            (
                "model.kv_heads = 2 is not divisible by evaluate.tensor = 4",
                "model.ffn_hidden_size = 11010 is not divisible by evaluate.tensor = 4",
            ),
        ),
        (
            {"padded_vocab_size": 32001},
            2,
            (
                "the embedding's rows, 32001, are not divisible by evaluate.tensor = 2; "
                "set model.vocab_multiple to a multiple of 2",
            ),
        ),
        ({}, 4, ()),
    ],
)
def test_an_evaluation_divides_and_stays_on_one_node(
    changes: dict[str, int], tensor: int, sentences: tuple[str, ...]
) -> None:
    model = dataclasses.replace(SEVEN, **changes)
    site = cluster()

    found = fit.evaluation_findings(site, site.gpu_partition, model, (TENSOR, tensor), "bf16")

    assert found.errors == sentences


def test_weights_beyond_the_gpu_cannot_be_evaluated() -> None:
    site = cluster(gpu_memory_gb=8)

    found = fit.evaluation_findings(site, site.gpu_partition, SEVEN, (TENSOR, 1), "bf16")

    assert found.errors == (
        "the weights need 13 GiB per GPU in evaluation, cluster site has 8; raise evaluate.tensor",
    )


def test_more_cores_than_a_node_has_are_refused() -> None:
    partition = cluster().gpu_partition

    assert fit.core_findings("tokenize", 16, partition) == fit.Findings()
    assert fit.core_findings("tokenize", 17, partition) == fit.error_findings(
        "tokenize.cpus = 17 is more than the 16 cores of a node in gpu"
    )


@given(st.integers(0, 3000), st.integers(1, 1001))
def test_arrays_hold_every_task_once_and_no_index_the_site_refuses(count: int, size: int) -> None:
    arrays = fit.chunks(count, size)

    assert [index for array in arrays for index in array] == list(range(count))
    assert all(len(array) - 1 < size for array in arrays)
    assert len(arrays) == -(-count // size)


@pytest.mark.parametrize(
    ("memory_gb", "ranks", "kind"),
    [(1, 1, "errors"), (100, 2, "errors"), (120, 1, "warnings"), (200, 1, None)],
)
def test_ranks_on_cpus_share_the_memory_of_their_node(
    memory_gb: int, ranks: int, kind: str | None
) -> None:
    site = cluster(device="cpu", gpus=0, memory_gb=memory_gb)
    flat = dataclasses.replace(layout(data=ranks), distributed_optimizer=False)

    found = fit.memory_findings(site, SEVEN, flat, BATCH, "fp32", copies=0)

    assert [name for name in ("errors", "warnings") if getattr(found, name)] == (
        [kind] if kind else []
    )
    assert all("the node of cluster site has" in text for text in found.errors + found.warnings)


def test_an_evaluation_on_cpus_must_fit_its_node() -> None:
    site = cluster(device="cpu", gpus=0, memory_gb=8)

    found = fit.evaluation_findings(site, site.gpu_partition, SEVEN, (TENSOR, 1), "fp32")

    assert found.errors == (
        "the weights need 25 GiB on a node in evaluation, the node of cluster site has 8; "
        "evaluate a smaller model",
    )


def test_ranks_that_outnumber_the_cores_of_this_machine_are_warned_of() -> None:
    assert fit.sharing_findings(4, 2).warnings == ("4 ranks share the 2 cores of this machine",)
    assert fit.sharing_findings(2, 2) == fit.sharing_findings(64, 0) == fit.Findings()
