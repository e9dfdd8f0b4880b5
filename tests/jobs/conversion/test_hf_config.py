"""``config.json`` and our architecture: published files, both forms of RoPE, and refusals."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.contract.stage_specs import RopeScaling
from jobs.conversion import hf_config

from .models import small

LLAMA_2_70B: dict[str, Any] = {
    "_name_or_path": "meta-llama/Llama-2-70b-hf",
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 8192,
    "initializer_range": 0.02,
    "intermediate_size": 28672,
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "num_attention_heads": 64,
    "num_hidden_layers": 80,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.32.0.dev0",
    "use_cache": True,
    "vocab_size": 32000,
}
SCALING = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
LLAMA_3 = {**LLAMA_2_70B, "rope_theta": 500000.0, "rope_scaling": SCALING}


def test_llama_2_70b_has_its_published_architecture() -> None:
    described = hf_config.read(LLAMA_2_70B)

    assert described == hf_config.Described(
        {
            "layers": 80,
            "hidden_size": 8192,
            "ffn_hidden_size": 28672,
            "attention_heads": 64,
            "vocab_size": 32000,
            "kv_heads": 8,
            "head_dim": 128,
            "rope_theta": 10000.0,
            "rope_scaling": None,
            "norm_eps": 1e-5,
            "tied_embeddings": False,
            "qkv_bias": False,
            "qk_norm": False,
            "post_norm": False,
        },
        window=None,
    )


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 500000.0, "rope_scaling": SCALING},
        {"rope_parameters": {**SCALING, "rope_theta": 500000.0}, "rope_scaling": None},
        {
            "rope_parameters": {**SCALING, "rope_theta": 500000.0},
            "rope_theta": 500000,
            "rope_scaling": SCALING,
        },
    ],
    ids=["earlier", "transformers 5", "both"],
)
def test_both_forms_of_rope_are_read(rope: dict[str, Any]) -> None:
    described = hf_config.read({**LLAMA_2_70B, **rope})

    assert described.architecture["rope_theta"] == 500000.0
    assert described.architecture["rope_scaling"] == RopeScaling(8.0, 1.0, 4.0, 8192)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}},
            "rope_theta is stated twice, 10000 and 500000",
        ),
        (
            {"rope_parameters": {**SCALING, "rope_theta": 5e5}, "rope_theta": 5e5},
            "rope_scaling and rope_parameters differ",
        ),
        (
            {"rope_scaling": {**SCALING, "factor": 32.0}, "rope_parameters": SCALING},
            "rope_scaling and rope_parameters differ",
        ),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "RoPE of type 'linear'"),
        ({"rope_scaling": {**SCALING, "beta_fast": 32}}, "the field beta_fast of RoPE (32)"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "has no low_freq_factor"),
        ({"rope_parameters": {"full_attention": {}}}, "the field full_attention of RoPE"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        ({"hidden_act": "gelu"}, "hidden_act is gelu"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}"),
        ({"auto_map": {"AutoModel": "m.M"}}, "auto_map is "),
        ({"residual_multiplier": 0.22}, "the field residual_multiplier (0.22) is unknown"),
        ({"use_nope": False}, "the field use_nope (False) is unknown"),
        ({"model_type": "gemma2"}, "model_type is 'gemma2'; supported are llama, mistral"),
        ({"model_type": None}, "model_type is None"),
        ({"hidden_size": "8192"}, "hidden_size is 8192, not a number"),
        ({"num_hidden_layers": None}, "num_hidden_layers is None"),
        ({"layer_types": ["linear_attention"]}, "layer_types has 'linear_attention'"),
        ({"layer_types": 5}, "layer_types is 5, not a list"),
        ({"layer_types": [["full_attention"]]}, "layer_types has ['full_attention']"),
        ({"model_type": ["llama"]}, "model_type is ['llama']"),
        ({"rms_norm_eps": "tiny"}, "rms_norm_eps is tiny, not a number"),
        ({"rms_norm_eps": [1]}, "rms_norm_eps is [1], not a number"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan, not a number"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps is 1000"),
        ({"rope_theta": "10000"}, "rope_theta is 10000, not a number"),
        ({"rope_scaling": "linear"}, "rope_scaling is linear, not an object"),
        ({"rope_parameters": [1]}, "rope_parameters is [1], not an object"),
        ({"rope_parameters": {**SCALING, "factor": "x"}}, "factor is x, not a number"),
        (
            {"rope_parameters": {**SCALING, "original_max_position_embeddings": 8192.5}},
            "original_max_position_embeddings is 8192.5, not a number of one or more",
        ),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings is false, not true or false"),
        ({"model_type": "mistral", "sliding_window": "big"}, "sliding_window is big, not"),
        (
            {"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": "all"},
            "max_window_layers is all, not",
        ),
    ],
)
def test_what_would_compute_something_else_is_refused_by_name(
    fields: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(hf_config.Unsupported) as refused:
        hf_config.read({**LLAMA_2_70B, **fields})

    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("fields", "window"),
    [
        ({"model_type": "mistral", "sliding_window": 4096}, 4096),
        ({"model_type": "mistral", "sliding_window": None}, None),
        ({"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": False}, None),
        (
            {
                "model_type": "qwen2",
                "sliding_window": 64,
                "use_sliding_window": True,
                "max_window_layers": 80,
            },
            None,
        ),
        (
            {
                "model_type": "qwen2",
                "sliding_window": 64,
                "use_sliding_window": True,
                "max_window_layers": 70,
            },
            64,
        ),
        ({"model_type": "qwen3", "sliding_window": 64, "layer_types": ["full_attention"]}, None),
    ],
)
def test_a_sliding_window_is_read_where_a_layer_has_one(
    fields: dict[str, Any], window: int | None
) -> None:
    assert hf_config.read({**LLAMA_2_70B, **fields}).window == window


def test_a_window_matters_only_beyond_its_length() -> None:
    content = hf_config.write(small(seq_length=128), 96, "float32")
    described = hf_config.read({**content, "model_type": "mistral", "sliding_window": 128})

    assert list(hf_config.differences(described, small(seq_length=128), 96)) == []
    (sentence,) = hf_config.differences(described, small(seq_length=129), 96)
    assert sentence.startswith("sequences have 129 tokens (model.seq_length, pretrain.phases, ")
    assert "), beyond the folder's sliding window of 128 tokens" in sentence


def test_another_model_differs_by_key() -> None:
    described = hf_config.read(LLAMA_2_70B)
    spec = small(**{**described.architecture, "layers": 32, "seq_length": 4096})

    assert list(hf_config.differences(described, spec, 32017)) == [
        "model.layers is 32, the folder's is 80",
        "model.vocab_size without vocabulary.added_tokens is 32017, the folder's is 32000",
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"rope_theta": 5e5, "rope_scaling": RopeScaling(32.0, 1.0, 4.0, 8192)},
        {"tied_embeddings": True, "head_dim": 96},
        {"qkv_bias": True},
        {"qk_norm": True},
        {"post_norm": True},
    ],
)
def test_a_written_config_reads_back(fields: dict[str, Any]) -> None:
    spec = small(**fields)

    described = hf_config.read(hf_config.write(spec, spec.vocab_size, "bfloat16"))

    assert list(hf_config.differences(described, spec, spec.vocab_size)) == []
    assert described.window is None


def test_the_norm_epsilon_of_a_folder_without_one_is_its_type_s() -> None:
    content = {name: value for name, value in LLAMA_2_70B.items() if name != "rms_norm_eps"}

    for kind, value in {"llama": 1e-6, "olmo2": 1e-5}.items():
        described = hf_config.read({**content, "model_type": kind})
        assert described.architecture["norm_eps"] == value


def test_norms_and_biases_together_have_no_class() -> None:
    with pytest.raises(hf_config.Unsupported, match="both qkv_bias and qk_norm"):
        hf_config.write(small(qkv_bias=True, qk_norm=True), 500, "float32")
