"""Read the exams that MEDITRON is scored on: MMLU, MedMCQA and MedQA. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jobs.contract.corpus.benchmark_files import BenchmarkOptions, files, train_files
from jobs.questions.question import LETTERED, LETTERS, Question
from jobs.questions.records import (
    csv_rows,
    letter_field,
    lettered_field,
    optional_text,
    refuse,
    rows,
    text_field,
)


def read_mmlu(path: Path, options: BenchmarkOptions, split: str) -> Iterator[Question]:
    """Read CSV of ``question, A, B, C, D, letter``, without a header."""
    paths = (files if split == "test" else train_files)(path, "mmlu", _alone(options))
    if not paths:
        refuse(path, "no *_test.csv in this folder")
    for file in paths:
        own = "train" if split == "train" or file.stem.endswith("_dev") else "test"
        subject = file.stem.removesuffix("_test").removesuffix("_dev")
        for row, (where, cells) in enumerate(csv_rows(file)):
            if row or not options.skip_first_rows:
                yield mmlu_question(where, cells, f"{file.stem}-{row}", subject, own)


def _alone(options: BenchmarkOptions) -> BenchmarkOptions:
    """Return the options without a path of train records, which is read by itself."""
    return BenchmarkOptions(subjects=options.subjects)


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


def read_medmcqa(path: Path, options: BenchmarkOptions, split: str) -> Iterator[Question]:
    """Read MedMCQA's JSONL; choices may repeat, as published."""
    first = options.first_answer
    for where, record in rows(path):
        question = text_field(where, record, "question")
        choices = [text_field(where, record, f"op{letter}") for letter in "abcd"]
        right = record.get("cop")
        if type(right) is not int or not first <= right < first + 4:
            refuse(
                where,
                f"`cop` is {right!r}",
                f"it counts from {first} to {first + 3}: set `first_answer` to {1 - first} for a "
                f"file that counts from {1 - first}; the test split has no answers",
            )
        yield Question(
            id=text_field(where, record, "id"),
            stem=question,
            context=(),
            choices=tuple(choices),
            answer=right - first,
            split=split,
            subject=str(record.get("subject_name") or ""),
            style=LETTERED,
            explanation=optional_text(record, "exp"),
        )


def read_medqa(path: Path, options: BenchmarkOptions, split: str) -> Iterator[Question]:
    """Read MedQA with five options."""
    yield from _medqa(path, split, 5)


def read_medqa4(path: Path, options: BenchmarkOptions, split: str) -> Iterator[Question]:
    """Read MedQA with four options."""
    yield from _medqa(path, split, 4)


def _medqa(path: Path, split: str, count: int) -> Iterator[Question]:
    """Read MedQA's JSONL; a train record may have an explanation in ``exp``, as MedMCQA's."""
    for number, (where, record) in enumerate(rows(path)):
        choices = lettered_field(where, record, "options")
        if len(choices) != count:
            kind = {4: "medqa4", 5: "medqa"}.get(len(choices), "no kind that is read")
            refuse(where, f"{len(choices)} options, not {count}", f"the kind of the file is {kind}")
        answer = letter_field(where, record, "answer_idx", count)
        if (
            record.get("answer") is not None
            and text_field(where, record, "answer") != (choices[answer])
        ):
            refuse(where, f"`answer` is {record['answer']!r}, not option {LETTERS[answer]}")
        yield Question(
            id=f"{path.stem}-{number}",
            stem=text_field(where, record, "question"),
            context=(),
            choices=choices,
            answer=answer,
            split=split,
            subject=str(record.get("meta_info") or ""),
            style=LETTERED,
            explanation=optional_text(record, "exp"),
        )
