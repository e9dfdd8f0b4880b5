"""Small models of transformers, and our specs of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.contract.files import sha256
from jobs.contract.stage_specs import ConvertSpec, ModelSpec, RopeScaling, TokenizerRef, VerifySpec
from jobs.conversion import hf_config

from ...model_specs import model_spec, vocabulary_spec


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


ADDED = ("<EOD>", "[fig]", "[/fig]")
"""Tokens that a run adds to a base model."""


def grown(spec: ModelSpec) -> ModelSpec:
    """Return the spec of a run that adds ``ADDED`` to a model."""
    return replace(spec, vocab_size=spec.vocab_size + len(ADDED))


def save_folder(path: Path, spec: ModelSpec, dtype: str = "float32", **fields: Any) -> Path:
    """Write a model's folder in several shards, as transformers does, and its tokenizer."""
    import torch

    model = transformers_model(spec, **fields).to(getattr(torch, dtype))
    model.save_pretrained(path, max_shard_size="40KB")
    write_tokenizer(path / "tokenizer.json", spec.vocab_size, ())
    return path


def write_tokenizer(path: Path, base: int, added: tuple[str, ...]) -> Path:
    """Write a tokenizer of ``base`` words and some added tokens."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    words = {f"w{number}": number for number in range(base)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_tokens([AddedToken(token, special=token == "<EOD>") for token in added])
    tokenizer.save(str(path))
    return path


def convert_spec(folder: Path, spec: ModelSpec, tokenizer: Path, **fields: Any) -> ConvertSpec:
    """Return the conversion of a folder for a run that adds ``ADDED``."""
    vocabulary = vocabulary_spec(
        spec.vocab_size, added_tokens=ADDED, control_tokens=ADDED[:1], **fields
    )
    return ConvertSpec(
        weights="org/base",
        folder=str(folder),
        model=grown(spec),
        tokenizer=TokenizerRef(str(tokenizer), sha256(tokenizer), vocabulary),
        checkpoint_dir="checkpoints",
        verify=VerifySpec(enabled=False, tokens=16),
    )
