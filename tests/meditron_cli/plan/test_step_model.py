"""The time of a step: against published ones, and as properties of the model."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contract.stage_specs import ParallelSpec
from meditron_cli.config.load import load_cluster
from meditron_cli.plan import step_model
from meditron_cli.plan.footprint import footprint
from meditron_cli.plan.hardware import Machine, gemm_share, machine_of
from meditron_cli.plan.layout import BatchLayout
from meditron_cli.plan.step_model import OURS, Engine, StepTime, Work, step_time

from ...plans import profile_of
from ...published_steps import (
    DGX_H100,
    LLAMA_8B,
    RCP,
    ROWS,
    Row,
    mean_error,
    table_lines,
)

DOCS = Path(__file__).parents[3] / "docs/plan.md"
MEDITRON_70B = ROWS[0]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_published_step_is_computed_within_a_fifth(row: Row) -> None:
    assert abs(row.error) < 0.20


def test_the_mean_error_is_below_a_tenth_also_of_rows_that_nothing_was_chosen_on() -> None:
    validating = tuple(row for row in ROWS if not row.chosen)

    assert mean_error(ROWS) < 0.10
    assert mean_error(validating) < 0.10
    assert len(validating) >= 9


def test_each_published_step_is_faster_than_a_perfect_machine_only_by_mistake() -> None:
    """A slip in a row's shape or time would show as a step that no GPU can make."""
    for row in ROWS:
        batch = row.work.batch.global_ * row.work.model.seq_length
        flops = batch * row.work.model.flops_per_token(attention=False)
        assert 0.25 < flops / (row.seconds * row.gpus * row.node.peak_bf16_tflops * 1e12) < 0.7


def test_the_pages_have_the_table_of_computed_and_published_steps() -> None:
    assert "\n".join(table_lines()) in DOCS.read_text()


def test_the_published_footprint_follows_from_the_published_hours() -> None:
    """MEDITRON (arXiv 2311.16079), appendix A: 332 h on 128 GPUs, 486 kg CO2."""
    cluster = load_cluster(str(profile_of("rcp")))

    made = footprint(332 * 3600, 128, cluster.gpu_partition.node.gpu_watts, cluster.accounting)

    assert made.gpu_hours == 42_496
    assert made.kg_co2 == pytest.approx(486, abs=0.5)
    assert made.price is None


def test_the_pages_have_the_published_training_beside_the_computed_one() -> None:
    """23,000 steps of 2 M tokens: the 48 G tokens of MEDITRON-70B."""
    row, node = ROWS[0], load_cluster(str(profile_of("rcp")))
    work, peak = row.work, row.node.peak_bf16_tflops * 1e12 * row.gpus

    made = footprint(
        23_000 * row.computed.seconds, 128, node.gpu_partition.node.gpu_watts, node.accounting
    )

    without, with_scores = (
        work.batch.global_ * work.model.seq_length * work.model.flops_per_token(attention=scores)
        for scores in (False, True)
    )
    computed, published = row.computed.seconds * peak, row.seconds * peak
    lines = (
        f"| step | {row.seconds} s | {row.computed.seconds:.2f} s |",
        f"| MFU | 42.3 % | {without / computed:.1%} without attention's operations, "
        f"{with_scores / computed:.1%} with them; the published step gives "
        f"{without / published:.1%} and {with_scores / published:.1%} |",
        f"| training | 42,496 GPU-hours | {made.gpu_hours:,.0f} GPU-hours |",
        f"| emissions | 486 kg CO2 | {made.kg_co2:.0f} kg CO2 |",
    )
    assert "\n".join(lines) in DOCS.read_text()


def test_a_price_and_power_are_only_computed_where_the_profile_gives_them() -> None:
    cluster = load_cluster(str(profile_of("rcp")))
    priced = cluster.accounting.model_copy(update={"price_per_gpu_hour": 2.5, "pue": None})

    assert footprint(3600, 8, 0, priced).price == 20
    assert footprint(3600, 8, 0, priced).kwh is None
    assert footprint(3600, 8, 500, priced).kwh == 4


LAYOUT = ParallelSpec(1, 1, 1, False, True, "none")


def machine(gpus: int = 1) -> Machine:
    found = machine_of(DGX_H100, gpus)
    assert found
    return found


def step(parallel: ParallelSpec, micro: int = 1, batch: int = 64, **more: int) -> StepTime:
    """Return the step of Llama 3.1 8B on H100s."""
    work = Work(LLAMA_8B, parallel, BatchLayout(micro, batch, parallel.data), **more)
    return step_time(work, machine(parallel.world_size))


def test_a_step_is_the_sum_of_its_parts() -> None:
    work = Work(LLAMA_8B, ParallelSpec(4, 4, 2, True, True, "none"), BatchLayout(1, 64, 2))
    found = step_time(work, machine(32), Engine(overlaps_reduction=False))

    parts = dataclasses.asdict(found)
    assert found.seconds == pytest.approx(sum(parts.values()))
    assert min(parts.values()) > 0


def test_one_gpu_communicates_with_none() -> None:
    found = step(LAYOUT)

    assert (found.tensor, found.bubble, found.pipeline, found.data) == (0, 0, 0, 0)


def test_a_bubble_is_the_time_of_the_other_stages_and_is_divided_by_interleaving() -> None:
    plain = step(dataclasses.replace(LAYOUT, pipeline=4))
    pieces = step(dataclasses.replace(LAYOUT, pipeline=4, virtual=8))
    layer = step_model.layer_time(
        Work(LLAMA_8B, LAYOUT, BatchLayout(1, 64, 1)), machine(4), OURS
    ).compute

    assert plain.bubble == pytest.approx(3 * 8 * layer)
    assert pieces.bubble == pytest.approx(plain.bubble / 8)
    assert pieces.pipeline == pytest.approx(plain.pipeline * 3 / (64 + 3))  # the rest overlaps


def test_the_slowest_stage_sets_the_pace() -> None:
    """It is the last one, which has the output layer."""
    model, parallel = LLAMA_8B, dataclasses.replace(LAYOUT, pipeline=4)
    work, speeds = Work(model, parallel, BatchLayout(1, 64, 1)), machine(4)

    layer = step_model.layer_time(work, speeds, OURS).compute
    output = step_model.output_time(work, speeds, OURS)

    assert step(parallel).compute == pytest.approx(64 * (8 * layer + output))


def test_full_recomputation_costs_a_forward_pass_and_its_communication() -> None:
    layout = dataclasses.replace(LAYOUT, tensor=4, sequence_parallel=True)
    work = Work(LLAMA_8B, layout, BatchLayout(1, 64, 1))
    again = dataclasses.replace(work, parallel=dataclasses.replace(layout, recompute="full"))

    none, full = (step_model.layer_time(one, machine(4), OURS) for one in (work, again))

    assert full.compute - none.compute == pytest.approx(none.forward)
    assert full.tensor == pytest.approx(none.tensor * 5 / 3)


def test_links_in_a_node_need_no_network() -> None:
    alone = DGX_H100.model_copy(update={"network_gb_s": 0})

    within = machine_of(alone, 8)

    assert within
    assert machine_of(alone, 16) is None
    parallel = ParallelSpec(2, 2, 2, True, True, "none")
    work = Work(LLAMA_8B, parallel, BatchLayout(1, 64, 2))
    assert step_time(work, within) == step_time(work, machine(8))


def test_a_slow_network_slows_what_crosses_it_and_nothing_else() -> None:
    work, engine = MEDITRON_70B.work, MEDITRON_70B.engine
    slow, fast = machine_of(RCP, 128), machine_of(RCP.model_copy(update={"network_gb_s": 200}), 128)
    assert slow
    assert fast

    found, faster = step_time(work, slow, engine), step_time(work, fast, engine)

    assert found.pipeline == pytest.approx(8 * faster.pipeline)
    assert found.data == pytest.approx(8 * faster.data)
    assert dataclasses.replace(found, pipeline=0, data=0) == dataclasses.replace(
        faster, pipeline=0, data=0
    )


@pytest.mark.parametrize(
    ("weaker", "part"),
    [
        (Engine(fused_attention=False), "compute"),
        (Engine(fused_kernels=False), "compute"),
        (Engine(overlaps_reduction=False), "data"),
    ],
)
def test_what_is_not_fused_or_overlapped_takes_longer(weaker: Engine, part: str) -> None:
    work = Work(LLAMA_8B, ParallelSpec(2, 1, 64, True, True, "none"), BatchLayout(1, 64, 64))
    speeds = machine(128)

    assert getattr(step_time(work, speeds, weaker), part) > getattr(step_time(work, speeds), part)


def test_the_other_direction_overlapping_more_takes_less() -> None:
    work = Work(LLAMA_8B, ParallelSpec(2, 4, 16, True, True, "none", 2), BatchLayout(1, 128, 16))
    better = Engine(
        fused_accumulation=True, overlaps_tensor=True, overlaps_pipeline=True, overlaps_gather=True
    )

    found, faster = step_time(work, machine(128), Engine()), step_time(work, machine(128), better)

    assert faster.compute < found.compute
    assert faster.tensor == pytest.approx(found.tensor * step_model.EXPOSED_SHARE)
    assert faster.pipeline < found.pipeline
    assert faster.data < found.data


@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4]), st.integers(1, 4))
def test_more_sequences_take_longer_and_larger_micro_batches_work_faster(
    tensor: int, pipeline: int, data: int
) -> None:
    parallel = ParallelSpec(tensor, pipeline, data, tensor > 1, True, "none")

    small, large = step(parallel, 1, 16 * data), step(parallel, 1, 32 * data)

    assert small.seconds < large.seconds < 2 * small.seconds + 1e-9
    assert step(parallel, 2, 32 * data).compute < large.compute


def test_a_gpu_of_an_unknown_kind_is_taken_for_the_slowest() -> None:
    assert gemm_share("NVIDIA A100-SXM4-80GB") == 0.75
    assert gemm_share("GH200") == gemm_share("NVIDIA H100 80GB HBM3") == gemm_share("B300")
