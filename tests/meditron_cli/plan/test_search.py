"""Layouts ranked by computed step time."""

from __future__ import annotations

import dataclasses

import pytest

from meditron_cli.config.load import load
from meditron_cli.errors import ConfigError
from meditron_cli.plan import fit, layout, memory, search
from meditron_cli.plan.spec_parts import model_spec

from ...plans import GOLDEN, plan_of, profile_of


def found_on(cluster: str, size: str, *overrides: str) -> list[search.Candidate]:
    loaded = load(str(profile_of(cluster)), size, GOLDEN / "experiment.yaml", list(overrides))
    return search.ranked(loaded.cluster, loaded.experiment)


def test_divisors_ascend() -> None:
    assert search.divisors(12) == [1, 2, 3, 4, 6, 12]


def test_each_layout_divides_fits_and_uses_the_same_gpus() -> None:
    loaded = load(str(profile_of("rcp")), "70b", GOLDEN / "experiment.yaml", [])
    model = model_spec(loaded.experiment)

    for one in search.ranked(loaded.cluster, loaded.experiment):
        assert one.parallel.world_size == 128
        assert one.batch.global_ == 512
        assert one.parallel.sequence_parallel == (one.parallel.tensor > 1)
        assert not layout.layout_errors(model, one.parallel, one.batch.micro, 512)
        assert fit.shape_findings(loaded.cluster, one.parallel) == fit.Findings()
        assert one.memory.total <= 80 * 2**30


def test_the_fastest_is_first_and_its_settings_make_its_plan() -> None:
    found = found_on("rcp", "70b")
    seconds = [one.step.seconds for one in found]

    plan = plan_of("rcp", "70b", *found[0].settings)

    assert seconds == sorted(seconds)
    assert plan.training.tasks[0].training
    assert plan.training.tasks[0].training.parallel == found[0].parallel
    assert plan.training_lead.times.step_seconds == seconds[0]


def test_a_layout_fits_in_the_longest_phase() -> None:
    found = found_on(
        "rcp", "70b", "pretrain.phases=[{from_tokens: 40000000000, sequence_length: 16384}]"
    )
    loaded = load(str(profile_of("rcp")), "70b", GOLDEN / "experiment.yaml", [])
    model = dataclasses.replace(model_spec(loaded.experiment), seq_length=16384)

    assert 0 < len(found) < len(found_on("rcp", "70b"))
    for one in found:
        need = memory.fullest(model, one.parallel, one.batch, "bf16", "cuda")
        assert one.memory == need
        assert need.total <= 80 * 2**30


def test_the_published_layout_of_70b_is_near_the_best() -> None:
    """Tensor 8 x pipeline 8 x data 2 (arXiv 2311.16079, section 3), micro-batch 2 or 1."""
    found = found_on("rcp", "70b")

    shapes = [
        (one.parallel.tensor, one.parallel.pipeline, one.parallel.data)
        for one in found
        if one.step.seconds < 1.1 * found[0].step.seconds
    ]
    assert (8, 8, 2) in shapes


def test_layouts_that_a_save_leaves_no_room_for_fit_where_it_waits_or_its_copy_is_limited() -> None:
    """The ranks of a node would copy 269 GiB, over half of its 480."""
    large = ("model.layers=96", "parallel.pipeline=4", "parallel.data=1")

    with pytest.raises(ConfigError, match="no layout of 32 GPUs"):
        found_on("rcp", "70b", *large)

    assert found_on("rcp", "70b", *large, "pretrain.async_save=false")
    assert found_on("rcp", "70b", *large, "pretrain.save_memory_gb=200")


def test_sequence_parallelism_is_off_where_the_experiment_turns_it_off() -> None:
    found = found_on("rcp", "70b", "parallel.sequence_parallel=false")

    assert not any(one.parallel.sequence_parallel for one in found)
