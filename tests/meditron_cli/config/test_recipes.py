"""Recipes beside what was published of their models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from jobs.contract.stage_specs import RopeScaling
from meditron_cli.config.experiment_schema import Experiment
from meditron_cli.config.load import load
from meditron_cli.plan.build import build
from meditron_cli.plan.inputs import Inputs
from meditron_cli.plan.memory import stage_parameters
from meditron_cli.plan.spec_parts import model_spec, parallel_spec, vocabulary_spec

LLAMA_3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position": 8192}

MODELS: dict[str, dict[str, Any]] = {
    "7b": {  # config.json of meta-llama/Llama-2-7b-hf; arXiv 2307.09288, Table 1
        "weights": "meta-llama/Llama-2-7b-hf", "parameters": 6_738_415_616, "base_size": 32_000,
        "layers": 32, "hidden_size": 4096, "ffn_hidden_size": 11008, "attention_heads": 32,
        "kv_heads": 32, "head_dim": 128, "rope_theta": 1e4, "rope_scaling": None,
        "norm_eps": 1e-5, "tied_embeddings": False,
    },
    "13b": {  # config.json of meta-llama/Llama-2-13b-hf; arXiv 2307.09288, Table 1
        "weights": "meta-llama/Llama-2-13b-hf", "parameters": 13_015_864_320, "base_size": 32_000,
        "layers": 40, "hidden_size": 5120, "ffn_hidden_size": 13824, "attention_heads": 40,
        "kv_heads": 40, "head_dim": 128, "rope_theta": 1e4, "rope_scaling": None,
        "norm_eps": 1e-5, "tied_embeddings": False,
    },
    "70b": {  # config.json of meta-llama/Llama-2-70b-hf; arXiv 2307.09288, Table 1
        "weights": "meta-llama/Llama-2-70b-hf", "parameters": 68_976_648_192, "base_size": 32_000,
        "layers": 80, "hidden_size": 8192, "ffn_hidden_size": 28672, "attention_heads": 64,
        "kv_heads": 8, "head_dim": 128, "rope_theta": 1e4, "rope_scaling": None,
        "norm_eps": 1e-5, "tied_embeddings": False,
    },
    "8b": {  # config.json of meta-llama/Llama-3.1-8B; arXiv 2407.21783, Table 3
        "weights": "meta-llama/Llama-3.1-8B", "parameters": 8_030_261_248, "base_size": 128_256,
        "layers": 32, "hidden_size": 4096, "ffn_hidden_size": 14336, "attention_heads": 32,
        "kv_heads": 8, "head_dim": 128, "rope_theta": 5e5,
        "rope_scaling": RopeScaling(8.0, **LLAMA_3), "norm_eps": 1e-5, "tied_embeddings": False,
    },
    "1b": {  # config.json and model card of meta-llama/Llama-3.2-1B
        "weights": "meta-llama/Llama-3.2-1B", "parameters": 1_235_814_400, "base_size": 128_256,
        "layers": 16, "hidden_size": 2048, "ffn_hidden_size": 8192, "attention_heads": 32,
        "kv_heads": 8, "head_dim": 64, "rope_theta": 5e5,
        "rope_scaling": RopeScaling(32.0, **LLAMA_3), "norm_eps": 1e-5, "tied_embeddings": True,
    },
}  # fmt: skip
"""Shapes of the base models, without added tokens and padding."""

OPTIMIZER = {
    "pretrain.adam_beta1": 0.9, "pretrain.adam_beta2": 0.95, "pretrain.adam_eps": 1e-5,
    "pretrain.weight_decay": 0.1, "pretrain.clip_grad": 1.0, "pretrain.warmup_steps": 2000,
    "pretrain.min_learning_rate": 1e-6, "pretrain.precision": "bf16", "seed": 1234,
    "parallel.recompute": "selective",
}  # fmt: skip
"""Of both released models (README of epfLLM/meditron), which the other recipes take over. The seed
is Megatron-LLM's default (arguments.py)."""

RECIPES: dict[str, dict[str, Any]] = {
    "7b": {  # README of epfLLM/meditron, "Training Hyperparameters (7B)"
        "pretrain.learning_rate": 3e-4, "model.seq_length": 2048, "pretrain.micro_batch_size": 10,
        "pretrain.global_batch_size": 1600, "parallel.data": 16, "parallel.tensor": 4,
        "parallel.pipeline": 1, "parallel.distributed_optimizer": False,
        "parallel.sequence_parallel": True,
    },
    "70b": {  # README of epfLLM/meditron, "Training Hyperparameters (70B)"; Table 6, Figure 4
        "pretrain.learning_rate": 1.5e-4, "model.seq_length": 4096,
        "pretrain.micro_batch_size": 2, "pretrain.global_batch_size": 512, "parallel.data": 2,
        "parallel.tensor": 8, "parallel.pipeline": 8, "parallel.distributed_optimizer": False,
        "parallel.sequence_parallel": True, "pretrain.train_steps": 23000,
        "pretrain.validation_interval": 500,
    },
    "13b": {  # pretrain/finetune.sh of epfLLM/meditron
        "pretrain.learning_rate": 3e-4, "model.seq_length": 4096,
    },
    "8b": {  # the base model's own peak and context: arXiv 2407.21783, Table 3 and section 3.4
        "pretrain.learning_rate": 3e-4, "model.seq_length": 8192,
    },
    "1b": {},
}  # fmt: skip

TOKENS = {
    "<CLS>": 0, "<SEP>": 1, "<EOD>": 2, "<MASK>": 3, "<PAD>": 4, "[bib_ref]": 5, "[/bib_ref]": 6,
    "[fig_ref]": 7, "[/fig_ref]": 8, "[bib]": 9, "[/bib]": 10, "[fig]": 11, "[/fig]": 12,
    "[table]": 13, "[/table]": 14, "[formula]": 15, "[/formula]": 16,
}  # fmt: skip
"""MEDITRON's tokens after the base vocabulary (tokenizer.py:338-406 of Megatron-LLM, then
gap-replay/tokenize.sh)."""

ROWS = {"7b": 32_256, "70b": 32_768}
"""Of the embedding, by Megatron's rule at the published layouts (tokenizer.py:49-62)."""

EPOCH = {"7b": 46.7e9, "13b": 46.7e9, "8b": 46.7e9 * 3.17 / 3.94, "1b": 46.7e9 * 3.17 / 3.94}
"""Training tokens (paper, Table 1); Llama 3 needs fewer for a text (arXiv 2407.21783, section 3.2).
70b's steps are published themselves.
"""

CLUSTERS = ("rcp", "generic-h100")


def experiment_of(size: str, cluster: str = "rcp") -> Experiment:
    return load(cluster, size, None, []).experiment


@pytest.mark.parametrize("size", MODELS)
def test_the_model_of_a_recipe_is_the_published_one(size: str) -> None:
    published = dict(MODELS[size])
    experiment = experiment_of(size)
    model = model_spec(experiment)
    vocabulary = vocabulary_spec(experiment)
    base = replace(model, padded_vocab_size=published["base_size"])
    found = {
        "weights": experiment.model.weights,
        "parameters": base.parameters,
        "base_size": vocabulary.base_size,
    }

    assert found | {key: getattr(model, key) for key in published if key not in found} == published
    assert (model.qkv_bias, model.qk_norm) == (False, False)


@pytest.mark.parametrize("size", RECIPES)
def test_the_settings_of_a_recipe_are_the_published_ones(size: str) -> None:
    experiment = experiment_of(size)

    def value(key: str) -> Any:
        section, _, name = key.rpartition(".")
        return getattr(getattr(experiment, section) if section else experiment, name)

    published = OPTIMIZER | RECIPES[size]
    assert {key: value(key) for key in published} == published


@pytest.mark.parametrize("size", MODELS)
def test_the_added_tokens_of_a_recipe_are_meditrons(size: str) -> None:
    vocabulary = vocabulary_spec(experiment_of(size))
    ids = {token: number for number, token in enumerate(vocabulary.added_tokens)}

    assert ids == TOKENS
    assert vocabulary.control_tokens == ("<CLS>", "<SEP>", "<EOD>", "<MASK>", "<PAD>")
    assert vocabulary.base_size + len(ids) == experiment_of(size).model.vocab_size


@pytest.mark.parametrize("size", ["7b", "13b", "70b"])
def test_the_roles_of_tokens_are_meditrons(size: str) -> None:
    """No BOS (encode_as_ids of tokenizer.py:422-444), new rows of checkpoint_saver_megatron.py."""
    vocabulary = vocabulary_spec(experiment_of(size))

    assert (vocabulary.new_rows, vocabulary.bos_token) == ("repeat-last-row", "")
    assert (vocabulary.eod_token, vocabulary.eos_token) == ("<EOD>", "<EOD>")


@pytest.mark.parametrize("size", ROWS)
def test_the_vocabulary_is_padded_as_published(size: str) -> None:
    assert model_spec(experiment_of(size)).padded_vocab_size == ROWS[size]


@pytest.mark.parametrize("size", EPOCH)
def test_a_recipe_trains_for_one_epoch_of_a_schedule_for_two(size: str) -> None:
    experiment = experiment_of(size)
    pretrain = experiment.pretrain
    step = pretrain.global_batch_size * experiment.model.seq_length

    assert abs(pretrain.train_steps * step - EPOCH[size]) < step
    assert pretrain.decay_steps is not None
    assert 0 <= pretrain.decay_steps - 2 * pretrain.train_steps <= 1


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("size", MODELS)
def test_a_recipe_fits_the_clusters_of_the_paper_and_of_today(size: str, cluster: str) -> None:
    loaded = load(cluster, size, None, [])

    plan = build(Inputs(loaded.experiment, loaded.cluster, size, "0" * 64, "python"), ("pretrain",))

    assert not [warning for warning in plan.warnings if "GiB" in warning]


def test_a_tied_embedding_is_counted_once_per_pipeline_stage() -> None:
    experiment = experiment_of("1b")
    model, parallel = model_spec(experiment), parallel_spec(experiment)

    assert stage_parameters(model, parallel, 0) == model.parameters - model.hidden_size
    halves = stage_parameters(model, replace(parallel, pipeline=2), 0)
    assert 2 * halves - stage_parameters(model, parallel, 0) == 128_512 * 2048
