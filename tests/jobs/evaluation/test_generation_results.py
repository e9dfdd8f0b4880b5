"""Scores of generated texts: votes, counts, and the released rules."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from jobs.contract.stage_specs import GenerateSpec
from jobs.evaluation import generation_items, generation_results
from jobs.evaluation.generation_items import Prompt
from jobs.evaluation.items import Answer
from jobs.questions.question import Question

from ...model_specs import tokenizer_ref


def spec_of(**fields: Any) -> GenerateSpec:
    values: dict[str, Any] = dict.fromkeys(GenerateSpec.__dataclass_fields__, "")
    values |= {"legacy": False, "shots": 0, "samples": 1, "seed": 7, "mode": "cot"}
    return GenerateSpec(**values | {"tokenizer": tokenizer_ref("t.json")} | fields)


def prompt_of(name: str, answer: int, choices: tuple[str, ...], style: str) -> Prompt:
    question = Question(name, "Which?", (), choices, answer, "test", "all", style)
    return Prompt(question, 0, "Which?", (1, 2), False)


EXAM = [prompt_of(f"e{n}", n % 4, ("one", "two", "three", "four"), "letters") for n in range(4)]
ABSTRACTS = [prompt_of(f"a{n}", n, ("yes", "no", "maybe"), "words") for n in range(3)]


def answers(prompts: list[Prompt], texts: list[list[tuple[str, float]]]) -> list[Answer]:
    """Return the stored generations of each prompt."""
    return [
        Answer(
            prompt.question.id, 0, sample, "", {"text": text, "logprob": value, "finish": "stop"}
        )
        for prompt, samples in zip(prompts, texts, strict=True)
        for sample, (text, value) in enumerate(samples)
    ]


def predicted(
    prompts: list[Prompt], texts: list[list[tuple[str, float]]], spec: GenerateSpec
) -> list[tuple[int | None, float]]:
    """Return the answer and the points of each prompt."""
    records = generation_results.question_records(prompts, answers(prompts, texts), spec)
    return [(record["predicted"], record["points"]) for record in records]


def test_samples_without_an_answer_do_not_vote_and_ties_go_to_the_likelier_answer():
    texts = [
        [("The answer is: A ###", -9.0), ("no idea", -1.0), ("no idea", -1.0)],
        [("The answer is A", -5.0), ("The answer is B", -4.0), ("", -1.0)],
        [("", -1.0), ("", -1.0), ("", -1.0)],
        [("D", -1.0), ("D", -1.0), ("A", -0.1)],
    ]

    found = predicted(EXAM, texts, spec_of(mode="sc-cot", samples=3))

    assert found == [(0, 1.0), (1, 1.0), (None, 0.0), (3, 1.0)]


def test_texts_without_an_answer_win_a_vote_under_the_released_rules():
    texts = [
        [("answer is a", -1.0), ("", -1.0), ("", -1.0)],
        [("The answer is b", -1.0), ("The answer is: B.", -1.0), ("c", -1.0)],
        [("Because", -1.0), ("answer is c", -1.0), ("answer is: c", -1.0)],
        [("answer is d", -1.0), ("answer is a", -1.0), ("zzz", -1.0)],
    ]

    found = predicted(EXAM, texts, spec_of(mode="sc-cot", samples=3, legacy=True))

    assert found == [(None, 0.0), (1, 1.0), (2, 1.0), (3, 1.0)]  # of a tie the first


@pytest.mark.parametrize(("kind", "points"), [("medmcqa", 0.0), ("medqa4", 1.0)])
def test_a_first_sample_without_an_answer_loses_an_explained_question_as_released(kind, points):
    texts = [[("Fever", -1.0), ("answer is a", -1.0), ("answer is a", -1.0)]]
    spec = spec_of(mode="sc-cot", samples=3, legacy=True, kind=kind)

    assert predicted(EXAM[:1], texts, spec) == [(0, points)]


@pytest.mark.parametrize(("subject", "answer"), [("virology", 2), ("machine_learning", 1)])
def test_mmlu_medical_is_read_like_a_chain_of_thought_as_released(subject, answer):
    exam = [replace(EXAM[0], question=replace(EXAM[0].question, subject=subject))]
    spec = spec_of(mode="top-token", legacy=True, kind="mmlu")

    ((found, _),) = predicted(exam, [[("B. The answer is C", -1.0)]], spec)

    assert found == answer


@pytest.mark.parametrize(("legacy", "points"), [(False, 3.0), (True, 2.0)])
def test_maybe_is_never_right_under_the_released_rules(legacy, points):
    texts = [[("yes", -1.0)], [("no", -1.0)], [("maybe", -1.0)]]

    found = predicted(ABSTRACTS, texts, spec_of(mode="top-token", legacy=legacy))

    assert sum(each for _, each in found) == points


def test_the_summary_counts_what_is_missing_and_the_accuracy_of_the_rest():
    texts = [[("A", -1.0)], [("", -1.0)], [("C", -1.0)], [("A", -1.0)]]
    records = generation_results.question_records(EXAM, answers(EXAM, texts), spec_of())
    records[1]["samples"][0]["finish"] = "length"

    summary = generation_results.summarise(records, [prompt.question for prompt in EXAM])

    assert (summary["n"], summary["correct"], summary["accuracy"]) == (4, 2.0, 0.5)
    assert (summary["unparsable"], summary["cut_off"], summary["generations"]) == (1, 1, 4)
    assert summary["valid"] == 0.75
    assert summary["accuracy_valid"] == pytest.approx(2 / 3)
    assert summary["constant"] is None
    assert "seeds" not in summary


def test_a_model_that_always_answers_the_same_is_labelled_and_seeds_are_averaged():
    texts = [[("B", -1.0)]] * 4
    records = generation_results.question_records(EXAM, answers(EXAM, texts), spec_of())
    right = [{**record, "points": 1.0, "predicted": record["answer"]} for record in records]

    summary = generation_results.summarise([*records, *right], [each.question for each in EXAM])

    assert (summary["n"], summary["correct"]) == (4, 2.5)
    assert [one["accuracy"] for one in summary["seeds"]] == [0.25, 1.0]
    assert summary["sd"] == pytest.approx(0.5303, abs=1e-4)
    once = generation_results.summarise(records, [each.question for each in EXAM])
    assert once["constant"] == "B"


@pytest.mark.parametrize(
    ("style", "shown"), [("texts", "letters"), ("letters", "letters"), ("words", "words")]
)
def test_options_are_listed_for_a_model_that_was_not_taught_to_answer_without(style, shown):
    question = prompt_of("e", 0, ("one", "two"), style).question

    assert generation_items.listed(question).style == shown


@pytest.mark.parametrize(("legacy", "end"), [(False, ""), (True, "\n")])
@pytest.mark.parametrize(
    ("mode", "phrase"),
    [("top-token", "\nThe answer is:"), ("cot", "\nReason step by step before you answer.")],
)
def test_a_prompt_without_examples_ends_with_a_line_break_as_released(legacy, end, mode, phrase):
    class Encoder:
        bos = None

        def encode_all(self, texts: list[str]) -> list[list[int]]:
            return [[1] for _ in texts]

    spec = spec_of(kind="medqa4", mode=mode, legacy=legacy, limit=0)
    questions = [EXAM[0].question]

    (found,) = generation_items.ask(questions, spec, Encoder(), 9).prompts  # type: ignore[arg-type]

    assert found.text.endswith(f"D. four{phrase}{end}")


def test_batches_have_the_longest_prompts_first_and_each_prompt_once():
    prompts = [Prompt(EXAM[0].question, 0, "", tuple(range(size)), False) for size in (3, 9, 9, 1)]

    assert generation_items.batches(prompts, 3) == [[1, 2, 0], [3]]
