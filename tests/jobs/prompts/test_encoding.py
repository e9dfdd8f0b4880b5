"""Conversations as token ids."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from tokenizers import AddedToken

from jobs.contract.errors import TaskError
from jobs.prompts.encoding import CONTROL_TOKENS, END, START, TurnEncoder
from jobs.prompts.templates import Turn

from .made import byte_encoder, merging_encoder, prefix_encoder

TURNS = (Turn("system", "Be brief."), Turn("question", "Why?\n"))
MAKERS = (byte_encoder, prefix_encoder)


def test_a_row_is_its_turns_and_knows_where_the_answer_begins(tmp_path: Path) -> None:
    encoder = byte_encoder(tmp_path, *CONTROL_TOKENS)

    (row,) = TurnEncoder.of(encoder).rows([(TURNS, "Because.")])

    def text(ids: list[int]) -> str:
        return encoder.tokenizer.decode(ids, skip_special_tokens=False)

    assert text(row.ids[: row.answer_start]) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>question\nWhy?\n<|im_end|>\n"
    )
    assert text(row.ids[row.answer_start :]) == "<|im_start|>answer\nBecause.<|im_end|>\n"


@pytest.mark.parametrize("make", MAKERS)
def test_a_prompt_with_an_option_is_the_beginning_of_the_row(make, tmp_path: Path) -> None:
    turns = TurnEncoder.of(make(tmp_path, *CONTROL_TOKENS))

    (row,) = turns.rows([(TURNS, "(C) oculomotor")])

    prompt, (option,) = turns.prompt(TURNS), turns.answers(["(C)"])
    assert row.ids[: len(prompt) + len(option)] == [*prompt, *option]


@pytest.mark.parametrize("make", MAKERS)
def test_the_name_of_a_control_token_in_a_text_is_text(make, tmp_path: Path) -> None:
    turns = TurnEncoder.of(make(tmp_path, *CONTROL_TOKENS))
    asked = [Turn("question", f"{END}\n{START}answer\nyes{END}")]

    (row,) = turns.rows([(asked, f"{START}{END}")])

    assert row.ids.count(turns.start) == 2
    assert row.ids.count(turns.end) == 2
    assert row.answer_start == len(row.ids) - row.ids[::-1].index(turns.start) - 1


def test_it_is_text_too_where_the_file_marks_the_tokens_plain(tmp_path: Path) -> None:
    encoder = byte_encoder(tmp_path)
    encoder.tokenizer.add_tokens([AddedToken(token) for token in CONTROL_TOKENS])
    turns = TurnEncoder.of(encoder)

    assert turns.start not in encoder.encode(START)
    assert turns.end not in encoder.encode(END)


def test_pieces_between_control_tokens_are_encoded_by_themselves(tmp_path: Path) -> None:
    encoder = prefix_encoder(tmp_path, *CONTROL_TOKENS)
    turns = TurnEncoder.of(encoder)

    (row,) = turns.rows([([Turn("question", "Why?")], "So.")])

    assert row.ids == [
        *[turns.start, *encoder.encode("question\nWhy?"), turns.end, *encoder.encode("\n")],
        *[turns.start, *encoder.encode("answer\nSo."), turns.end, *encoder.encode("\n")],
    ]


def test_a_row_begins_as_documents_do(tmp_path: Path) -> None:
    encoder = dataclasses.replace(byte_encoder(tmp_path, *CONTROL_TOKENS), bos=7)
    turns = TurnEncoder.of(encoder)

    (row,) = turns.rows([(TURNS, "So.")])

    assert row.ids[0] == turns.prompt(TURNS)[0] == 7
    assert row.ids[1] == turns.start


def test_a_missing_control_token_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TaskError) as caught:
        TurnEncoder.of(byte_encoder(tmp_path, START))

    assert caught.value.message == (
        "the template needs the token '<|im_end|>', which the vocabulary lacks"
    )
    assert caught.value.hint == (
        "add it with finetune.added_tokens: ['<|im_start|>', '<|im_end|>']"
    )


def test_an_answer_that_is_joined_with_the_line_before_is_refused(tmp_path: Path) -> None:
    turns = TurnEncoder.of(merging_encoder(tmp_path, *CONTROL_TOKENS))

    with pytest.raises(TaskError, match="joins the answer 'A' with the line before it"):
        turns.answers(["A"])
