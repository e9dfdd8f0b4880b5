"""Random models of transformers, and the same weights in the engine's model, on one rank.

The weights are copied by hand, one line per kind of tensor, independently of the program's own
conversion.
"""

from __future__ import annotations

import os
import re
from typing import Any

import torch

from jobs.contract.stage_specs import ModelSpec, ParallelSpec, RopeScaling

from ..model_specs import model_spec

VOCABULARY = 100
"""Tokens, which two or four tensor-parallel ranks can share without padding."""

SIZES: dict[str, Any] = {
    "layers": 2,
    "hidden_size": 32,
    "ffn_hidden_size": 48,
    "attention_heads": 8,
    "kv_heads": 4,
    "seq_length": 64,
    "vocab_size": VOCABULARY,
    "padded_vocab_size": 128,
}

LLAMA_3_1 = RopeScaling(8.0, 1.0, 4.0, 32)
LLAMA_3_2 = RopeScaling(32.0, 1.0, 4.0, 32)
OTHER_FACTORS = RopeScaling(3.0, 1.5, 7.0, 40)

MODELS: dict[str, tuple[str, ModelSpec]] = {
    "llama 2": ("Llama", model_spec(**SIZES | {"kv_heads": 8})),
    "llama 2 with groups": ("Llama", model_spec(**SIZES, norm_eps=1e-3)),
    "mistral": ("Mistral", model_spec(**SIZES, rope_theta=1e6)),
    "wide heads": ("Llama", model_spec(**SIZES, head_dim=16, rope_theta=5e5)),
    "llama 3.1": ("Llama", model_spec(**SIZES, head_dim=16, rope_scaling=LLAMA_3_1)),
    "llama 3.2": (
        "Llama",
        model_spec(**SIZES, head_dim=16, rope_scaling=LLAMA_3_2, tied_embeddings=True),
    ),
    "other factors": ("Llama", model_spec(**SIZES, head_dim=16, rope_scaling=OTHER_FACTORS)),
    "qwen 2": ("Qwen2", model_spec(**SIZES, qkv_bias=True, norm_eps=1e-6)),
    "qwen 3": ("Qwen3", model_spec(**SIZES, head_dim=16, qk_norm=True, tied_embeddings=True)),
    "olmo 2": ("Olmo2", model_spec(**SIZES, post_norm=True, rope_theta=5e5)),
}
"""Models by name: the class of transformers without its suffix, and our settings."""


def reference(family: str, spec: ModelSpec, seed: int) -> Any:
    """Return a model of transformers with these settings; every weight is random, norms too."""
    import transformers

    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": spec.rope_theta}
    if spec.rope_scaling is not None:
        rope |= {
            "rope_type": "llama3",
            "factor": spec.rope_scaling.factor,
            "low_freq_factor": spec.rope_scaling.low_freq_factor,
            "high_freq_factor": spec.rope_scaling.high_freq_factor,
            "original_max_position_embeddings": spec.rope_scaling.original_max_position,
        }
    config = getattr(transformers, f"{family}Config")(
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.ffn_hidden_size,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.attention_heads,
        num_key_value_heads=spec.kv_heads,
        **({} if family in ("Qwen2", "Olmo2") else {"head_dim": spec.head_dim}),
        **({"sliding_window": None} if family == "Mistral" else {}),
        max_position_embeddings=512,
        rms_norm_eps=spec.norm_eps,
        rope_parameters=rope,
        tie_word_embeddings=spec.tied_embeddings,
        attn_implementation="eager",
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * 0.2 + ("norm" in name))
    return model


def whole_tensors(
    spec: ModelSpec, weights: dict[str, torch.Tensor], padding: float
) -> dict[str, torch.Tensor]:
    """Return the engine's tensors of all layers, unsharded, from those of transformers.

    Args:
        weights: weights, or their gradients.
        padding: the value in padding rows of the vocabulary.
    """
    rows = spec.padded_vocab_size - spec.vocab_size

    def padded(name: str) -> torch.Tensor:
        return torch.cat([weights[name], torch.full((rows, spec.hidden_size), padding)])

    def grouped(layer: str, kind: str) -> torch.Tensor:
        parts = [
            weights[f"{layer}.self_attn.{one}_proj.{kind}"].unflatten(0, (spec.kv_heads, -1))
            for one in "qkv"
        ]
        return torch.cat(parts, 1).flatten(0, 1)

    whole = {
        "embedding.word_embeddings.weight": padded("model.embed_tokens.weight"),
        "decoder.final_layernorm.weight": weights["model.norm.weight"],
    }
    if not spec.tied_embeddings:
        whole["output_layer.weight"] = padded("lm_head.weight")
    for number in range(spec.layers):
        layer, ours = f"model.layers.{number}", f"decoder.layers.{number}"
        whole |= {
            f"{ours}.self_attention.linear_qkv.weight": grouped(layer, "weight"),
            f"{ours}.self_attention.linear_proj.weight": weights[
                f"{layer}.self_attn.o_proj.weight"
            ],
            f"{ours}.mlp.linear_fc1.weight": torch.cat(
                [weights[f"{layer}.mlp.gate_proj.weight"], weights[f"{layer}.mlp.up_proj.weight"]]
            ),
            f"{ours}.mlp.linear_fc2.weight": weights[f"{layer}.mlp.down_proj.weight"],
        }
        if spec.qkv_bias:
            whole[f"{ours}.self_attention.linear_qkv.bias"] = grouped(layer, "bias")
        for name, norm in norms(spec).items():
            whole[f"{ours}.{name}.weight"] = weights[f"{layer}.{norm}.weight"]
    return whole


def norms(spec: ModelSpec) -> dict[str, str]:
    """Return the norms of a layer: names of transformers by the engine's."""
    heads = {f"self_attention.{one}_layernorm": f"self_attn.{one}_norm" for one in "qk"}
    if spec.post_norm:
        return {
            "self_attention.linear_proj.post_norm": "post_attention_layernorm",
            "mlp.linear_fc2.post_norm": "post_feedforward_layernorm",
            **heads,
        }
    return {
        "input_layernorm": "input_layernorm",
        "pre_mlp_layernorm": "post_attention_layernorm",
        **(heads if spec.qk_norm else {}),
    }


def local_part(
    name: str, whole: torch.Tensor, head_dim: int, rank: int, ranks: int
) -> torch.Tensor:
    """Return a tensor's part on one tensor-parallel rank; heads are divided, not one head."""
    is_of_heads = re.search("[qk]_layernorm", name) and len(whole) > head_dim
    if "norm" in name and not is_of_heads:
        return whole
    if "linear_fc1" in name:
        return torch.cat([half.chunk(ranks)[rank] for half in whole.chunk(2)])
    dimension = 1 if "linear_proj" in name or "linear_fc2" in name else 0
    return whole.chunk(ranks, dimension)[rank]


def local_tensors(
    network: torch.nn.Module,
    spec: ModelSpec,
    parallel: ParallelSpec,
    weights: dict[str, torch.Tensor],
    padding: float,
) -> dict[str, torch.Tensor]:
    """Return tensors of transformers by the names of this rank's parameters, in their shapes."""
    whole = whole_tensors(spec, weights, padding)
    stage, rank = divmod(int(os.environ["RANK"]), parallel.tensor)
    first = stage * spec.layers // parallel.pipeline
    found = {}
    for name, _ in network.named_parameters():
        words = name.split(".")
        if words[:2] == ["decoder", "layers"]:
            words[2] = str(int(words[2]) + first)
        if name == "output_layer.weight" and spec.tied_embeddings:
            words = ["embedding", "word_embeddings", "weight"]
        key = ".".join(words)
        found[name] = local_part(key, whole[key], spec.head_dim, rank, parallel.tensor)
    return found


def copy_weights(
    network: torch.nn.Module, spec: ModelSpec, parallel: ParallelSpec, model: Any
) -> None:
    """Copy every weight of a model of transformers into this rank's part of the engine's model.

    Rows of padding are large, so that a softmax over them would show.
    """
    parts = local_tensors(network, spec, parallel, model.state_dict(), padding=0.7)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(parts[name])
