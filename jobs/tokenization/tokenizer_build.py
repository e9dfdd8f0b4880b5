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

from jobs.contract.errors import TaskError
from jobs.contract.files import parse_json
from jobs.contract.stage_specs import VocabularySpec
from jobs.contract.units import plural
from jobs.data import sentencepiece_model, tokenizer_file
from jobs.data.base_tokenizer import JSON, MODEL, TIKTOKEN
from jobs.data.difficult_texts import difficult_texts
from jobs.data.tokenizer_file import Encoder, mismatches, token_table
from jobs.tokenization import llama3_model

POINTER = b"version https://git-lfs"
"""Beginning of what Git LFS puts in place of a large file."""


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


class FewerTokens(ValueError):
    """A tokenizer with fewer tokens than the registry's base."""

    def __init__(self, message: str, tokens: int) -> None:
        self.tokens = tokens
        super().__init__(message)


def with_added_tokens(content: dict[str, Any], vocabulary: VocabularySpec) -> dict[str, Any]:
    """Return a tokenizer.json with the registry's tokens after its own.

    Raises:
        ValueError: it is none, has another number of tokens than the registry's base, or one of the
            tokens already.
    """
    table, base = token_table(content), vocabulary.base_size
    added = len(vocabulary.added_tokens)
    if table.size > base or (added and table.size != base):
        rows = max(vocabulary.base_rows, vocabulary.size)
        less = f"the {added} of vocabulary.added_tokens"
        if vocabulary.unused_rows > added:
            less = f"{vocabulary.unused_rows} unused rows"
        message = (
            f"it has {plural(table.size, 'token')}, but model.vocab_size ({rows}) less {less} is "
            f"{base}"
        )
        raise FewerTokens(message, table.size) if table.size < base else ValueError(message)
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


@dataclass(frozen=True)
class Built:
    """A tokenizer.json that gave the ids of its reference."""

    data: bytes
    tokens: int
    reference: str
    """Library, version and file that it was compared with."""
    comparison: Comparison


def build(source: Path, vocabulary: VocabularySpec) -> Built:
    """Make the tokenizer.json of a source and a registry, and compare it with a reference:
    ``sentencepiece`` where the source has a SentencePiece file, ``tiktoken`` where it has Llama 3's
    alone, else ``tokenizers`` with the source's own tokenizer.json.

    Args:
        source: a ``tokenizer.model``, a ``tokenizer.json``, or a folder with either; of a folder,
            the tokenizer.json is extended and the tokenizer.model is the reference.

    Raises:
        TaskError: the source cannot serve, or a text has other ids than the reference gives.
    """
    import tokenizers

    file, reference_file = source_files(source)
    try:
        content = with_added_tokens(read_source(file), vocabulary)
    except FewerTokens as error:
        hint = tokenizer_file.unused_rows_hint(vocabulary.base_rows, error.tokens, vocabulary)
        raise TaskError(f"{file}: {error}", hint) from error
    except ValueError as error:
        raise TaskError(f"{file}: {error}", HINT_SOURCE) from error
    table = token_table(content)
    for mismatch in mismatches(table, vocabulary):
        raise TaskError(f"{file}: {mismatch.problem}", mismatch.hint)
    data = (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode()
    try:
        tokenizer = tokenizers.Tokenizer.from_buffer(data)
    except Exception as error:  # the library raises nothing more specific
        message = f"{file}: not a tokenizer.json of Hugging Face tokenizers ({error})"
        raise TaskError(message, HINT_SOURCE) from error
    encoder = Encoder.prepare(tokenizer, table, vocabulary)
    reference = reference_of(reference_file, vocabulary)
    try:
        comparison = compare(encoder, vocabulary, reference)
    except Difference as error:
        message = f"{file}: differs from {reference.name}: {error}"
        raise TaskError(message, other_source(file, reference_file)) from error
    return Built(data, table.size, reference.name, comparison)


def reference_of(path: Path, vocabulary: VocabularySpec) -> Reference:
    """Return the reference of a file, by its format."""
    if path.suffix == ".json":
        return tokenizers_reference(path, vocabulary)
    if is_sentencepiece(path):
        return sentencepiece_reference(path, vocabulary)
    return tiktoken_reference(llama3_model.read_ranks(read_bytes(path)), path.name, vocabulary)


HINT_SOURCE = "name a tokenizer.model, a tokenizer.json, or a folder with either"


def other_source(file: Path, reference: Path) -> str:
    """Return the hint about a difference: a model beside a wrong tokenizer.json is a source too."""
    if file == reference:
        return "upgrade the libraries: `pip install --upgrade tokenizers sentencepiece`"
    return f"build from {reference} itself"


def source_files(source: Path) -> tuple[Path, Path]:
    """Return the file to build from and the file of its reference.

    Raises:
        TaskError: there is no such file, or the folder has none.
    """
    if not source.is_dir():
        return source, source
    files = [path for name in (JSON, MODEL) if (path := source / name).is_file()]
    if not files:
        raise TaskError(f"{source}: no {JSON} or {MODEL} in this folder", HINT_SOURCE)
    serves = is_sentencepiece(files[-1])
    return files[0], files[-1] if serves else files[0]


def is_sentencepiece(path: Path) -> bool:
    """Return whether a file is a SentencePiece model; Llama 3's file of that name is not.

    Raises:
        TaskError: the file cannot be read, or Git LFS has put a pointer in its place.
    """
    try:
        sentencepiece_model.read_model(read_bytes(path))
    except Unreadable as error:
        raise TaskError(f"{path}: {error}", HINT_SOURCE) from error
    except ValueError:
        return False
    return True


class Unreadable(ValueError):
    """A file that cannot be read, or is not the one that its name promises."""


def read_bytes(path: Path) -> bytes:
    """Return the content of a tokenizer's file.

    Raises:
        Unreadable: there is none, or Git LFS has put a pointer in its place.
    """
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= tokenizer_file.MAX_BYTES else b""
    except OSError as error:
        raise Unreadable(error.strerror) from error
    if size > tokenizer_file.MAX_BYTES:
        raise Unreadable("far too large for a tokenizer")
    if data.startswith(POINTER):
        raise Unreadable("a pointer of Git LFS in place of the file; `git lfs pull` fetches it")
    return data


def read_source(path: Path) -> dict[str, Any]:
    """Return the tokenizer.json of a source without added tokens: a ``tokenizer.json``, or one made
    from a SentencePiece file or from Llama 3's.

    Raises:
        ValueError: it cannot be read, is neither, or a model that cannot be expressed.
    """
    data = read_bytes(path)
    if path.suffix != ".json":
        if TIKTOKEN.match(data):
            return llama3_model.tokenizer_json(llama3_model.read_ranks(data))
        return sentencepiece_model.tokenizer_json(sentencepiece_model.read_model(data))
    try:
        content = parse_json(data)
        token_table(content)
    except ValueError as error:
        raise ValueError(f"not a tokenizer.json ({error})") from error
    return dict(content)


def sentencepiece_reference(path: Path, vocabulary: VocabularySpec) -> Reference:
    """Return the library ``sentencepiece`` with a model: a text is cut at markup tokens, and each
    part encoded by itself (megatron/tokenizer/tokenizer.py:422-444 of epfLLM/Megatron-LLM).
    """
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
    name = f"sentencepiece {sentencepiece.__version__} and {path.name}"
    return cut_reference(name, processor.encode, vocabulary)


def tiktoken_reference(ranks: dict[bytes, int], file: str, vocabulary: VocabularySpec) -> Reference:
    """Return the library ``tiktoken`` with Llama 3's ranks, a text being cut at markup tokens."""
    import tiktoken

    made = tiktoken.Encoding(
        name=file, pat_str=llama3_model.WORDS, mergeable_ranks=ranks, special_tokens={}
    )
    name = f"tiktoken {tiktoken.__version__} and {file}"
    return cut_reference(name, made.encode_ordinary, vocabulary)


def cut_reference(
    name: str, encode_part: Callable[[str], list[int]], vocabulary: VocabularySpec
) -> Reference:
    """Return a library that encodes the text on each side of a markup token by itself."""
    start = vocabulary.base_size
    numbers = {token: number for number, token in enumerate(vocabulary.added_tokens, start)}
    markup = [token for token in numbers if token not in vocabulary.control_tokens]
    longest_first = sorted(markup, key=len, reverse=True)
    cut = re.compile(f"({'|'.join(map(re.escape, longest_first))})") if markup else None

    def encode(text: str) -> list[int]:
        parts = cut.split(text) if cut else [text]
        ids = ([numbers[part]] if part in markup else encode_part(part) for part in parts)
        return list(chain.from_iterable(ids))

    return Reference(name, encode)


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
