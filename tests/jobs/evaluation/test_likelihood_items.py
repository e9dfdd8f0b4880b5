"""The items that a model is asked: demonstrations, permutations, prompts of several kinds."""

from __future__ import annotations

from array import array
from typing import Any

import pytest

from jobs.contract.errors import TaskError
from jobs.contract.stage_specs import EvaluateSpec, ParallelSpec
from jobs.data.tokenizer_file import Encoder
from jobs.evaluation.likelihood_items import (
    Asked,
    LikelihoodItem,
    ask,
    encode,
    prompts_of,
    require_options,
)
from jobs.prompts.encoding import TurnEncoder
from jobs.questions.question import Question

from ...byte_tokenizer import EOD, write_byte_tokenizer
from ...model_specs import model_spec, tokenizer_ref


def spec_of(**fields: Any) -> EvaluateSpec:
    base: dict[str, Any] = {
        "benchmark": "exam",
        "path": "/exam",
        "kind": "medmcqa",
        "checkpoint": "last",
        "target_step": 4,
        "checkpoint_dir": "checkpoints",
        "model": model_spec(
            layers=2,
            hidden_size=32,
            ffn_hidden_size=48,
            attention_heads=4,
            kv_heads=2,
            seq_length=128,
            vocab_size=257,
            padded_vocab_size=288,
        ),
        "parallel": ParallelSpec(1, 1, 1, False, True, "none"),
        "device": "cpu",
        "precision": "fp32",
        "tokenizer": tokenizer_ref("/tokenizer.json"),
        "shots": 0,
        "limit": 0,
        "batch_size": 4,
        "seed": 3,
        "output_dir": "evaluations/exam/last",
    }
    return EvaluateSpec(**base | fields)


def question(name: str, split: str = "test", subject: str = "a", **more: Any) -> Question:
    fields: dict[str, Any] = {
        "stem": f"What is {name}?",
        "context": (),
        "choices": tuple(f"{name} {letter}" for letter in "wxyz"),
        "answer": 2,
        "style": "letters",
    }
    return Question(id=name, split=split, subject=subject, **fields | more)


QUESTIONS = [
    question("q0"),
    question("q1", subject="b"),
    *(question(f"t{n}", "train", "ab"[n % 2]) for n in range(20)),
]


def asked(**fields: Any) -> list[Asked]:
    spec = spec_of(**fields)
    return list(ask(QUESTIONS, spec, prompts_of(spec)))


def shown(item: Asked) -> list[str]:
    """Return the train questions before an item, in their order."""
    return [part.split("?")[0] for part in item.put.prompt.split("Question: What is ")[1:-1]]


def test_the_same_worked_examples_precede_all_questions_of_a_seed() -> None:
    found = asked(shots=3, seeds=(1234, 432, 32))

    keys = [(item.key.id, item.key.seed) for item in found]
    assert keys == [(name, seed) for seed in (1234, 432, 32) for name in ("q0", "q1")]
    # As datasets.Dataset.shuffle(seed=…) gives them, of datasets 5.2.
    assert [shown(item) for item in found] == [
        *[["t3", "t9", "t18"]] * 2,
        *[["t13", "t17", "t11"]] * 2,
        *[["t9", "t14", "t10"]] * 2,
    ]


def test_examples_of_the_subject_precede_a_question_of_it() -> None:
    found = asked(shots=3, seeds=(7,), demonstrations="per-subject")

    for item, parity in zip(found, (0, 1), strict=True):
        assert [int(name[1:]) % 2 for name in shown(item)] == [parity] * 3


def test_a_subject_with_too_few_examples_is_named() -> None:
    with pytest.raises(TaskError) as caught:
        asked(shots=11, seeds=(7,), demonstrations="per-subject")

    assert (caught.value.message, caught.value.hint) == (
        "/exam: `shots` is 11, the subject 'a' has 10 train records",
        "set `demonstrations` to pooled, or `shots` to 10",
    )


def test_permutations_move_the_right_answer_with_its_text() -> None:
    found = asked(permute=5)

    assert [item.key.sample for item in found] == [n for n in range(6) for _ in range(2)]
    assert {item.put.question.choices[item.put.question.answer] for item in found} == {
        "q0 y",
        "q1 y",
    }
    first = [item for item in found if item.key.id == "q0"]
    assert first[0].order == (0, 1, 2, 3)
    assert len({item.order for item in first}) > 3
    for item in first:
        assert item.put.question.choices == tuple(f"q0 {'wxyz'[place]}" for place in item.order)
    assert found == asked(permute=5)


def test_options_that_no_prompt_lists_are_not_permuted() -> None:
    spec = spec_of(permute=2)
    texts = [question("q0", style="texts")]

    with pytest.raises(TaskError, match="`permute` has no effect"):
        list(ask(texts, spec, prompts_of(spec)))


@pytest.mark.parametrize("template", ["code", "paper"])
def test_a_finetuned_model_is_asked_as_it_was_taught(tmp_path: Any, template: str) -> None:
    write_byte_tokenizer(tmp_path / "tokenizer.json")
    reference = tokenizer_ref(str(tmp_path / "tokenizer.json"), eod_token=EOD, base_size=257)
    grown = ("<|im_start|>", "<|im_end|>")
    encoder = Encoder.load(type(reference)(**{**vars(reference), "grown": grown}))
    spec = spec_of(template=template)
    prompts = prompts_of(spec)

    item = encode(list(ask(QUESTIONS[:1], spec, prompts)), prompts, encoder)[0]

    start, end = (encoder.tokenizer.token_to_id(token) for token in grown)
    whole = encoder.tokenizer.decode(item.prompt.tolist(), skip_special_tokens=False)
    assert whole == item.asked.put.prompt
    turns = {"code": 1, "paper": 2}[template]
    assert (item.prompt.count(start), item.prompt.count(end)) == (turns + 1, turns)
    assert [encoder.tokenizer.decode(list(ids)) for ids in item.options] == {
        "code": ["A", "B", "C", "D"],
        "paper": ["(A)", "(B)", "(C)", "(D)"],
    }[template]
    assert TurnEncoder.of(encoder).start == start


@pytest.mark.parametrize("answer", ["", "w" * 65])
def test_an_option_that_cannot_be_scored_is_refused_with_its_question(answer: str) -> None:
    (item,) = asked(kind="mcq")[:1]
    option = tuple(answer.encode())

    with pytest.raises(TaskError) as caught:
        require_options([LikelihoodItem(item, array("i", [1]), ((1,), option))], "/exam", 64)

    assert caught.value.message == (
        f"/exam: an option of the question 'q0' has {len(answer)} tokens, the model reads 1 to 64"
    )
