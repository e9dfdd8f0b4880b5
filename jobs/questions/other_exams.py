"""Read exams beside those of the paper: MedXpertQA, MMLU-Pro, HEAD-QA and MedConceptsQA."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs.contract.corpus.benchmark_files import BenchmarkOptions
from jobs.questions.question import LETTERED, Question
from jobs.questions.records import (
    json_object,
    letter_field,
    lettered_field,
    refuse,
    rows,
    text_field,
    texts_field,
)


def read_medxpertqa(path: Path, options: BenchmarkOptions, split: str) -> Iterator[Question]:
    """Read the text questions of TsinghuaC3I/MedXpertQA, whose stems repeat the options."""
    for where, record in rows(path):
        if record.get("images"):
            refuse(where, "a question about images", "take the files of the subset Text")
        choices = lettered_field(where, record, "options")
        stem, mark, _ = text_field(where, record, "question").rpartition("\nAnswer Choices:")
        yield _question(
            text_field(where, record, "id"),
            stem.strip() if mark else text_field(where, record, "question"),
            choices,
            letter_field(where, record, "label", len(choices)),
            split,
            str(record.get("medical_task") or ""),
        )


def read_mmlu_pro(path: Path, options: BenchmarkOptions, split: str) -> Iterator[Question]:
    """Read TIGER-Lab/MMLU-Pro, of which subjects are the categories."""
    for where, record in rows(path):
        subject = str(record.get("category") or "")
        if options.subjects and subject not in options.subjects:
            continue
        choices = texts_field(where, record, "options")
        number = record.get("question_id")
        yield _question(
            where if number is None else str(number),
            text_field(where, record, "question"),
            choices,
            letter_field(where, record, "answer", len(choices)),
            split,
            subject,
        )


def read_headqa(path: Path, options: BenchmarkOptions, split: str) -> Iterator[Question]:
    """Read HEAD-QA: one object with ``exams`` as published, or records of a mirror."""
    for number, (where, record) in enumerate(_headqa_records(path)):
        subject = str(record.get("category") or "")
        if options.subjects and subject not in options.subjects:
            continue
        answers = record.get("answers")
        if not isinstance(answers, list) or not all(isinstance(item, dict) for item in answers):
            refuse(where, "`answers` is not a list of objects")
        choices = texts_field(
            where, {"answers": [item.get("atext") for item in answers]}, "answers"
        )
        numbers = [str(item.get("aid")) for item in answers]
        right = str(record.get("ra"))
        if right not in numbers:
            refuse(where, f"`ra` is {right}", f"it is one of the `aid`: {', '.join(numbers)}")
        stem = text_field(where, record, "qtext")
        name = f"{path.stem}-{number}"
        yield _question(name, stem, choices, numbers.index(right), split, subject)


def _headqa_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if path.suffix != ".json":
        yield from rows(path)
        return
    exams = json_object(path).get("exams")
    if not isinstance(exams, dict):
        refuse(path, "no object `exams`")
    for name, exam in exams.items():
        records = exam.get("data") if isinstance(exam, dict) else None
        if not isinstance(records, list) or not all(isinstance(one, dict) for one in records):
            refuse(f"{path}: {name}", "no list `data` of objects")
        for record in records:
            where = f"{path}: {name}: {record.get('qid')}"
            yield where, {"category": exam.get("category"), **record}


def read_med_concepts_qa(path: Path, options: BenchmarkOptions, split: str) -> Iterator[Question]:
    """Read ofir408/MedConceptsQA, of which subjects are vocabulary and level, such as
    ``icd10cm_easy``; stems repeat the options.
    """
    for where, record in rows(path):
        subject = "_".join(str(record.get(key) or "") for key in ("vocab", "level")).lower()
        if options.subjects and subject not in options.subjects:
            continue
        choices = tuple(text_field(where, record, f"option{number}") for number in range(1, 5))
        stem = text_field(where, record, "question").removeprefix("Question:")
        yield _question(
            f"{subject}-{record.get('question_id')}",
            stem.partition("\nA. ")[0].strip(),
            choices,
            letter_field(where, record, "answer_id", 4),
            split,
            subject,
        )


def _question(
    name: str, stem: str, choices: tuple[str, ...], answer: int, split: str, subject: str
) -> Question:
    return Question(
        id=name,
        stem=stem,
        context=(),
        choices=choices,
        answer=answer,
        split=split,
        subject=subject,
        style=LETTERED,
    )
