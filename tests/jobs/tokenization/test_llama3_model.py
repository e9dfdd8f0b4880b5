"""Llama 3's file of ranks against the library tiktoken."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path

import pytest
import tiktoken
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from jobs.contract.errors import TaskError
from jobs.data.difficult_texts import DIFFICULT
from jobs.tokenization import llama3_model, tokenizer_build
from jobs.tokenization.engine import EngineData, GigatokenEngine, TokenizersEngine

from ...model_specs import vocabulary_spec


@pytest.fixture(scope="module")
def ranks() -> dict[bytes, int]:
    """Return ranks that are made as Llama 3's, but few."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(llama3_model.WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=alphabet, show_progress=False, special_tokens=[]
    )
    made.train_from_iterator(DIFFICULT * 3, trainer)
    bytes_of = {letter: byte for byte, letter in llama3_model.byte_letters().items()}
    return {
        bytes(bytes_of[letter] for letter in token): number
        for token, number in made.get_vocab().items()
    }


def test_ids_are_those_of_tiktoken(ranks: dict[bytes, int]) -> None:
    content = llama3_model.tokenizer_json(ranks)
    library = tiktoken.Encoding(
        "small", pat_str=llama3_model.WORDS, mergeable_ranks=ranks, special_tokens={}
    )
    chance = random.Random(3)
    parts = [part for text in DIFFICULT for part in text.split(" ")] + [" ", "  ", "\n", "12345"]
    texts = [*DIFFICULT, *("".join(chance.choices(parts, k=8)) for _ in range(1000))]
    expected = [token for text in texts for token in library.encode_ordinary(text)]

    data = EngineData.of(content, vocabulary_spec(len(ranks) + 256), False)

    for engine in (TokenizersEngine(data), GigatokenEngine(data)):
        assert engine.encode(texts).ids.tolist() == expected
    whole = Tokenizer.from_str(json.dumps(content))
    assert whole.token_to_id("<|begin_of_text|>") == len(ranks)
    assert whole.token_to_id("<|reserved_special_token_245|>") == len(ranks) + 255
    assert whole.decode(whole.encode(DIFFICULT[7]).ids) == DIFFICULT[7]


def test_a_file_with_other_ranks_is_refused(ranks: dict[bytes, int], tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    lines = (b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in ranks.items())
    path.write_bytes(b"".join(lines))

    message = f"it has {len(ranks)} ranks of tiktoken, and only Llama 3's 128000 are known"
    with pytest.raises(TaskError, match=message):
        tokenizer_build.build(path, vocabulary_spec(len(ranks) + 256))


def test_a_file_that_is_no_model_is_refused() -> None:
    with pytest.raises(ValueError, match="neither a SentencePiece model nor ranks of tiktoken"):
        llama3_model.read_ranks(b"IQ== 0\nnot base64 at all")
