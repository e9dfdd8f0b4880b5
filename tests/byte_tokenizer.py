"""A tokenizer that encodes every text, with a token per byte."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

EOD = "<EOD>"

SIZE = 257
"""Its tokens, the end of a document included."""


def write_byte_tokenizer(path: Path, added: Sequence[str] = ()) -> None:
    """Write a ``tokenizer.json`` with one token per byte, ``<EOD>``, and added tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([EOD, *added])
    made.save(str(path))
