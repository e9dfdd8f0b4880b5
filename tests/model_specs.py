"""Specs of small models and their vocabularies."""

from __future__ import annotations

import dataclasses
from typing import Any

from jobs.contract.stage_specs import (
    MAIN_CORPUS,
    CorpusSpec,
    ModelSpec,
    OptimizerSpec,
    ParallelSpec,
    PretrainSpec,
    TokenizerRef,
    VocabularySpec,
)


def model_spec(**fields: Any) -> ModelSpec:
    """Return a Llama 2 model of these sizes."""
    values: dict[str, Any] = {
        "head_dim": fields["hidden_size"] // fields["attention_heads"],
        "rope_theta": 10_000.0,
        "rope_scaling": None,
        "norm_eps": 1e-5,
        "init_std": 0.02,
        "tied_embeddings": False,
        "qkv_bias": False,
        "qk_norm": False,
        "post_norm": False,
    }
    return ModelSpec(**values | fields)


def vocabulary_spec(base_size: int, eod_token: str = "<EOD>", **fields: Any) -> VocabularySpec:
    """Return a vocabulary to which nothing is added."""
    values: dict[str, Any] = {
        "unused_rows": 0,
        "added_tokens": (),
        "control_tokens": (),
        "new_rows": "repeat-last-row",
        "bos_token": "",
        "eos_token": eod_token,
    }
    return VocabularySpec(base_size=base_size, eod_token=eod_token, **values | fields)


def tokenizer_ref(
    path: str,
    sha256: str = "",
    eod_token: str = "<EOD>",
    base_size: int = 0,
    **fields: Any,
) -> TokenizerRef:
    """Return a tokenizer whose vocabulary has no added tokens."""
    return TokenizerRef(path, sha256, vocabulary_spec(base_size, eod_token, **fields))


def corpus_spec(*train: str, validation: tuple[str, ...] = ()) -> tuple[CorpusSpec, ...]:
    """Return the corpora of a training on one corpus of these datasets."""
    return (CorpusSpec(MAIN_CORPUS, train, validation),)


def pretrain_spec(**fields: Any) -> PretrainSpec:
    """Return a tiny pretraining that is to reach step 60."""
    values: dict[str, Any] = {
        "model": model_spec(
            layers=2,
            hidden_size=64,
            ffn_hidden_size=128,
            attention_heads=4,
            kv_heads=2,
            seq_length=64,
            vocab_size=500,
            padded_vocab_size=512,
        ),
        "parallel": ParallelSpec(1, 1, 1, False, False, "none"),
        "device": "cpu",
        "precision": "fp32",
        "weights": "random",
        "corpora": (),
        "train_steps": 60,
        "checkpoint_dir": "checkpoints",
        "tokenizer": tokenizer_ref(""),
        "optimizer": OptimizerSpec(1.0, 1.0, 1, 1, 0.9, 0.9, 0.1, 0.1, 0.1),
    }
    values |= fields
    kinds = {"str": "", "int": 1, "float": 0.1}
    rest = {
        field.name: kinds[str(field.type)]
        for field in dataclasses.fields(PretrainSpec)
        if field.name not in values and field.default is dataclasses.MISSING
    }
    return PretrainSpec(**rest, **values)
