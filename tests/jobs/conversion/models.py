"""Small models of transformers, and our specs of them."""

from __future__ import annotations

from typing import Any

from jobs.contract.stage_specs import ModelSpec, RopeScaling
from jobs.conversion import hf_config

from ...model_specs import model_spec


def small(**fields: Any) -> ModelSpec:
    """Return the spec of a model that transformers builds at once."""
    values = {
        "layers": 4,
        "hidden_size": 48,
        "ffn_hidden_size": 72,
        "attention_heads": 4,
        "kv_heads": 4,
        "seq_length": 64,
        "vocab_size": 96,
        "padded_vocab_size": 128,
    }
    return model_spec(**values | fields)


MODELS = {
    "Llama 2": small(),
    "grouped": small(attention_heads=12, kv_heads=4, head_dim=8),
    "Llama 3": small(
        rope_theta=5e5, rope_scaling=RopeScaling(4.0, 1.0, 3.0, 16), kv_heads=4, norm_eps=1e-6
    ),
    "tied": small(tied_embeddings=True),
    "biased": small(attention_heads=8, kv_heads=4, head_dim=8, qkv_bias=True),
    "QK norm": small(attention_heads=8, kv_heads=4, head_dim=16, qk_norm=True),
    "norms behind": small(attention_heads=8, kv_heads=4, head_dim=6, post_norm=True),
}
"""One model per row of the weight map's differences."""


def transformers_model(spec: ModelSpec, **fields: Any) -> Any:
    """Return transformers' model with random weights, large enough to matter in fp32 sums.

    Args:
        spec: its vocabulary becomes the model's.
        fields: of ``config.json``, that replace ours.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    content = hf_config.write(spec, spec.vocab_size, "float32") | fields
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(content.pop("model_type"), **content)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.2)
    return model
