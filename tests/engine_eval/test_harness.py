"""Questions of local files, put as lm-eval's tasks put them."""

from __future__ import annotations

import pytest

from jobs.contract.errors import TaskError
from jobs.evaluation.harness import SCHEMAS, HarnessPrompts
from jobs.questions.question import Question


def question(stem: str = "Which?", subject: str = "anatomy", **fields) -> Question:
    rest = {"context": (), "choices": ("w", "x", "y", "z"), "answer": 1, "style": "letters"}
    return Question(id="q", stem=stem, split="test", subject=subject, **rest | fields)


ABSTRACT = {"context": ("One.", "Two."), "choices": ("yes", "no", "maybe"), "style": "words"}
SUBJECTS = {"med_concepts_qa": "icd10cm_easy"}
LISTED = "A. w\nB. x\nC. y\nD. z\n"
HEADS = {
    "mmlu": "The following are multiple choice questions (with answers) about anatomy.\n\n",
    "med_concepts_qa": "Answer A,B,C,D according to the answer to this multiple choice question.\n",
}
PROMPTS = {
    "pubmedqa": ("Abstract: One.\nTwo.\nQuestion: {}\nAnswer:", "no"),
    "medmcqa": (f"Question: {{}}\nChoices:\n{LISTED}Answer:", "B"),
    "medqa4": (f"Question: {{}}\n{LISTED}Answer:", "B"),
    "mmlu": (f"{{}}\n{LISTED}Answer:", "B"),
    "headqa": ("Question: {}\nAnswer:", "x"),
    "med_concepts_qa": (f"Question: {{}}\n{LISTED}Answer:", "B"),
}


@pytest.mark.parametrize("kind", SCHEMAS)
def test_prompts_and_options_are_those_of_lm_eval(kind: str) -> None:
    fields = ABSTRACT if kind == "pubmedqa" else {"subject": SUBJECTS.get(kind, "anatomy")}
    text, answer = PROMPTS[kind]

    put = HarnessPrompts(kind).put(question(**fields), [question("First?", **fields)])

    assert (
        put.prompt
        == f"{HEADS.get(kind, '')}{text.format('First?')} {answer}\n\n{text.format('Which?')}"
    )
    assert put.options[put.question.answer] == answer
    assert len(put.options) == len(put.question.choices)


def test_a_subject_without_a_task_is_named() -> None:
    with pytest.raises(TaskError, match="lm-eval has no task for the subject 'botany'"):
        HarnessPrompts("mmlu").put(question(subject="botany"), [])


def test_a_kind_without_a_task_is_refused() -> None:
    with pytest.raises(TaskError, match="lm-eval has no task for benchmarks of kind mcq"):
        HarnessPrompts("mcq")
