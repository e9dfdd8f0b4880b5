"""Verdicts in what a judge answers, and scores and agreement from them."""

from __future__ import annotations

import random
from typing import Any

import pytest
from sklearn.metrics import cohen_kappa_score

from jobs.evaluation.items import Answer
from jobs.evaluation.safety import SafetyAnswer, text_digest
from jobs.judging import agreement, judge_results, verdicts
from jobs.judging.judge_work import Reply, questions
from jobs.questions.healthbench import Criterion, Rubric
from jobs.questions.human_grades import Grade
from jobs.questions.question import Question

CRITERIA = (Criterion("Asks since when", 5.0), Criterion("Is rude", -2.0), Criterion("Is brief", 3))


def reply_of(name: str, text: str, other: str | None = None) -> Reply:
    """Return a reply to a conversation of two earlier turns, alone or with another one."""
    roles = ("user", "assistant", "user")
    question = Question(name, "Now?", ("Hm.", "Yes?"), (), -1, "test", "t", "open", roles=roles)
    rubric = Rubric(question, CRITERIA, ("theme:t", "other"))
    own, second = (
        SafetyAnswer(name, "t", question.text, each, "stop") for each in (text, other or "")
    )
    return Reply(rubric, own, None if other is None else second)


def given(*texts: str) -> list[Answer]:
    """Return a judge's answers as they are stored."""
    payload = {"finish": "stop", "logprob": 0.0, "by": {}}
    return [Answer(f"{n}", 0, 0, "", {"text": text, **payload}) for n, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ('{"reason": "It {does}.", "met": true}', True),
        ('```json\n{"reason": "no", "met": false}\n```', False),
        ('{"met": true} but no: {"met": false}', False),
        ('<think>{"met": true}</think>\n{"met": false}', False),
        ("Yes, it does.", True),
        ("**No**.", False),
        ('{"met": "true"}', None),
        ('{"reason": "It is", "met": tr', None),
        ("It does not say.", None),
        ("", None),
        ("{" * 50, None),
    ],
)
def test_a_verdict_on_a_criterion_is_the_last_one_given(text: str, verdict: bool | None) -> None:
    assert verdicts.met(text) is verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ('{"reason": "r", "better": 1}', 1),
        ('{"better": 2}', 2),
        ('{"better": 0}', 0),
        ('{"better": 3}', None),
        ('{"better": true}', None),
        ("Reply 1", None),
    ],
)
def test_a_verdict_on_a_pair_names_a_reply(text: str, verdict: int | None) -> None:
    assert verdicts.better(text) == verdict


@pytest.mark.parametrize(
    ("orders", "preferred"),
    [
        ((1, 2), 1),
        ((2, 1), 2),
        ((1, 1), 0),
        ((2, 2), 0),
        ((0, 0), 0),
        ((1, 0), 0),
        ((0, 2), 0),
        ((1, None), None),
    ],
)
def test_a_preference_counts_only_where_both_orders_agree(
    orders: tuple[int | None, int | None], preferred: int | None
) -> None:
    assert verdicts.preferred(*orders) == preferred


def test_the_judge_reads_conversation_reply_and_criterion() -> None:
    asked = dict(questions(reply_of("a", "Since {when}?")))
    swapped = dict(questions(reply_of("a", "First.", "Second.")))

    assert list(asked) == ["a#0", "a#1", "a#2"]
    assert "user: Hm.\n\nassistant: Yes?\n\nuser: Now?\n\n### Reply\nSince {when}?" in asked["a#0"]
    assert "### Statement\nIs rude\n" in asked["a#1"]
    assert "### Reply 1\nFirst.\n\n### Reply 2\nSecond.\n" in swapped["a#0"]
    assert "### Reply 1\nSecond.\n\n### Reply 2\nFirst.\n" in swapped["a#1"]


@pytest.mark.parametrize(
    ("met", "score"),
    [
        ((True, False, True), 1.0),
        ((True, True, False), 3 / 8),
        ((False, True, False), -2 / 8),
        ((None, False, True), 1.0),
        ((None, True, None), None),
    ],
)
def test_a_reply_has_the_points_of_what_is_met(
    met: tuple[bool | None, ...], score: float | None
) -> None:
    assert agreement.rubric_score(CRITERIA, met) == score


def test_the_mean_is_clipped_and_not_each_score() -> None:
    assert agreement.clipped_mean([-0.5, 1.0]) == 0.25
    assert agreement.clipped_mean([-0.5, 0.1]) == 0.0
    low, high = agreement.bootstrap_interval([-0.5, 0.0, 1.0, 0.5])
    assert 0.0 == low < 0.25 < high <= 1.0


def test_kappa_is_that_of_scikit_learn() -> None:
    draw = random.Random(3)
    for grades in ((0, 1), (0, 1, 2)):
        pairs = [(draw.choice(grades), draw.choice(grades)) for _ in range(40)]
        pairs += [(1, 1)] * draw.randrange(30)
        assert agreement.kappa(pairs) == pytest.approx(cohen_kappa_score(*zip(*pairs, strict=True)))
    assert agreement.kappa([(1, 1)] * 3) is None
    assert agreement.kappa([]) is None


def test_results_of_rubrics_count_what_has_no_verdict() -> None:
    replies = [reply_of("a", "A"), reply_of("b", "B")]
    texts = ("yes", "no", "yes", "hm", "yes", "hm")
    records = judge_results.rubric_records(replies, judge_results.grouped(replies, given(*texts)))

    found = judge_results.rubric_summary(records)

    assert [record["score"] for record in records] == [1.0, None]
    assert records[0]["verdicts"][1] == {
        "criterion": "Is rude", "points": -2.0, "grade": False, "text": "no", "finish": "stop"
    }  # fmt: skip
    assert (found["score"], found["n"], found["unscored"]) == (1.0, 1, 1)
    assert (found["verdicts"], found["met"]) == (6, 3)
    assert found["themes"] == {"t": {"n": 1, "score": 1.0}}


def test_results_of_pairs_count_verdicts_that_follow_the_place() -> None:
    replies = [reply_of(name, "A", "B") for name in "abcd"]
    texts = [f'{{"better": {n}}}' for n in (1, 2, 2, 1, 1, 1, 0, 1)]
    records = judge_results.pair_records(replies, judge_results.grouped(replies, given(*texts)))

    found = judge_results.pair_summary(records)

    assert [record["preferred"] for record in records] == [1, 2, 0, 0]
    assert [found[name] for name in ("n", "first", "second", "neither", "by_place")] == [
        4, 1, 1, 2, 1
    ]  # fmt: skip
    assert found["p_value"] == 1.0


def grade_of(name: str, texts: tuple[str, ...], criterion: int, grade: int) -> Grade:
    return Grade(name, tuple(map(text_digest, texts)), criterion, grade)


@pytest.mark.parametrize(
    ("replies", "texts", "grades", "expected"),
    [
        (
            [reply_of("a", "A")],
            ("yes", "no", "hm"),
            [
                grade_of("a", ("A",), 0, 1),
                grade_of("a", ("A",), 1, 1),
                grade_of("a", ("A",), 2, 1),  # has no verdict
                grade_of("a", ("A",), 3, 1),  # is no criterion
                grade_of("a", ("another answer",), 0, 0),
            ],
            {"n": 2, "agreement": 0.5, "kappa": 0.0},
        ),
        (
            [reply_of("a", "A", "B"), reply_of("b", "A", "B")],
            ('{"better": 1}', '{"better": 2}', '{"better": 2}', '{"better": 1}'),
            [grade_of("a", ("A", "B"), -1, 1), grade_of("b", ("B", "A"), -1, 1)],
            {"n": 2, "agreement": 1.0, "kappa": 1.0},
        ),
        ([reply_of("a", "A")], ("yes",) * 3, [], {"n": 0, "agreement": None, "kappa": None}),
    ],
)
def test_people_are_compared_on_the_very_answers_that_they_graded(
    replies: list[Reply], texts: tuple[str, ...], grades: list[Grade], expected: dict[str, Any]
) -> None:
    said = judge_results.grouped(replies, given(*texts))
    make = judge_results.pair_records if replies[0].other else judge_results.rubric_records

    assert judge_results.with_people(make(replies, said), grades) == expected
