"""Read people's grades of answers, which a judge is compared with. Standard library only."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from jobs.questions.records import errors_of, json_lines, refuse, text_field


class Grade(NamedTuple):
    """A person's grade of an answer by one criterion, or of two answers."""

    prompt: str
    """Id of the conversation."""
    answers: tuple[str, ...]
    """SHA-256 of each answer's text: one, or the two that are compared."""
    criterion: int
    """Place of the criterion in its rubric, from 0; -1 for a comparison."""
    grade: int
    """1 where the criterion is met, else 0; of a comparison 1 or 2 for the better answer, 0 where
    neither is."""


def read_grades(path: Path) -> list[Grade]:
    """Read lines ``{"prompt_id", "criterion", "grade": true, "sha256"}`` and ``{"prompt_id",
    "pair": [sha256, sha256], "grade": 1}``.

    Raises:
        TaskError: the file cannot be read, or a line is of neither form.
    """
    with errors_of(path):
        return [_grade(where, record) for where, record in json_lines(path)]


def _grade(where: str, record: dict[str, Any]) -> Grade:
    prompt, grade = text_field(where, record, "prompt_id"), record.get("grade")
    if "pair" in record:
        pair = record["pair"]
        if not isinstance(pair, list) or [type(one) for one in pair] != [str, str]:
            refuse(where, "`pair` is not a list of the SHA-256 of two answers")
        if type(grade) is not int or grade not in (0, 1, 2):
            refuse(where, "`grade` of a pair is not 1 or 2 for the better answer, or 0")
        return Grade(prompt, tuple(pair), -1, grade)
    criterion = record.get("criterion")
    if type(criterion) is not int or criterion < 0:
        refuse(where, "`criterion` is not the place of a criterion, from 0")
    if type(grade) is not bool:
        refuse(where, "`grade` of a criterion is not true or false")
    return Grade(prompt, (text_field(where, record, "sha256"),), criterion, int(grade))
