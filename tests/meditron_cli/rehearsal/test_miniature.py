"""The miniature of an experiment: what it keeps, and that it can be planned."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contract.stage_specs import STAGES
from meditron_cli.config.experiment_schema import Experiment, Parallel
from meditron_cli.config.load import load, size_names
from meditron_cli.rehearsal import miniature
from meditron_cli.runs import prepare

SIZES = [size for size in size_names() if size != "tiny"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the miniature's experiment."""
    (tmp_path / "experiment.yaml").write_text(miniature.EXPERIMENT)
    return tmp_path


@pytest.mark.parametrize("size", SIZES)
def test_every_recipe_has_a_miniature_that_fits_this_machine(size: str, folder: Path) -> None:
    real = load("rcp", size, None, []).experiment
    for layout in miniature.layouts(real):
        sets = miniature.settings(real, layout)

        loaded = load("local", size, folder / "experiment.yaml", sets)
        plan = prepare.plan_of(loaded, prepare.stages_of(prepare.PIPELINE, loaded.experiment))

        assert tuple(stage.stage for stage in plan.stages) == STAGES
        model = plan.training.tasks[0].training.model
        assert model.parameters < 2e6
        assert model.padded_vocab_size > model.vocab_size > miniature.BASE_VOCABULARY


@pytest.mark.parametrize("size", SIZES)
def test_a_miniature_keeps_the_mathematics_and_the_recipe(size: str, folder: Path) -> None:
    real = load("rcp", size, None, []).experiment
    sets = miniature.settings(real, miniature.layouts(real)[0])

    small = load("local", size, folder / "experiment.yaml", sets).experiment

    assert small.vocabulary == real.vocabulary
    for key in ("rope_theta", "rope_scaling", "norm_eps", "tied_embeddings", "qkv_bias", "qk_norm"):
        assert getattr(small.model, key) == getattr(real.model, key)
    assert small.model.attention_heads / small.model.kv_heads == pytest.approx(
        real.model.attention_heads / real.model.kv_heads
    )
    for key in ("adam_beta1", "adam_beta2", "adam_eps", "weight_decay", "clip_grad", "precision"):
        assert getattr(small.pretrain, key) == getattr(real.pretrain, key)
    for key in ("distributed_optimizer", "recompute"):
        assert getattr(small.parallel, key) == getattr(real.parallel, key)


@given(tensor=st.integers(1, 8), pipeline=st.integers(1, 8), data=st.integers(1, 8))
def test_the_second_layout_changes_tensor_or_pipeline_ranks(
    tensor: int, pipeline: int, data: int
) -> None:
    tiny = load("local", "tiny", None, []).experiment
    parallel = Parallel(tensor=tensor, pipeline=pipeline, data=data)

    first, second = miniature.layouts(tiny.model_copy(update={"parallel": parallel}))

    assert (first.tensor > 1, first.pipeline > 1, first.data > 1) == (
        tensor > 1,
        pipeline > 1,
        data > 1,
    )
    assert (first.tensor, first.pipeline) != (second.tensor, second.pipeline)
    assert first.ranks <= 8
    assert second.ranks == 2


def test_what_a_rehearsal_cannot_check_names_the_weights_and_the_cluster() -> None:
    real: Experiment = load("rcp", "70b", None, []).experiment

    text = " ".join(miniature.unchecked(real, "rcp", "cuda"))

    assert "meta-llama/Llama-2-70b-hf" in text
    assert "`meditron doctor`" in text
    assert "GPU kernels" in text
