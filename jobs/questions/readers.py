"""Read benchmark files in their published layouts, by kind. Standard library only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from jobs.contract.errors import TaskError
from jobs.questions.exams import read_medmcqa, read_mmlu
from jobs.questions.mcq import read_mcq
from jobs.questions.pubmedqa import read_pubmedqa
from jobs.questions.question import Question
from jobs.questions.records import refuse

READERS: dict[str, Callable[[Path], Iterator[Question]]] = {
    "mcq": read_mcq,
    "pubmedqa": read_pubmedqa,
    "mmlu": read_mmlu,
    "medmcqa": read_medmcqa,
}


def read(path: Path, kind: str) -> list[Question]:
    """Return all questions of a benchmark, in the order of its file.

    Args:
        path: a file; for ``pubmedqa`` also the folder of ``ori_pqal.json``, for ``mmlu`` also a
            folder of ``*_test.csv`` files, with ``*_dev.csv`` files as worked examples.
        kind: ``mcq``, ``pubmedqa``, ``mmlu`` or ``medmcqa``.

    Raises:
        TaskError: unknown kind, file missing or unreadable, a record that breaks the layout (the
            message names file and line), a repeated id, or no test question.
    """
    if kind not in READERS:
        raise TaskError(
            f"{path}: unknown kind of benchmark {kind!r}", f"kinds are {', '.join(READERS)}"
        )
    try:
        questions = list(READERS[kind](path))
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}: not UTF-8 ({error.reason})", "convert the file first") from error
    except OSError as error:
        raise TaskError(
            f"{error.filename or path}: {error.strerror}", "check `path` of the benchmark"
        ) from error
    refuse_repeated_ids(path, questions)
    if not any(question.split == "test" for question in questions):
        raise TaskError(f"{path}: no test question", f"is this a {kind} file?")
    return questions


def refuse_repeated_ids(path: Path, questions: list[Question]) -> None:
    """Refuse questions with equal ids, which identify the records of results."""
    ids: set[str] = set()
    for question in questions:
        if question.id in ids:
            refuse(path, f"the id {question.id!r} occurs twice")
        ids.add(question.id)
