"""A SentencePiece ``tokenizer.model``: its pieces and settings, and the equal tokenizer.json.

The file is a protocol buffer (``ModelProto`` in sentencepiece_model.proto of
github.com/google/sentencepiece). Its few fields that matter are read here, in the encoding of
protobuf.dev/programming-guides/encoding, without a protobuf library.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

SPACE = "\u2581"
"""Stands for a space inside pieces."""
BPE = 2
"""Byte-pair encoding as a model type of the trainer's settings."""
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types."""


class Kind(IntEnum):
    """The kind of a piece."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Piece(NamedTuple):
    """An entry of the vocabulary; its id is its place."""

    text: str
    score: float
    """Of two possible merges, the one with the higher score comes first."""
    kind: int


@dataclass(frozen=True)
class SentencePieceModel:
    """A parsed ``tokenizer.model``."""

    pieces: tuple[Piece, ...]
    model_type: int
    byte_fallback: bool
    suffix_space: bool
    """Spaces belong to the end of a word, not to the beginning."""
    dummy_prefix: bool
    """A text is encoded with a space in front."""
    removes_spaces: bool
    """Spaces at the ends and all but one of several are removed."""
    escapes_spaces: bool
    """Spaces are replaced with ``SPACE``."""
    normalizes: bool
    """Characters are replaced before encoding."""


def read_model(data: bytes) -> SentencePieceModel:
    """Read a ``tokenizer.model``.

    Raises:
        ValueError: not one.
    """
    try:
        fields = list(read_fields(data))
        pieces = tuple(read_piece(value) for number, value in fields if number == 1)
        trainer = last(fields, 2, b"")
        training, normalizing = dict(read_fields(trainer)), dict(read_fields(last(fields, 3, b"")))
    except (IndexError, struct.error, TypeError, UnicodeDecodeError, ValueError) as error:
        raise ValueError("not a SentencePiece model") from error
    if not pieces or not trainer:
        raise ValueError("not a SentencePiece model")
    return SentencePieceModel(
        pieces,
        model_type=training.get(3, 1),
        byte_fallback=bool(training.get(35, 0)),
        suffix_space=bool(training.get(24, 0)),
        dummy_prefix=bool(normalizing.get(3, 1)),
        removes_spaces=bool(normalizing.get(4, 1)),
        escapes_spaces=bool(normalizing.get(5, 1)),
        normalizes=bool(normalizing.get(2, b"")),
    )


def read_piece(data: bytes) -> Piece:
    """Return the piece of a message."""
    fields = dict(read_fields(data))
    (score,) = struct.unpack("<f", fields.get(2, bytes(4)))
    return Piece(fields[1].decode(), score, fields.get(3, int(Kind.NORMAL)))


def read_fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each field of a message: an int, or the bytes of another type.

    Raises:
        IndexError: the message ends within a field.
        ValueError: a wire type that the format does not have any more.
    """
    position = 0
    while position < len(data):
        tag, position = read_varint(data, position)
        wire = tag & 7
        if wire == VARINT:
            value, position = read_varint(data, position)
            yield tag >> 3, value
            continue
        if wire == BYTES:
            size, position = read_varint(data, position)
        elif wire in (FIXED32, FIXED64):
            size = 4 if wire == FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire}")
        if position + size > len(data):
            raise IndexError("the message is cut short")
        yield tag >> 3, data[position : position + size]
        position += size


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Return an integer of seven bits per byte, lowest first, and the position behind it."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position


def last(fields: list[tuple[int, Any]], number: int, default: Any) -> Any:
    """Return the last value of a field."""
    return next((value for key, value in reversed(fields) if key == number), default)


def unsupported(model: SentencePieceModel) -> str | None:
    """Return why no tokenizer.json can equal the model; None if one can.

    A tokenizer.json of byte-pair encoding knows neither pieces that are cut out of a text first
    nor rules that SentencePiece compiles into the model.
    """
    kinds = {piece.kind: piece.text for piece in reversed(model.pieces)}
    count = sum(piece.kind == Kind.BYTE for piece in model.pieces)
    reasons = {
        "its model is not byte-pair encoding": model.model_type != BPE,
        "it has no byte fallback": not model.byte_fallback or count != 256,
        "it puts spaces at the end of words": model.suffix_space,
        "it removes spaces": model.removes_spaces,
        "it keeps spaces as they are": not model.escapes_spaces,
        "it normalizes characters": model.normalizes,
        f"it has pieces defined by its user, such as {kinds.get(Kind.USER_DEFINED)!r}": (
            Kind.USER_DEFINED in kinds
        ),
        f"it has unused pieces, such as {kinds.get(Kind.UNUSED)!r}": Kind.UNUSED in kinds,
        "it has no unknown piece": Kind.UNKNOWN not in kinds,
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def tokenizer_json(model: SentencePieceModel) -> dict[str, Any]:
    """Return the content of the ``tokenizer.json`` that encodes as the model does.

    Text between two added tokens gets a space in front each, as the published tokenizer of MEDITRON
    does (megatron/tokenizer/tokenizer.py:422-444 of epfLLM/Megatron-LLM).

    Raises:
        ValueError: the model has what a tokenizer.json cannot express.
    """
    if reason := unsupported(model):
        raise ValueError(reason)
    prefix = [{"type": "Prepend", "prepend": SPACE}] if model.dummy_prefix else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    pattern, unpattern = {"String": " "}, {"String": SPACE}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": number,
                "content": piece.text,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for number, piece in enumerate(model.pieces)
            if piece.kind in (Kind.UNKNOWN, Kind.CONTROL)
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [*prefix, {"type": "Replace", "pattern": pattern, "content": SPACE}],
        },
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": unpattern, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *strip,
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": next(p.text for p in model.pieces if p.kind == Kind.UNKNOWN),
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {piece.text: number for number, piece in enumerate(model.pieces)},
            "merges": [" ".join(pair) for pair in merges(model)],
        },
    }


def merges(model: SentencePieceModel) -> list[tuple[str, str]]:
    """Return the pairs of pieces that merge into a third, in the order of preference.

    SentencePiece merges any two neighbours whose concatenation is a piece, the one with the highest
    score first (bpe_model.cc of google/sentencepiece); control and byte pieces never take part.
    Several pairs that make the same piece have one score; the longest left part is put first.
    """
    scores = {piece.text: piece.score for piece in model.pieces if piece.kind == Kind.NORMAL}
    ranked = [
        (-score, cut, text)
        for text, score in scores.items()
        for cut in range(len(text) - 1, 0, -1)
        if text[:cut] in scores and text[cut:] in scores
    ]
    ranked.sort(key=lambda entry: (entry[0], -entry[1]))
    return [(text[:cut], text[cut:]) for _, cut, text in ranked]
