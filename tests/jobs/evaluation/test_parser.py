"""The answer in a generated text, by our rules and by the released ones."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from jobs.evaluation import parser
from jobs.evaluation.parser import LEGACY, LegacyRules
from jobs.evaluation.voting import Vote, legacy_majority, majority

EXAM = ("Aspirin", "B cells", "Type 2 diabetes", "Type 2 diabetes mellitus", "Crohn's disease")
WORDS = ("yes", "no", "maybe")

GOLDEN = [  # text, answer by our rules, by the released ones with a chain of thought, without
    ("A", 0, "a", "a"),
    (" B\n", 1, "b", "b"),
    ("(C) Type 2 diabetes", 2, "c", "c"),
    ("d", 3, "d", "d"),
    ("b) because it is", 1, "b", "b"),
    ("**E**", 4, "e", "e"),
    ("$\\boxed{B}$", 1, "b", "b"),
    ("A patient with fever", None, "a", "a"),
    ("a drug", None, "a", "a"),
    ("A\n\nThe patient", 0, "a", "a"),
    ("B cells", 1, "b", "b"),
    ("Aspirin is given.", 0, "a", "a"),
    ("Type 2 diabetes mellitus.", 3, None, None),
    ("type 2  diabetes", 2, None, None),
    ("Crohn\u2019s disease", 4, "c", "c"),
    ("F", None, None, None),
    ("None of these", None, None, None),
    ("", None, None, None),
    ("It is complex. The answer is: C ###", 2, "c", None),
    ("A is wrong.\nThe answer is B.", 1, "b", "a"),
    ("The answer is A. No, the answer is D", 3, "d", None),
    ("The answer is (E) because of it", 4, "e", None),
    ("The correct answer is option b", 1, None, None),
    ("Answer: C", 2, "a", "a"),
    ("The answer is A because it is", 0, "a", None),
    ("The answer is clear", None, "c", None),
    ("B. The answer is clear", 1, "c", "b"),
    ("The answer is A or B", None, "a", None),
    ("The answer is Aspirin", 0, "a", None),
    ("First ### The answer is A", None, "a", None),
]


@pytest.mark.parametrize(("text", "ours", "cot", "direct"), GOLDEN)
def test_the_letter_of_a_text_by_both_rules(text, ours, cot, direct):
    legacy = [LEGACY.reply(text, whole=False, few_shot=False, cot=each) for each in (True, False)]

    assert parser.parse(text, EXAM, "letters") == ours
    # First characters: "Crohn" begins with c, "answer" with a; "First" with none of a to e.
    assert [reply if LEGACY.is_valid(reply) else None for reply in legacy] == [cot, direct]


@pytest.mark.parametrize(
    ("text", "ours", "released"),
    [
        ("yes", 0, "yes"),
        ("Yes.", 0, "yes"),
        ("no\n", 1, "no"),
        ("maybe", 2, None),
        ("yesyes", 0, "yes"),
        ("nono", 1, "no"),
        ("yesno", None, "yes"),
        ("noyes", None, "no"),
        ("Yes, it does", 0, None),
        ("No evidence was found", None, None),
        ("No, it does not", 1, None),
        ("yes or no", None, None),
        ("unclear", None, None),
    ],
)
def test_the_word_of_a_text_by_both_rules(text, ours, released):
    reply = LEGACY.reply(text, whole=True, few_shot=False, cot=False)

    assert parser.parse(text, WORDS, "words") == ours
    assert (reply if LEGACY.is_valid(reply) else None) == released


def test_options_without_letters_are_named_by_their_whole_text():
    assert parser.parse("rice and beans", ("rice", "rice and beans"), "texts") == 1
    assert parser.parse("The answer is ricecake", ("rice", "beans"), "texts") is None
    assert parser.parse("B", ("A", "B", "AB"), "letters") == 1  # the letter, not the blood group


GENERATIONS = [  # text, right answer, few-shot
    ("Because of the fever", "b", False),
    ("Because of the fever", "c", False),
    ("reply\n## b\nc", "b", False),
    ("B\n\nQuestion: is it", "b", True),
    ("f", "f", False),
    ("yesno", "yes", False),
    ("maybe", "maybe", False),
    ("c", "c", False),
]


def accuracy(rules: LegacyRules) -> int:
    """Right answers among the generations; questions that are answered by words are whole."""
    return sum(
        rules.is_right(rules.reply(text, whole=len(answer) > 1, few_shot=shots, cot=False), answer)
        for text, answer, shots in GENERATIONS
    )


def test_what_each_released_rule_is_worth():
    worth = {
        field.name: accuracy(LEGACY) - accuracy(replace(LEGACY, **{field.name: False}))
        for field in fields(LegacyRules)
    }

    assert accuracy(LEGACY) == 5
    assert worth == {
        "after_hashes": 1,  # "reply" begins with no letter
        "first_block": 0,  # the first character decides before it
        "first_character": 1,  # "Because" is b by chance
        "repair_doubles": 1,
        "refuse_maybe": -1,
        "refuse_beyond_e": -1,
        "invalid_votes": 0,  # of one sample each
        "answer_of_first": 0,  # no answer stands behind an explanation
    }


@pytest.mark.parametrize(
    ("explanation", "first", "released", "ours"),
    [
        ("Because", "b", "b", "b"),
        ("Because", "because", "because.\nthe answer is: b ###", "b"),
        ("The answer is: b", "b", "b.\nthe", "b"),
    ],
)
def test_the_right_answer_is_read_out_of_its_explanation(explanation, first, released, ours):
    gold = f"{explanation}.\nThe answer is: B ###"

    assert LEGACY.answer(gold, first) == released
    assert replace(LEGACY, answer_of_first=False).answer(gold, first) == ours
    assert LEGACY.answer("B", first) == "b"


def test_the_first_blank_line_ends_a_reply_of_words_after_worked_examples():
    shorter = LEGACY.reply("yes\n\nno", whole=True, few_shot=True, cot=False)
    longer = replace(LEGACY, first_block=False).reply(
        "yes\n\nno", whole=True, few_shot=True, cot=False
    )

    assert (shorter, longer) == ("yes", "yes\n\nno")


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        ([(0, -9), (1, -1), (0, -9)], 0),
        ([(None, -1), (None, -1), (2, -50)], 2),
        ([(0, -5), (1, -1), (0, -5), (1, -8)], 1),  # -9 over -10
        ([(None, -1), (None, -2)], None),
        ([], None),
    ],
)
def test_the_majority_of_samples_with_an_answer_decides(votes, expected):
    assert majority([Vote(*vote) for vote in votes], "1234:item") == expected


def test_equal_votes_with_equal_probability_are_drawn_by_the_seed():
    votes = [Vote(0, -1.0), Vote(1, -1.0)]

    drawn = [majority(votes, f"{seed}") for seed in range(64)]

    assert set(drawn) == {0, 1}
    assert drawn == [majority(votes[::-1], f"{seed}") for seed in range(64)]


def test_replies_without_an_answer_win_a_released_vote():
    replies = ["", "b", "", "c"]

    assert legacy_majority(replies, LEGACY) == ""
    assert legacy_majority(replies, replace(LEGACY, invalid_votes=False)) == "b"
    assert legacy_majority(["c", "b", "b", "c"], LEGACY) == "c"
