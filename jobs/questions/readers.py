"""Read benchmark files in their published layouts, by kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from jobs.contract.corpus.benchmark_files import PUBLISHED, BenchmarkOptions
from jobs.contract.errors import TaskError
from jobs.questions.exams import read_medmcqa, read_medqa, read_medqa4, read_mmlu
from jobs.questions.healthbench import read_healthbench
from jobs.questions.mcq import read_mcq
from jobs.questions.other_exams import (
    read_headqa,
    read_med_concepts_qa,
    read_medxpertqa,
    read_mmlu_pro,
)
from jobs.questions.pubmedqa import read_pubmedqa
from jobs.questions.question import Question
from jobs.questions.records import errors_of, refuse, require_characters
from jobs.questions.safety import read_safety
from jobs.questions.truthfulqa import read_truthfulqa

READERS: dict[str, Callable[[Path, BenchmarkOptions, str], Iterator[Question]]] = {
    "mcq": read_mcq,
    "pubmedqa": read_pubmedqa,
    "mmlu": read_mmlu,
    "medmcqa": read_medmcqa,
    "medqa": read_medqa,
    "medqa4": read_medqa4,
    "truthfulqa": read_truthfulqa,
    "medxpertqa": read_medxpertqa,
    "mmlu_pro": read_mmlu_pro,
    "headqa": read_headqa,
    "med_concepts_qa": read_med_concepts_qa,
    "safety": read_safety,
    "healthbench": read_healthbench,
}
"""Each takes a path, options, and the split of records that do not state theirs."""


def read(path: Path, kind: str, options: BenchmarkOptions = PUBLISHED) -> list[Question]:
    """Return all questions of a benchmark, in the order of its files, train records last where they
    are in a file of their own.

    Args:
        path: a file; for ``pubmedqa`` also the folder of ``ori_pqal.json``, for ``mmlu`` also a
            folder of ``*_test.csv`` files, with ``*_dev.csv`` files as worked examples.
        kind: one of ``READERS``.
        options: what else decides the questions.

    Raises:
        TaskError: unknown kind, file missing or unreadable, a record that breaks the layout (the
            message names file and line), a repeated id, a test question among the train records, or
            no test question.
    """
    questions = list(_read(path, kind, options, "test"))
    refuse_repeated_ids(path, questions)
    test = [question for question in questions if question.split == "test"]
    if not test:
        raise TaskError(f"{path}: no test question", f"is this a {kind} file?")
    if not options.train:
        return questions
    train = list(read_train(Path(options.train), kind, options))
    refuse_leaks(path, test, options.train, train)
    return test + train


def read_train(path: Path, kind: str, options: BenchmarkOptions = PUBLISHED) -> Iterator[Question]:
    """Yield the train records of a file or folder, in its order.

    Raises:
        TaskError: as ``read`` raises it for files and records.
    """
    for question in _read(path, kind, options, "train"):
        if question.split == "train":
            yield question


def _read(path: Path, kind: str, options: BenchmarkOptions, split: str) -> Iterator[Question]:
    """Yield all questions of a file or folder.

    Raises:
        TaskError: unknown kind, a file missing or unreadable, or a bad record.
    """
    if kind not in READERS:
        raise TaskError(
            f"{path}: unknown kind of benchmark {kind!r}", f"kinds are {', '.join(READERS)}"
        )
    with errors_of(path):
        for one in READERS[kind](path, options, split):
            texts = (one.text, *one.choices, one.subject, one.explanation)
            require_characters(path, one.id, texts)
            yield one


def refuse_repeated_ids(path: Path, questions: Iterable[Question]) -> None:
    """Refuse questions with equal ids, which identify the records of results."""
    ids: set[str] = set()
    for question in questions:
        if question.id in ids:
            refuse(path, f"the id {question.id!r} occurs twice")
        ids.add(question.id)


def refuse_leaks(
    path: Path | str, test: Iterable[Question], source: Path | str, train: Iterable[Question]
) -> None:
    """Refuse train records that are test questions, by their text and choices."""
    known = {question.identity: question.id for question in test}
    for question in train:
        if found := known.get(question.identity):
            refuse(
                source,
                f"the train record {question.id!r} is the test question {found!r} of {path}",
                "remove it, or give the file of the train split",
            )
