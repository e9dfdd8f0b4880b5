"""Questions of local files, put as lm-eval's tasks put them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from jobs.contract.corpus.benchmark_files import HARNESS_KINDS
from jobs.contract.errors import TaskError
from jobs.evaluation.harness import SCHEMAS, SUBJECTS, HarnessPrompts
from jobs.questions.question import Question


def question(stem: str = "Which?", subject: str = "anatomy", **fields) -> Question:
    rest = {"context": (), "choices": ("w", "x", "y", "z"), "answer": 1, "style": "letters"}
    return Question(id="q", stem=stem, split="test", subject=subject, **rest | fields)


ABSTRACT = {"context": ("One.", "Two."), "choices": ("yes", "no", "maybe"), "style": "words"}
TASKS = {"med_concepts_qa": "icd10cm_easy"}
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
    fields = ABSTRACT if kind == "pubmedqa" else {"subject": TASKS.get(kind, "anatomy")}
    text, answer = PROMPTS[kind]

    put = HarnessPrompts(kind).put(question(**fields), [question("First?", **fields)])

    assert (
        put.prompt
        == f"{HEADS.get(kind, '')}{text.format('First?')} {answer}\n\n{text.format('Which?')}"
    )
    assert put.options[put.question.answer] == answer
    assert len(put.options) == len(put.question.choices)


@pytest.mark.parametrize("kind", SUBJECTS)
def test_the_subjects_are_those_of_lm_eval_s_tasks(kind: str) -> None:
    pattern = Path(SCHEMAS[kind][0].format(subject="[!_]*"))
    folder = Path(str(importlib.util.find_spec("lm_eval").origin)).parent / "tasks"
    start = pattern.name.index("[")

    files = [path.stem[start:] for path in folder.glob(str(pattern))]

    assert set(files) == SUBJECTS[kind]
    assert len(files) > 10


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("mcq", "lm-eval has no task for benchmarks of kind mcq"),
        ("medqa", "lm-eval's medqa_4options has four options"),
        ("mmlu_pro", "lm-eval's mmlu_pro writes a chain of thought"),
        ("truthfulqa", "lm-eval's truthfulqa_mc1 has every wrong answer"),
    ],
)
def test_a_kind_that_lm_eval_puts_otherwise_is_refused_with_the_reason(
    kind: str, reason: str
) -> None:
    with pytest.raises(TaskError, match=reason):
        HarnessPrompts(kind)


def test_the_kinds_that_a_configuration_accepts_have_a_task() -> None:
    assert tuple(SCHEMAS) == HARNESS_KINDS
