"""Read exams, whose choices stand under letters. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jobs.contract.corpus.benchmark_files import files
from jobs.questions.question import LETTERED, LETTERS, Question
from jobs.questions.records import csv_rows, json_lines, refuse, text_field


def read_mmlu(path: Path) -> Iterator[Question]:
    """Read CSV of ``question, A, B, C, D, letter``, without a header."""
    paths = files(path, "mmlu")
    if not paths:
        refuse(path, "no *_test.csv in this folder")
    for file in paths:
        split = "train" if file.stem.endswith("_dev") else "test"
        subject = file.stem.removesuffix("_test").removesuffix("_dev")
        for row, (where, cells) in enumerate(csv_rows(file)):
            yield mmlu_question(where, cells, f"{file.stem}-{row}", subject, split)


def mmlu_question(where: str, cells: list[str], name: str, subject: str, split: str) -> Question:
    if len(cells) != 6:
        refuse(where, f"{len(cells)} cells", "a row is question, A, B, C, D, letter of the answer")
    question, *choices, letter = (cell.strip() for cell in cells)
    if not question or not all(choices):
        refuse(where, "the question or a choice is empty")
    if letter not in set(LETTERS[:4]):
        refuse(
            where, f"the answer is {letter!r}", "it is one of A, B, C, D; the file has no header"
        )
    return Question(
        id=name,
        stem=question,
        context=(),
        choices=tuple(choices),
        answer=LETTERS.index(letter),
        split=split,
        subject=subject,
        style=LETTERED,
    )


def read_medmcqa(path: Path) -> Iterator[Question]:
    """Read MedMCQA's JSONL, in which ``cop`` counts from 1; choices may repeat, as published."""
    for where, record in json_lines(path):
        question = text_field(where, record, "question")
        choices = [text_field(where, record, f"op{letter}") for letter in "abcd"]
        right = record.get("cop")
        if type(right) is not int or not 1 <= right <= 4:
            refuse(
                where,
                f"`cop` is {right!r}",
                "it counts from 1 to 4 in MedMCQA's own files; mirrors that count from 0 and the "
                "test split, which has no answers, are not read",
            )
        yield Question(
            id=text_field(where, record, "id"),
            stem=question,
            context=(),
            choices=tuple(choices),
            answer=right - 1,
            split="test",
            subject=str(record.get("subject_name") or ""),
            style=LETTERED,
            explanation=str(record.get("exp") or "").strip(),
        )
