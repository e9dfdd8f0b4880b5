"""Read our own questions with choices. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs.contract.corpus.benchmark_files import BenchmarkOptions
from jobs.contract.units import plural
from jobs.questions.question import TEXTS, Question
from jobs.questions.records import json_lines, optional_text, refuse, text_field


def read_mcq(path: Path, options: BenchmarkOptions, split: str) -> Iterator[Question]:
    """Read ``{"id", "question", "choices": […], "answer": index, "subject"?, "split"?,
    "explanation"?}`` lines; those without a split are ``test``, also where train records are read.
    """
    for where, record in json_lines(path):
        question = text_field(where, record, "question")
        own = record.get("split", "test")
        if own not in ("test", "train"):
            refuse(where, f"`split` is {own!r}", "it is `test` or `train`")
        choices = choices_field(where, record)
        yield Question(
            id=text_field(where, record, "id"),
            stem=question,
            context=(),
            choices=choices,
            answer=answer_field(where, record, len(choices)),
            split=own,
            subject=str(record.get("subject", "")),
            style=TEXTS,
            explanation=optional_text(record, "explanation"),
        )


def choices_field(where: str, record: dict[str, Any]) -> tuple[str, ...]:
    choices = record.get("choices")
    if not isinstance(choices, list) or not all(isinstance(item, str) for item in choices):
        refuse(where, "`choices` is not a list of strings")
    texts = tuple(item.strip() for item in choices)
    if len(texts) < 2:
        refuse(where, f"{plural(len(texts), 'choice')}; a question needs at least two")
    if not all(texts) or len(set(texts)) < len(texts):
        refuse(where, "a choice is empty or occurs twice")
    return texts


def answer_field(where: str, record: dict[str, Any], count: int) -> int:
    answer = record.get("answer")
    if type(answer) is not int or not 0 <= answer < count:
        refuse(where, f"`answer` is {answer!r}", f"it is an index from 0 to {count - 1}")
    return answer
