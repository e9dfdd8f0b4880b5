"""Records and summaries of scored questions."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from jobs.contract.errors import TaskError
from jobs.evaluation.items import Answer, ItemKey
from jobs.evaluation.likelihood_items import Asked, permuted
from jobs.evaluation.likelihood_prompts import Put
from jobs.evaluation.scoring import question_records, summarise
from jobs.prompts import plain
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


def asked(question: Question, order: tuple[int, ...] = (), seed: int = 0, sample: int = 0) -> Asked:
    order = order or tuple(range(len(question.choices)))
    put = permuted(question, order)
    key = ItemKey(question.id, seed, sample)
    return Asked(key, Put(put, "", plain.continuations(put)), order)


def answer(item: Asked, values: list[float]) -> Answer:
    return Answer(*item.key, "", {"loglikelihoods": values})


def results(questions: list[Question], likelihoods: list[list[float]]) -> dict[str, Any]:
    items = [asked(question) for question in questions]
    answers = [answer(item, values) for item, values in zip(items, likelihoods, strict=True)]
    return summarise(question_records(items, answers))


def test_choices_that_are_equally_likely_share_the_point() -> None:
    questions = [question(n, answer) for n, answer in enumerate((0, 2, 3))]

    found = results(questions, [[-1, -1, -2, -3], [-1, -2, -1, -1], [-1, -1, -1, -4]])

    assert found["ties"] == 3
    assert found["correct"] == pytest.approx(1 / 2 + 1 / 3)
    assert found["accuracy"] == pytest.approx((1 / 2 + 1 / 3) / 3)
    assert found["accuracy_first"] == pytest.approx(1 / 3)


def test_a_model_that_always_gives_one_choice_is_not_better_than_its_baseline() -> None:
    questions = [question(n, 0 if n < 71 else 1 + n % 3) for n in range(200)]

    found = results(questions, [[-1, -2, -2, -2]] * 200)

    assert (found["accuracy"], found["majority"], found["constant"]) == (0.355, 0.355, "A")
    assert found["p_value"] > 0.4
    assert (found["weighted_recall"], found["weighted_precision"]) == pytest.approx(
        (0.355, 0.355**2)
    )
    assert found["macro_f1"] == pytest.approx(2 * 71 / (200 + 71) / 4)
    assert found["calibration_error"] == pytest.approx(1 / (1 + 3 / math.e) - 0.355)


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


def test_seeds_have_a_mean_a_sample_deviation_and_a_variance() -> None:
    questions = [question(n, 0) for n in range(4)]
    right = {1234: 1, 432: 2, 32: 4}
    items = [asked(item, seed=seed) for seed in right for item in questions]
    answers = [
        answer(item, [-1.0 if place < right[item.key.seed] else -3.0, -2.0, -2.5, -4.0])
        for place, item in zip([*range(4)] * 3, items, strict=True)
    ]

    found = summarise(question_records(items, answers))

    assert [(one["seed"], one["accuracy"]) for one in found["seeds"]] == [
        (1234, 0.25),
        (432, 0.5),
        (32, 1.0),
    ]
    assert (found["n"], found["correct"]) == (4, pytest.approx(7 / 3))
    assert found["accuracy"] == pytest.approx(7 / 12)
    assert found["variance"] == pytest.approx(((1 / 3) ** 2 + (1 / 12) ** 2 + (5 / 12) ** 2) / 2)
    assert found["sd"] == pytest.approx(found["variance"] ** 0.5)


def test_one_draw_of_demonstrations_has_no_deviation() -> None:
    assert "seeds" not in results([question(0, 0)], [[-1, -2, -2, -2]])


def test_permuted_options_are_counted_by_their_published_places() -> None:
    """The model always takes what stands first; then the option 1.2."""
    item = question(1, 2)
    orders = [(0, 1, 2, 3), (2, 3, 0, 1), (1, 0, 3, 2)]
    items = [asked(item, order, sample=n) for n, order in enumerate(orders)]

    first = question_records(items, [answer(one, [-1.0, -2.0, -2.0, -2.0]) for one in items])
    same = question_records(
        items, [answer(one, [-float(place != 2) for place in one.order]) for one in items]
    )

    assert first[0]["predicted"] == 0
    assert [one["predicted"] for one in first[0]["permutations"]] == [2, 1]
    found = summarise(first)
    assert found["accuracy"] == 0
    assert found["permutations"] == {
        "accuracies": [1, 0],
        "mean": 0.5,
        "sd": pytest.approx(0.5**0.5),
        "consistency": 0,
    }
    assert summarise(same)["permutations"] | {"sd": 0} == {
        "accuracies": [1, 1],
        "mean": 1,
        "sd": 0,
        "consistency": 1,
    }


def test_a_likelihood_that_is_no_number_is_refused() -> None:
    item = asked(question(3, 0))

    with pytest.raises(TaskError, match=r"question q3: the log-likelihoods \[nan, -1, -1, -1\]"):
        question_records([item], [answer(item, [float("nan"), -1, -1, -1])])


def test_the_normalised_accuracy_is_per_character() -> None:
    item = replace(question(0, 1, style="texts", choices=2), choices=("ab", "abcdef"))

    found = results([item], [[-2.0, -3.0]])

    assert (found["accuracy"], found["accuracy_norm"]) == (0, 1)
