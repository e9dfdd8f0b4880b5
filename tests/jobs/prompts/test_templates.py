"""The turns of conversations, byte for byte."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from jobs.prompts import few_shot, templates
from jobs.prompts.templates import conversation, gold

from .made import ABSTRACT, ASKED, EXAM, QUIZ, REASONED


@pytest.mark.parametrize("template", [templates.CODE, templates.PAPER])
def test_a_conversation_has_these_bytes(template: str, golden: Callable[[str, str], None]) -> None:
    text = ""
    for question, cot in ((EXAM, False), (EXAM, True), (ABSTRACT, False), (ABSTRACT, True)):
        turns = conversation(question, REASONED if cot else ASKED, template, cot)
        answer = templates.Turn("answer", gold(question, template, cot))
        for turn in (*turns, answer):
            text += f"<|im_start|>{turn.role}\n{turn.text}<|im_end|>\n"
        text += "=====\n"

    golden(f"template-{template}.txt", text)


def test_choices_without_letters_are_answered_by_their_texts() -> None:
    (turn,) = conversation(QUIZ, ASKED, templates.CODE)

    assert turn.text == (
        "Choose one option.\nQuestion: Which vitamin prevents scurvy?\nThe answer is:\n"
    )
    for template in (templates.CODE, templates.PAPER):
        assert gold(QUIZ, template) == "vitamin C"
        assert templates.options(QUIZ, template) == QUIZ.choices


def test_the_text_to_score_is_as_long_for_each_option() -> None:
    assert templates.options(EXAM, templates.CODE) == ("A", "B", "C", "D")
    assert templates.options(EXAM, templates.PAPER) == ("(A)", "(B)", "(C)", "(D)")
    assert templates.replies(EXAM, templates.PAPER)[2] == "(C) oculomotor"
    assert templates.options(ABSTRACT, templates.PAPER) == ("yes", "no", "maybe")


def test_a_prompt_that_is_used_as_it_is_may_have_a_system_turn() -> None:
    assert templates.exchange("Why?") == (("question", "Why?"),)
    assert templates.exchange("Why?", "Be brief.") == (
        ("system", "Be brief."),
        ("question", "Why?"),
    )


def test_worked_examples_stand_before_a_plain_prompt() -> None:
    assert few_shot.prompt(ABSTRACT, [EXAM, QUIZ], "Answer.") == (
        "Answer.\n"
        "Question: The nerve that lifts the eyelid is?\n\nOptions:\n"
        "A. optic\nB. facial\nC. oculomotor\nD. vagus\nThe answer is: C\n\n"
        "Question: Which vitamin prevents scurvy?\nThe answer is: vitamin C\n\n"
        "It was given to mice.\nThey lived on (p<0.05).\nDoes it help?\nThe answer is:"
    )
