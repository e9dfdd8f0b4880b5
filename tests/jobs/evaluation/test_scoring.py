"""Records and summaries of scored questions."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.evaluation.scoring import question_records, summarise
from jobs.questions.question import Question


def question(number: int, answer: int, *, style: str = "letters", choices: int = 4) -> Question:
    return Question(
        id=f"q{number}",
        stem="Which?",
        context=(),
        choices=tuple(f"choice {number}.{place}" for place in range(choices)),
        answer=answer,
        split="test",
        subject="",
        style=style,
    )


def results(questions: list[Question], likelihoods: list[list[float]]) -> dict[str, Any]:
    samples = [
        {"filtered_resps": [(value, False) for value in values], "acc_norm": 0.0}
        for values in likelihoods
    ]
    return summarise(question_records(samples, questions), samples, questions)


def test_choices_that_are_equally_likely_share_the_point() -> None:
    questions = [question(n, answer) for n, answer in enumerate((0, 2, 3))]

    found = results(questions, [[-1, -1, -2, -3], [-1, -2, -1, -1], [-1, -1, -1, -4]])

    assert found["ties"] == 3
    assert found["correct"] == pytest.approx(1 / 2 + 1 / 3)
    assert found["accuracy"] == pytest.approx((1 / 2 + 1 / 3) / 3)


def test_a_model_that_always_gives_one_choice_is_not_better_than_its_baseline() -> None:
    questions = [question(n, 0 if n < 71 else 1 + n % 3) for n in range(200)]

    found = results(questions, [[-1, -2, -2, -2]] * 200)

    assert (found["accuracy"], found["majority"], found["constant"]) == (0.355, 0.355, "A")
    assert found["p_value"] > 0.4


def test_the_p_value_is_against_guessing_where_no_answer_is_commoner() -> None:
    questions = [question(n, n % 4) for n in range(40)]

    found = results(questions, [[-float(place != n % 4) for place in range(4)] for n in range(40)])

    assert (found["accuracy"], found["chance"], found["majority"]) == (1, 0.25, 0.25)
    assert found["p_value"] == pytest.approx(0.25**40, rel=1e-9)
    assert found["constant"] is None


@pytest.mark.parametrize(("style", "constant"), [("letters", "C"), ("texts", "choice 3")])
def test_a_constant_answer_has_a_name(style: str, constant: str) -> None:
    questions = [question(n, 0, style=style) for n in range(3)]

    assert results(questions, [[-2, -2, -1, -2]] * 3)["constant"] == constant


def test_one_question_shows_no_constant_answer() -> None:
    assert results([question(0, 0)], [[-1, -2, -2, -2]])["constant"] is None
