"""Make a tokenizer.json with the tokens of a vocabulary registry, and compare it with the library
whose ids it must give.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from jobs.contract.stage_specs import VocabularySpec
from jobs.data import sentencepiece_model, tokenizer_file
from jobs.data.difficult_texts import difficult_texts
from jobs.data.tokenizer_file import Encoder, token_table

SENTENCEPIECE = "tokenizer.model"
JSON = "tokenizer.json"


@dataclass(frozen=True)
class Reference:
    """The library whose ids a tokenizer must give."""

    name: str
    """Library, version and file."""
    encode: Callable[[str], list[int]]
    """Ids of a text: markup tokens of the registry have their own, the names of special tokens are
    ordinary text.
    """


@dataclass(frozen=True)
class Comparison:
    """Texts on which a tokenizer gave the ids of a reference."""

    texts: int
    tokens: int


class Difference(ValueError):
    """A text for which a tokenizer and its reference give other ids."""

    def __init__(self, text: str, ids: Sequence[int], expected: Sequence[int]) -> None:
        self.text, self.ids, self.expected = text, list(ids), list(expected)
        super().__init__(f"{text!r} gives {self.ids}, not {self.expected}")


def compare(encoder: Encoder, vocabulary: VocabularySpec, reference: Reference) -> Comparison:
    """Compare the ids of every difficult text.

    Raises:
        Difference: the first text that has other ids.
    """
    texts, tokens = difficult_texts(vocabulary.added_tokens), 0
    for text in texts:
        ids, expected = encoder.encode(text), reference.encode(text)
        if ids != expected:
            raise Difference(text, ids, expected)
        tokens += len(ids)
    return Comparison(len(texts), tokens)


def with_added_tokens(content: dict[str, Any], vocabulary: VocabularySpec) -> dict[str, Any]:
    """Return a tokenizer.json with the registry's tokens after its own.

    Raises:
        ValueError: it is none, has another number of tokens than the registry's base, or one of the
            tokens already.
    """
    table = token_table(content)
    if table.size != vocabulary.base_size:
        added = len(vocabulary.added_tokens)
        raise ValueError(
            f"it has {table.size} tokens, but model.vocab_size {vocabulary.base_size + added} less "
            f"{added} of vocabulary.added_tokens is {vocabulary.base_size}"
        )
    for token in vocabulary.added_tokens:
        if token in table.ids:
            raise ValueError(f"it has {token!r} already, with the id {table.ids[token]}")
    added_tokens = [
        {
            "id": number,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": token in vocabulary.control_tokens,
        }
        for number, token in enumerate(vocabulary.added_tokens, vocabulary.base_size)
    ]
    return {
        **content,
        "truncation": None,
        "padding": None,
        "added_tokens": [*(content.get("added_tokens") or []), *added_tokens],
    }


def read_source(path: Path) -> dict[str, Any]:
    """Return the tokenizer.json of a source without added tokens: a ``tokenizer.json``, or one made
    from a SentencePiece file.

    Raises:
        ValueError: neither, or a model that cannot be expressed.
        OSError: the file cannot be read.
    """
    if path.stat().st_size > tokenizer_file.MAX_BYTES:
        raise ValueError("far too large")
    data = path.read_bytes()
    if path.suffix == ".json":
        content = json.loads(data)
        token_table(content)
        return dict(content)
    return sentencepiece_model.tokenizer_json(sentencepiece_model.read_model(data))


def sentencepiece_reference(path: Path, vocabulary: VocabularySpec) -> Reference:
    """Return the library ``sentencepiece`` with a model: a text is cut at markup tokens, and each
    part encoded by itself (megatron/tokenizer/tokenizer.py:422-444 of epfLLM/Megatron-LLM).
    """
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
    size = processor.get_piece_size()
    numbers = {token: number for number, token in enumerate(vocabulary.added_tokens, size)}
    markup = [token for token in numbers if token not in vocabulary.control_tokens]
    longest_first = sorted(markup, key=len, reverse=True)
    cut = re.compile(f"({'|'.join(map(re.escape, longest_first))})") if markup else None

    def encode(text: str) -> list[int]:
        parts = cut.split(text) if cut else [text]
        ids = ([numbers[part]] if part in markup else processor.encode(part) for part in parts)
        return list(chain.from_iterable(ids))

    return Reference(f"sentencepiece {sentencepiece.__version__} and {path.name}", encode)


def tokenizers_reference(path: Path, vocabulary: VocabularySpec) -> Reference:
    """Return the library ``tokenizers`` with an unmodified ``tokenizer.json``, to which the library
    itself adds the tokens.
    """
    import tokenizers

    tokenizer = tokenizer_file.load(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    for token in vocabulary.added_tokens:
        special = token in vocabulary.control_tokens
        tokenizer.add_tokens([tokenizers.AddedToken(token, special=special, normalized=False)])

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    return Reference(f"tokenizers {tokenizers.__version__} and the unmodified {path.name}", encode)
