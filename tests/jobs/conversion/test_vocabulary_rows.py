"""The rows of a vocabulary: tokens of the base model, added tokens, unused rows, padding."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from jobs.conversion.hf_reader import TensorReader, read_header
from jobs.conversion.vocabulary_rows import GrowingVocabulary

from ...model_specs import vocabulary_spec

TOKENS, PADDED, COPIED = 20, 32, 7
ADDED = ("a", "b", "c")


@pytest.mark.parametrize("chunk", [1, 4, PADDED])
@pytest.mark.parametrize("rule", ["repeat-last-row", "mean", "copy:w7"])
@pytest.mark.parametrize(("unused", "added"), [(0, 3), (2, 3), (3, 3), (8, 3), (8, 0)])
def test_added_tokens_take_unused_rows_first_and_further_ones_stay(
    tmp_path: Path, unused: int, added: int, rule: str, chunk: int
) -> None:
    stored = torch.randn(TOKENS + unused, 6, generator=torch.Generator().manual_seed(1))
    save_file({"rows": stored}, tmp_path / "model.safetensors")
    (tensor,) = read_header(tmp_path / "model.safetensors")
    vocabulary = vocabulary_spec(
        TOKENS, added_tokens=ADDED[:added], unused_rows=unused, new_rows=rule
    )

    with TensorReader(tensor) as reader:
        growing = GrowingVocabulary(reader, vocabulary, COPIED)
        rows = torch.cat([growing.read(chunk) for _ in range(PADDED // chunk)])
        digest = reader.digest()

    new = {
        "repeat-last-row": stored[TOKENS - 1],
        "mean": stored[:TOKENS].double().mean(0).float(),
        "copy:w7": stored[COPIED],
    }[rule]
    end = TOKENS + added
    assert torch.equal(rows[:TOKENS], stored[:TOKENS])
    assert torch.equal(rows[TOKENS:end], new.expand(added, -1))
    assert torch.equal(rows[end : max(end, len(stored))], stored[end:])
    assert torch.equal(rows[max(end, len(stored)) :][-1], new)
    assert rows.shape == (PADDED, 6)
    assert digest == hashlib.sha256(stored.numpy().tobytes()).hexdigest()
