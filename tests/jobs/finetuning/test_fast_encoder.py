"""The fast encoder gives the ids of the encoder of prompts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

import meditron_cli.sample
from jobs.contract.stage_specs import TokenizerRef
from jobs.data import tokenizer_file
from jobs.data.difficult_texts import difficult_texts
from jobs.data.tokenizer_file import Encoder
from jobs.finetuning.fast_encoder import FastEncoder
from jobs.prompts.encoding import CONTROL_TOKENS, TurnEncoder
from jobs.prompts.templates import Turn
from jobs.tokenization.engine import GIGATOKEN, TOKENIZERS

from ...model_specs import vocabulary_spec

SAMPLE = Path(meditron_cli.sample.__file__).with_name("tokenizer.json")
TOKENS = 4096
MARKUP = ("[fig]", "[/fig]")


@pytest.fixture(scope="module")
def ref(tmp_path_factory: pytest.TempPathFactory) -> TokenizerRef:
    """Return the sample's tokenizer with markup, grown by the control tokens."""
    path = tmp_path_factory.mktemp("fast") / "tokenizer.json"
    made = tokenizer_file.load(str(SAMPLE))
    made.add_tokens([AddedToken(token, normalized=False) for token in MARKUP])
    made.save(str(path))
    vocabulary = vocabulary_spec(TOKENS, added_tokens=MARKUP)
    return TokenizerRef(str(path), "", vocabulary, CONTROL_TOKENS)


@pytest.mark.parametrize("engine", [GIGATOKEN, TOKENIZERS])
def test_every_text_has_the_ids_of_a_prompt(ref: TokenizerRef, engine: str) -> None:
    texts = difficult_texts(("<EOD>", *MARKUP, *CONTROL_TOKENS))
    slow, fast = Encoder.load(ref), FastEncoder.load_fast(ref, engine)

    assert fast.encode_all(texts) == slow.encode_all(texts)
    assert (fast.eod, fast.bos) == (slow.eod, slow.bos)
    assert fast.encode("[fig]") == [TOKENS]


@pytest.mark.parametrize("engine", [GIGATOKEN, TOKENIZERS])
def test_control_tokens_stand_where_the_template_puts_them(ref: TokenizerRef, engine: str) -> None:
    turns = [Turn("question", f"Is {CONTROL_TOKENS[0]} a token? [fig]")]
    slow, fast = (
        TurnEncoder.of(encoder).rows([(turns, CONTROL_TOKENS[1])])
        for encoder in (Encoder.load(ref), FastEncoder.load_fast(ref, engine))
    )

    assert fast == slow
    assert fast[0].ids.count(TOKENS + 2) == fast[0].ids.count(TOKENS + 3) == 2


def test_tokens_of_the_template_stay_text_where_the_file_marks_them_plain(
    ref: TokenizerRef, tmp_path: Path
) -> None:
    path = tmp_path / "tokenizer.json"
    made = tokenizer_file.load(ref.path)
    made.add_tokens([AddedToken(token, normalized=False) for token in CONTROL_TOKENS])
    made.save(str(path))
    changes: dict[str, Any] = {"path": str(path), "grown": ()}
    plain = dataclasses.replace(ref, **changes)

    fast = FastEncoder.load_fast(plain, GIGATOKEN)

    assert not {TOKENS + 2, TOKENS + 3} & set(fast.encode("".join(CONTROL_TOKENS)))
