"""The models that ``make_pairs`` writes, and their specs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

from jobs.contract.files import sha256
from jobs.contract.stage_specs import ModelSpec, TokenizerRef

from ...byte_tokenizer import EOD, SIZE
from ...engine import parity
from ...model_specs import vocabulary_spec

ADDED = ("<one>", "<two>", "<three>")

LETTER_A = 32
"""Id of the token of "A"."""


class Kind(NamedTuple):
    """A model and how it is stored."""

    family: str
    spec: ModelSpec
    dtype: str = "float32"
    new_rows: str = ""
    """The rule of the rows of three added tokens; empty without added tokens."""
    stored_rows: str = ""
    """The rule that the checkpoint's rows follow, if not the same."""
    unused: int = 0
    """Rows of the folder behind its last token."""

    @property
    def added(self) -> tuple[str, ...]:
        return ADDED if self.new_rows else ()


KINDS = {
    **{name: Kind(family, spec) for name, (family, spec) in parity.MODELS.items()},
    "grown": Kind(*parity.MODELS["llama 2"], new_rows="repeat-last-row"),
    "mean": Kind(*parity.MODELS["qwen 3"], new_rows="mean"),
    "copy": Kind(*parity.MODELS["llama 2"], new_rows="copy:A"),
    "wrong rows": Kind(*parity.MODELS["llama 2"], new_rows="mean", stored_rows="copy:A"),
    "unused rows": Kind(*parity.MODELS["qwen 2"], new_rows="mean", unused=8),
    "narrow": Kind(*parity.MODELS["llama 3.2"], dtype="bfloat16"),
}


def spec_of(name: str) -> ModelSpec:
    """Return the spec of a model's checkpoint."""
    kind = KINDS[name]
    rows = SIZE + max(len(kind.added), kind.unused)
    return dataclasses.replace(kind.spec, vocab_size=rows, padded_vocab_size=288, seq_length=512)


def tokenizer_of(folder: Path, name: str) -> TokenizerRef:
    """Return the tokenizer of a model, written in its folder."""
    path = folder / name / "tokenizer.json"
    kind = KINDS[name]
    vocabulary = vocabulary_spec(
        SIZE,
        EOD,
        added_tokens=kind.added,
        control_tokens=kind.added,
        new_rows=kind.new_rows or "repeat-last-row",
        unused_rows=kind.unused,
    )
    return TokenizerRef(str(path), sha256(path), vocabulary)
