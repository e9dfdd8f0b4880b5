"""The library that encodes, and its ids, which are those of ``tokenizers``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from jobs.contract.errors import TaskError
from jobs.data.difficult_texts import difficult_texts
from jobs.tokenization import engine as engines
from jobs.tokenization.engine import (
    CheckedEngine,
    Encoded,
    EngineData,
    EngineDiffers,
    GigatokenEngine,
    TokenizersEngine,
    choose,
)

from ...model_specs import vocabulary_spec

TEXTS = [
    "Metformin 500 mg b.i.d.",
    "",
    "caf\u00e9 \U0001f9ec",
    "<s> a literal [fig] </s>",
    "aspirin " * 99,
]
MARKUP, CONTROL = "[fig]", "<EOD>"


def content(*plain: str) -> dict[str, Any]:
    """Return a byte-level tokenizer with a special <s>, and some added tokens that are not."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(TEXTS * 3, trainer)
    made.add_tokens([AddedToken(token, normalized=False) for token in (MARKUP, CONTROL, *plain)])
    return json.loads(made.to_str())


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return content()


def registry(made: dict[str, Any]) -> Any:
    first = next(entry["id"] for entry in made["added_tokens"] if entry["content"] == MARKUP)
    return vocabulary_spec(first, added_tokens=(MARKUP, CONTROL), control_tokens=(CONTROL,))


def rows(encoded: Encoded) -> list[list[int]]:
    ends = numpy.cumsum(encoded.lengths)[:-1]
    return [part.tolist() for part in numpy.split(encoded.ids, ends)]


ENGINES: dict[str, Callable[[EngineData], Any]] = {
    "tokenizers": TokenizersEngine,
    "gigatoken": GigatokenEngine,
}


@pytest.mark.parametrize("in_text", [False, True])
@pytest.mark.parametrize("make", ENGINES.values(), ids=ENGINES)
def test_names_of_tokens_in_a_text_are_text_unless_requested(
    make: Any, in_text: bool, made: dict[str, Any]
) -> None:
    whole = Tokenizer.from_str(json.dumps(made))
    if not in_text:  # the library's own way to read special tokens as text
        names = [entry["content"] for entry in made["added_tokens"]]
        whole.add_special_tokens([AddedToken(name, special=True) for name in names])
        whole.encode_special_tokens = True
    texts = difficult_texts((MARKUP, CONTROL, "<s>"))

    found = make(EngineData.of(made, registry(made), in_text)).encode(texts)

    assert rows(found) == [whole.encode(text, add_special_tokens=False).ids for text in texts]
    marks = sum(ids.count(whole.token_to_id(MARKUP)) for ids in rows(found))
    assert bool(marks) == in_text


@pytest.mark.parametrize("make", ENGINES.values(), ids=ENGINES)
def test_plain_tokens_of_the_base_that_the_registry_does_not_name_stay(make: Any) -> None:
    """Runs of spaces, for example, are added tokens of some vocabularies."""
    spaces = content("        ")

    found = make(EngineData.of(spaces, registry(spaces), False)).encode(["a        b"])

    whole = Tokenizer.from_str(json.dumps(spaces))
    assert whole.token_to_id("        ") in found.ids.tolist()
    assert rows(found) == [whole.encode("a        b").ids]


def test_auto_is_gigatoken_where_the_ids_are_the_same(made: dict[str, Any]) -> None:
    data = EngineData.of(made, registry(made), False)

    choice = choose("auto", data, (MARKUP,))

    assert (choice.engine.name, choice.reason) == ("gigatoken", "")
    assert rows(choice.engine.encode(TEXTS)) == rows(TokenizersEngine(data).encode(TEXTS))
    assert choose("tokenizers", data, (MARKUP,)).engine.name == "tokenizers"


def test_a_tokenizer_that_gigatoken_cannot_use_is_left_to_tokenizers(tmp_path: Path) -> None:
    words = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    data = EngineData.of(json.loads(words.to_str()), vocabulary_spec(2), False)

    choice = choose("auto", data, ())

    assert choice.engine.name == "tokenizers"
    assert choice.reason.startswith("gigatoken cannot use this tokenizer (")
    with pytest.raises(TaskError, match="gigatoken cannot use this tokenizer") as refused:
        choose("gigatoken", data, ())
    assert refused.value.hint == "set tokenize.engine to auto, which takes tokenizers then"


CHOOSE = """
import json, sys
from jobs.tokenization.engine import EngineData, choose
from tests.model_specs import vocabulary_spec
data = EngineData.of(json.loads(sys.stdin.read()), vocabulary_spec(300), False)
choice = choose("auto", data, ())
print(choice.engine.name, choice.reason, choice.engine.encode(["a text"]).ids.tolist())
"""


def test_where_gigatoken_cannot_be_imported_tokenizers_encodes(
    made: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "gigatoken.py").write_text("raise ImportError('not made for this processor')")
    folders = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[3])])

    done = subprocess.run(
        [sys.executable, "-c", CHOOSE],
        input=json.dumps(made),
        env={**os.environ, "PYTHONPATH": folders},
        capture_output=True,
        text=True,
        check=True,
    )

    ids = Tokenizer.from_str(json.dumps(made)).encode("a text").ids
    reason = "gigatoken cannot be imported (not made for this processor)"
    assert done.stdout == f"tokenizers {reason} {ids}\n"


class Wrong:
    """An engine that changes the last id of each text with a word."""

    name, characters = "gigatoken", 1 << 20

    def __init__(self, right: Any, word: str) -> None:
        self.right, self.word = right, word

    def encode(self, texts: list[str]) -> Encoded:
        found = self.right.encode(texts)
        ids = found.ids.copy()
        for text, end in zip(texts, numpy.cumsum(found.lengths), strict=True):
            ids[end - 1] += self.word in text
        return Encoded(ids, found.lengths)


@pytest.fixture
def right(made: dict[str, Any]) -> TokenizersEngine:
    return TokenizersEngine(EngineData.of(made, registry(made), False))


def test_a_difference_in_the_first_texts_is_found(right: TokenizersEngine) -> None:
    checked = CheckedEngine(Wrong(right, "aspirin"), right)

    with pytest.raises(
        EngineDiffers, match=r"^'aspirin aspirin .* gives \[\d+\] at token \d+, not"
    ):
        checked.encode(TEXTS)


def test_later_about_one_text_in_a_thousand_is_compared(right: TokenizersEngine) -> None:
    checked = CheckedEngine(Wrong(right, "aspirin"), right)
    while checked._first > 0:
        checked.encode(["no drug at all " * 100] * 50)
    first = checked.compared

    checked.encode(["x"] * 700)
    for _ in range(10):
        checked.encode(["x"] * 1000)

    assert checked.compared - first in (10, 11)
    with pytest.raises(EngineDiffers):
        checked.encode(["aspirin"] * 1000)


def test_a_long_text_is_compared_by_its_beginning(right: TokenizersEngine) -> None:
    long = "word " * engines.COMPARED_CHARACTERS

    CheckedEngine(Wrong(right, "aspirin"), right).encode([f"{long} aspirin"])
    with pytest.raises(EngineDiffers):
        CheckedEngine(Wrong(right, "aspirin"), right).encode([f"aspirin {long}"])


def test_a_failure_of_the_library_is_a_difference(right: TokenizersEngine) -> None:
    class Panics(Wrong):
        def encode(self, texts: list[str]) -> Encoded:
            raise BaseException("a panic")

    with pytest.raises(EngineDiffers, match="it failed: a panic"):
        CheckedEngine(Panics(right, ""), right).encode(TEXTS)


def test_gigatoken_is_made_anew_before_its_cache_exceeds_the_limit(made: dict[str, Any]) -> None:
    memory = iter([0, 50, 101, 20, 120, 120])
    data = EngineData.of(made, registry(made), False)
    engine = GigatokenEngine(data, cache_bytes=100, memory=lambda: next(memory))

    found = [rows(engine.encode(TEXTS)) for _ in range(4)]

    assert engine.made == 2  # at 101; from 20 on, 120 is no more than 100 above
    assert found == [rows(TokenizersEngine(data).encode(TEXTS))] * 4
