"""The miniature of an experiment: what it keeps, and that it can be planned."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load as safetensors_load

from jobs.contract.stage_specs import PIPELINE_STAGES, TailSpec
from meditron_cli.config.experiment_schema import Experiment
from meditron_cli.config.load import load, size_names
from meditron_cli.config.training.model import Parallel
from meditron_cli.plan import spec_parts
from meditron_cli.rehearsal import base_model, miniature
from meditron_cli.runs import prepare

SIZES = [size for size in size_names() if size != "tiny"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the miniature's experiment."""
    real = load("rcp", "7b", None, []).experiment
    (tmp_path / "experiment.yaml").write_text(miniature.document(real))
    return tmp_path


@pytest.mark.parametrize("size", SIZES)
def test_every_recipe_has_a_miniature_that_fits_this_machine(size: str, folder: Path) -> None:
    real = load("rcp", size, None, []).experiment
    for layout in miniature.layouts(real):
        sets = miniature.settings(real, layout)

        loaded = load("local", size, folder / "experiment.yaml", sets)
        plan = prepare.plan_of(loaded, prepare.stages_of(prepare.PIPELINE, loaded.experiment))

        stages = tuple(stage.stage for stage in plan.stages)
        assert stages == tuple(
            name
            for name in PIPELINE_STAGES
            if name not in ("clean", "deduplicate", "prepare", "finetune", "generate", "judge")
        )
        model = plan.training.tasks[0].training.model
        assert model.parameters < 2e6
        assert model.padded_vocab_size > model.vocab_size > miniature.BASE_VOCABULARY


@pytest.mark.parametrize("size", SIZES)
def test_a_miniature_keeps_the_mathematics_and_the_recipe(size: str, folder: Path) -> None:
    real = load("rcp", size, None, []).experiment
    first, _ = miniature.layouts(real)
    sets = miniature.settings(real, first)

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


def test_a_miniature_keeps_own_settings_of_the_training(folder: Path) -> None:
    own = ["eod_mask_loss=true", "reset_position_ids=true", "adam_eps=1e-6", "async_save=false"]
    real = load("rcp", "7b", None, [f"pretrain.{setting}" for setting in own]).experiment
    first, _ = miniature.layouts(real)

    small = load(
        "local", "7b", folder / "experiment.yaml", miniature.settings(real, first)
    ).experiment

    for key in (setting.partition("=")[0] for setting in own):
        assert getattr(small.pretrain, key) == getattr(real.pretrain, key)


PHASES = """[
    {from_tokens: 1000000000, sequence_length: 8192},
    {from_tokens: 1500000000, train_steps: 30000},
    {from_tokens: 2000000000, mixture: {weights: {replay: 1}}, tail: {learning_rate: 0}}]"""


def test_mixture_and_phases_are_appended_behind_the_first_layout(tmp_path: Path) -> None:
    sets = [
        "pretrain.corpora=[{name: replay, data: [/runs/replay]}]",
        "pretrain.mixture={by: tokens, weights: {corpus: 99, replay: 1}}",
        f"pretrain.phases={PHASES}",
    ]
    real = load("rcp", "7b", None, sets).experiment
    first, second = miniature.layouts(real)
    path = tmp_path / "experiment.yaml"
    path.write_text(miniature.document(real))

    before = load("local", "7b", path, miniature.settings(real, first)).experiment.pretrain
    after = load("local", "7b", path, miniature.settings(real, second, 20))

    assert (before.mixture, before.phases) == (real.pretrain.mixture, ())
    assert after.experiment.pretrain.mixture == real.pretrain.mixture
    assert not before.require_eod, "its further corpora are random tokens"
    assert after.experiment.pretrain.corpora[0].data == (tmp_path / "corpora/replay-data",)
    training = prepare.plan_of(after, ["pretrain"]).training.tasks[0].training
    _, longer, replayed = training.starts
    assert (longer.first_step, replayed.first_step, training.train_steps) == (24, 26, 32)
    assert (longer.sequence_length, replayed.sequence_length) == (256, 256)
    assert [weight.corpus for weight in replayed.phase.weights] == ["replay"]
    assert replayed.phase.tail == TailSpec(0.0, "linear", 32)


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


@pytest.mark.parametrize("unused", [3, 300])
def test_a_miniature_keeps_the_unused_rows_of_a_base_model(unused: int, folder: Path) -> None:
    rows = ["model.vocab_size=200000", f"vocabulary.unused_rows={unused}"]
    real = load("rcp", "7b", None, rows).experiment
    first, _ = miniature.layouts(real)
    sets = miniature.settings(real, first)

    small = load("local", "7b", folder / "experiment.yaml", sets).experiment
    vocabulary = spec_parts.vocabulary_spec(small)
    files = base_model.random_weights(spec_parts.model_spec(small), vocabulary.base_rows)

    assert vocabulary.base_size == miniature.BASE_VOCABULARY
    assert vocabulary.base_rows == miniature.BASE_VOCABULARY + unused
    (embedding,) = (
        tensors["model.embed_tokens.weight"]
        for name, content in files.items()
        if name.endswith(".safetensors")
        and "model.embed_tokens.weight" in (tensors := safetensors_load(content))
    )
    assert len(embedding) == vocabulary.base_rows
