"""A small tokenizer, and shards to tokenize with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TEXTS = [
    "Hypertension is treated with ACE inhibitors; p<0.05 [95% CI 1.2\u20133.4].",
    "Metformin 500 mg twice daily.\n\n# Follow-up\nHbA1c after 3 months.",
    "caf\u00e9 \u03b2-blocker \U0001f9ec \u4e2d\u6587",
    "a",
    "A text that contains <EOD> and <s> as a writer on tokens would.",
]


def train(vocabulary: int = 400) -> Tokenizer:
    """Return a small byte-level BPE of our own, with <s> and <EOD>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<s>", "<EOD>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    return tokenizer


@pytest.fixture
def tokenizer_file(tmp_path: Path) -> Path:
    """Return the file of a small tokenizer."""
    path = tmp_path / "tokenizer.json"
    train().save(str(path))
    return path


@pytest.fixture
def shard(forked: Any) -> Callable[..., str]:
    """Return a function that writes a shard as curate does, under its name in the run."""

    def write(*texts: str, name: str = "corpus/train/00000.jsonl") -> str:
        path = forked.run.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"id": str(n), "text": text}) for n, text in enumerate(texts)]
        path.write_text("".join(line + "\n" for line in lines))
        return name

    return write
