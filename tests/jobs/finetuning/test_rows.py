"""Rows: cut to a length, and written."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.data.indexed_dataset import read_index
from jobs.finetuning.rows import Dialogue, RowWriter, fit
from jobs.prompts.encoding import CONTROL_TOKENS, Row, TurnEncoder
from jobs.prompts.templates import conversation, gold
from jobs.questions.question import Question

from ..prompts.made import ABSTRACT, ASKED, byte_encoder, prefix_encoder


def render(question: Question) -> Dialogue:
    return Dialogue(conversation(question, ASKED, "code"), gold(question, "code"))


@pytest.fixture(scope="module", params=[byte_encoder, prefix_encoder])
def turns(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TurnEncoder:
    return TurnEncoder.of(request.param(tmp_path_factory.mktemp("encoder"), *CONTROL_TOKENS))


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("C",)), max_size=9)


@settings(max_examples=100)
@given(st.lists(st.lists(WORDS, max_size=8).map(" ".join), max_size=4), st.data())
def test_whatever_is_cut_question_and_answer_stay(
    turns: TurnEncoder, context: list[str], data: st.DataObject
) -> None:
    question = dataclasses.replace(ABSTRACT, context=tuple(context))
    (whole,) = turns.rows([render(question)])
    (bare,) = turns.rows([render(dataclasses.replace(question, context=()))])
    limit = data.draw(st.integers(1, len(whole.ids)))

    cut = fit(question, whole, limit, render, turns)

    if cut is None:
        assert len(bare.ids) > limit
        return
    assert len(cut.ids) <= limit
    assert cut.ids[cut.answer_start :] == whole.ids[whole.answer_start :]
    assert cut.answer_start < len(cut.ids)
    tokens = "".join(map(str, map(turns.encoder.tokenizer.id_to_token, cut.ids)))
    assert "Does?it?help?" in tokens.replace("\u2581", "?").replace("\u0120", "?")


def test_the_context_loses_its_first_words(tmp_path: Path) -> None:
    encoder = TurnEncoder.of(byte_encoder(tmp_path, *CONTROL_TOKENS))
    question = dataclasses.replace(ABSTRACT, context=("One two.", "Three four."))
    (row,) = encoder.rows([render(question)])

    cut = fit(question, row, len(row.ids) - 5, render, encoder)

    assert cut is not None
    text = encoder.encoder.tokenizer.decode(cut.ids, skip_special_tokens=False)
    assert "\ntwo.\nThree four.\nDoes it help?" not in text
    assert "Choose one option.\nThree four.\nDoes it help?" in text


def test_rows_are_documents_with_the_places_of_their_answers(tmp_path: Path) -> None:
    writer = RowWriter(tmp_path, "train", "uint16")
    writer.add([Row([5, 6, 7], 1), Row([8, 9], 0)])
    writer.add([])
    writer.publish()

    index = read_index(tmp_path / "train.idx")

    assert index.lengths.tolist() == [3, 2]
    assert numpy.fromfile(tmp_path / "train.bin", "<u2").tolist() == [5, 6, 7, 8, 9]
    answers = numpy.load(tmp_path / "train.answers.npy")
    assert (answers.tolist(), answers.dtype) == ([1, 0], numpy.int32)
    assert (writer.rows, writer.tokens, writer.scored, writer.longest) == (2, 5, 4, 3)


def test_rows_that_are_not_published_leave_nothing(tmp_path: Path) -> None:
    writer = RowWriter(tmp_path, "train", "uint16")
    writer.add([Row([5, 6, 7], 1)])
    writer.discard()

    assert list(tmp_path.iterdir()) == []
