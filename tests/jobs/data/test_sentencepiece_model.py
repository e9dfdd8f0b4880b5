"""A SentencePiece file against the library that made it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer

from jobs.data.sentencepiece_model import Kind, read_model, tokenizer_json

from .conftest import PIECES, train

PARTS = (
    " ", "  ", "\u2581", "\t", "\n", "<s>", "</s>", "<unk>", "<0x0A>", "a", "b", "ab", "aaa",
    "the ", " mg", "0.05", "\u00e9", "e\u0301", "\U0001f9ec", "\U0001f469\u200d\u2695\ufe0f",
    "\u4e2d\u6587", "\u0627\u0644", "\u200b", "\x00", "\ufb01", "\u00a0", "\U0010ffff", "-",
    "....", "[fig]",
)  # fmt: skip


def test_pieces_are_those_of_the_library(spm: Path) -> None:
    library = sentencepiece.SentencePieceProcessor(model_file=str(spm))
    model = read_model(spm.read_bytes())

    assert len(model.pieces) == library.get_piece_size() == PIECES
    for number, piece in enumerate(model.pieces):
        assert piece.text == library.id_to_piece(number)
        assert piece.score == library.get_score(number)
        assert (piece.kind == Kind.BYTE) == library.is_byte(number)
        assert (piece.kind == Kind.CONTROL) == library.is_control(number)
        assert (piece.kind == Kind.UNKNOWN) == library.is_unknown(number)


def test_ids_of_random_texts_are_those_of_the_library(spm: Path) -> None:
    library = sentencepiece.SentencePieceProcessor(model_file=str(spm))
    content = tokenizer_json(read_model(spm.read_bytes()))
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.encode_special_tokens = True
    chance = random.Random(7)
    texts = ["".join(chance.choices(PARTS, k=chance.randint(0, 14))) for _ in range(3000)]

    found = [item.ids for item in tokenizer.encode_batch(texts, add_special_tokens=False)]

    assert found == library.encode(texts)
    for text, ids in zip(texts, found, strict=True):
        assert tokenizer.decode(ids, skip_special_tokens=False) == library.decode(ids), text


def test_a_model_without_a_dummy_prefix_has_none() -> None:
    data = train(add_dummy_prefix=False)
    library = sentencepiece.SentencePieceProcessor(model_proto=data)
    tokenizer = Tokenizer.from_str(json.dumps(tokenizer_json(read_model(data))))

    text = "dose of a drug"
    ids = tokenizer.encode(text).ids
    assert ids == library.encode(text)
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"model_type": "unigram", "hard_vocab_limit": False},
            "its model is not byte-pair encoding",
        ),
        ({"byte_fallback": False}, "it has no byte fallback"),
        ({"remove_extra_whitespaces": True}, "it removes spaces"),
        ({"normalization_rule_name": "nmt_nfkc"}, "it normalizes characters"),
        ({"treat_whitespace_as_suffix": True}, "it puts spaces at the end of words"),
        (
            {"user_defined_symbols": ["[fig]"]},
            "it has pieces defined by its user, such as '[fig]'",
        ),
    ],
)
def test_what_a_tokenizer_json_cannot_express_is_refused(
    options: dict[str, object], reason: str
) -> None:
    with pytest.raises(ValueError, match=r"^it") as error:
        tokenizer_json(read_model(train(**options)))

    assert str(error.value) == reason


def test_a_damaged_file_is_no_model(spm: Path) -> None:
    data = spm.read_bytes()

    for wrong in (b"", b"hello", b"\x80", data[:1000], data[7:], b"PK\x03\x04" + data):
        with pytest.raises(ValueError, match=r"^not a SentencePiece model$"):
            read_model(wrong)
