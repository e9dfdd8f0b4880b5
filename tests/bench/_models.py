"""Folders of a random model, as large as a measurement needs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.contract.stage_specs import ModelSpec
from jobs.conversion import weight_map
from tests.model_specs import model_spec

if TYPE_CHECKING:
    import torch

BASE_TOKENS = 32_000
SHARD_BYTES = 500_000_000

LARGE = model_spec(
    layers=20,
    hidden_size=2048,
    ffn_hidden_size=5632,
    attention_heads=16,
    kv_heads=8,
    seq_length=2048,
    vocab_size=BASE_TOKENS,
    padded_vocab_size=32_256,
)
"""A Llama of 1.1 G parameters: 2.2 GB in bf16."""

SMALL = dataclasses.replace(
    LARGE, layers=2, hidden_size=64, ffn_hidden_size=128, head_dim=16, attention_heads=4, kv_heads=2
)


def write_model(folder: Path, spec: ModelSpec) -> int:
    """Write a folder of bf16 safetensors with random values, as transformers does, in shards.

    Returns:
        The bytes of all tensors.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    names: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(shards(spec), 1):
        file = f"model-{number:05d}.safetensors"
        save_file(shard, str(folder / file), metadata={"format": "pt"})
        names.update(dict.fromkeys(shard, file))
        total += sum(tensor.nbytes for tensor in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config(spec)))
    return total


def shards(spec: ModelSpec) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the tensors of each shard."""
    import torch

    generator = torch.Generator().manual_seed(0)
    shard: dict[str, torch.Tensor] = {}
    size = 0
    for name, shape in weight_map.folder_shapes(spec, BASE_TOKENS).items():
        values = torch.randn(shape, generator=generator, dtype=torch.bfloat16)
        shard[name] = values * spec.init_std
        size += values.nbytes
        if size >= SHARD_BYTES:
            yield shard
            shard, size = {}, 0
    if shard:
        yield shard


def config(spec: ModelSpec) -> dict[str, object]:
    """Return ``config.json``."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.ffn_hidden_size,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.attention_heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "vocab_size": BASE_TOKENS,
        "max_position_embeddings": spec.seq_length,
        "rms_norm_eps": spec.norm_eps,
        "rope_theta": spec.rope_theta,
        "tie_word_embeddings": spec.tied_embeddings,
        "torch_dtype": "bfloat16",
    }


def write_tokenizer(path: Path) -> None:
    """Write a tokenizer with as many tokens, numbers but for the end of a document."""
    from tokenizers import Tokenizer, models

    tokens = [(str(number), -1.0) for number in range(BASE_TOKENS - 1)]
    tokenizer = Tokenizer(models.Unigram(tokens, unk_id=0))
    tokenizer.add_special_tokens(["<EOD>"])
    tokenizer.save(str(path))
