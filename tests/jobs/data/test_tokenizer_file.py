"""A tokenizer against the vocabulary registry: refusals, and which literal tokens become ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from jobs.contract.errors import TaskError
from jobs.contract.stage_specs import TokenizerRef, VocabularySpec
from jobs.data import tokenizer_file
from jobs.data.tokenizer_file import Encoder, mismatches, token_table

from ...model_specs import vocabulary_spec

BASE = 257
TEXT = "dose <EOD>[fig] 5 mg[/fig] <s>"


def registry(**changes: Any) -> VocabularySpec:
    values: dict[str, Any] = {
        "added_tokens": ("<EOD>", "[fig]", "[/fig]"),
        "control_tokens": ("<EOD>",),
    }
    return vocabulary_spec(BASE, **values | changes)


def tokenizer(*tokens: AddedToken) -> Tokenizer:
    """Return a byte-level tokenizer of single bytes and <s>, with these tokens after them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": 0, **{character: i for i, character in enumerate(alphabet, 1)}}
    made = Tokenizer(models.BPE(vocabulary, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken("<s>", special=True)])
    made.add_tokens(list(tokens))
    return made


def added(content: str, special: bool = False) -> AddedToken:
    return AddedToken(content, special=special, normalized=False)


OURS = (added("<EOD>", special=True), added("[fig]"), added("[/fig]"))


def load(folder: Path, made: Tokenizer, vocabulary: VocabularySpec, **options: Any) -> Encoder:
    path = folder / "tokenizer.json"
    made.save(str(path))
    return Encoder.load(TokenizerRef(str(path), "", vocabulary), **options)


def test_markup_becomes_its_ids_and_control_tokens_stay_text(tmp_path: Path) -> None:
    encoder = load(tmp_path, tokenizer(*OURS), registry())
    control = tokenizer()
    control.encode_special_tokens = True

    def plain(text: str) -> list[int]:
        return control.encode(text).ids

    expected = [*plain("dose <EOD>"), 258, *plain(" 5 mg"), 259, *plain(" <s>")]
    assert encoder.encode(TEXT) == expected
    assert (encoder.eod, encoder.bos, encoder.prefix) == (257, None, 257)
    assert encoder.tokenizer.get_vocab_size() == 260


def test_control_tokens_become_their_ids_only_where_configured(tmp_path: Path) -> None:
    encoder = load(tmp_path, tokenizer(*OURS), registry(), special_tokens_in_text=True)

    ids = encoder.encode(TEXT)

    assert [number for number in ids if number in (0, 257, 258, 259)] == [257, 258, 259, 0]


@pytest.mark.parametrize("role", ["eod_token", "bos_token", "eos_token"])
def test_a_plain_token_with_a_role_stays_text_too(tmp_path: Path, role: str) -> None:
    made = tokenizer(added("<end>"))
    vocabulary = vocabulary_spec(BASE, **{"eod_token": "<s>", role: "<end>"})

    encoder = load(tmp_path, made, vocabulary)

    assert 257 not in encoder.encode("the <end> of it")
    assert made.token_to_id("<end>") == 257


def test_a_beginning_is_the_prefix_of_texts(tmp_path: Path) -> None:
    encoder = load(tmp_path, tokenizer(*OURS), registry(bos_token="<s>"))

    assert (encoder.bos, encoder.prefix) == (0, 0)
    assert 0 not in encoder.encode("a")


MOVED = (OURS[1], OURS[0], OURS[2])
REFUSED: list[tuple[tuple[AddedToken, ...], dict[str, Any], str]] = [
    (
        (),
        {},
        "0 of 3 added tokens in the vocabulary of 257; the first that it lacks is '<EOD>'",
    ),
    (
        OURS[:2],
        {},
        "2 of 3 added tokens in the vocabulary of 259; the first that it lacks is '[/fig]'",
    ),
    (MOVED, {}, "'<EOD>' has the id 258, not 257"),
    ((added("<EOD>"), *OURS[1:]), {}, "'<EOD>' is marked plain"),
    ((*OURS[:2], added("[/fig]", special=True)), {}, "'[/fig]' is marked special"),
    (OURS, {"bos_token": "<bos>"}, "no token '<bos>' in the vocabulary"),
    (OURS, {"eos_token": "</s>"}, "no token '</s>' in the vocabulary"),
]


@pytest.mark.parametrize(("tokens", "changes", "problem"), REFUSED)
def test_a_tokenizer_that_is_not_the_registrys_is_refused(
    tokens: tuple[AddedToken, ...], changes: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(TaskError) as error:
        load(tmp_path, tokenizer(*tokens), registry(**changes))

    assert error.value.message == f"{tmp_path / 'tokenizer.json'}: {problem}"
    assert error.value.hint
    table = token_table(json.loads((tmp_path / "tokenizer.json").read_text()))
    assert [item.problem for item in mismatches(table, registry(**changes))] == [problem]


def test_an_entry_of_the_model_is_no_added_token() -> None:
    content = {"model": {"vocab": {"a": 0, "[fig]": 1}}, "added_tokens": []}
    vocabulary = vocabulary_spec(1, eod_token="a", added_tokens=("[fig]",))

    (found,) = mismatches(token_table(content), vocabulary)

    assert found.problem == "'[fig]' is an entry of its model, not an added token"


def test_a_unigram_vocabulary_counts_by_place() -> None:
    table = token_table({"model": {"vocab": [["<EOD>", 0.0], ["a", -1.5]]}})

    assert (table.ids, table.size) == ({"<EOD>": 0, "a": 1}, 2)


def test_tokens_are_added_behind_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer(*OURS).save(str(path))
    ref = TokenizerRef(str(path), "", registry(), ("<|im_start|>", "<|im_end|>"))

    encoder = Encoder.load(ref)
    table, content = tokenizer_file.require_content(ref)

    assert [encoder.tokenizer.token_to_id(token) for token in ref.grown] == [260, 261]
    assert (encoder.tokenizer.get_vocab_size(), table.size) == (262, 262)
    assert not {260, 261} & set(encoder.encode("<|im_start|>a<|im_end|>"))
    again = Tokenizer.from_str(json.dumps(content))
    assert again.encode("<|im_start|>").ids == [260]


def test_a_token_that_the_file_has_cannot_be_added(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer(*OURS).save(str(path))

    with pytest.raises(TaskError, match=r"the vocabulary has the token '\[fig\]' already"):
        Encoder.load(TokenizerRef(str(path), "", registry(), ("[fig]",)))
