"""Read PubMedQA, whose answers are yes, no and maybe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs.contract.corpus.benchmark_files import BenchmarkOptions, files, train_files
from jobs.data import json_text
from jobs.questions.question import WORDED, Question
from jobs.questions.records import json_object, optional_text, refuse, text_field

PUBMEDQA_CHOICES = ("yes", "no", "maybe")


def read_pubmedqa(path: Path, options: BenchmarkOptions, split: str) -> Iterator[Question]:
    """Read PQA-L: ids of ``test_ground_truth.json`` are ``test``, in its order; the rest, train.

    Of train records alone, as in PQA-A, any file of the layout is read as a stream.
    """
    if split == "train":
        yield from _train_records(train_files(path, "pubmedqa"))
        return
    source, truth = files(path, "pubmedqa")
    records, test = json_object(source), json_object(truth)
    for name in dict.fromkeys([*test, *records]):
        if not isinstance(records.get(name), dict):
            refuse(source, f"no record of {name}", f"{source.name} and {truth.name} go together")
        if name in test and records[name].get("final_decision") != test[name]:
            refuse(truth, f"{name} has another answer in {source.name}", "take both from one place")
        own = "test" if name in test else "train"
        yield pubmedqa_question(f"{source}: {name}", name, records[name], own)


def _train_records(paths: list[Path]) -> Iterator[Question]:
    """Read records that are not among those of ``test_ground_truth.json`` beside them."""
    source, *truth = paths
    test = json_object(truth[0]) if truth else {}
    for line, name, record in json_text.members(source):
        if not isinstance(record, dict):
            refuse(f"{source}:{line}", f"the record of {name} is not an object")
        if name not in test:
            yield pubmedqa_question(f"{source}:{line}: {name}", name, record, "train")


def pubmedqa_question(where: str, name: str, record: dict[str, Any], split: str) -> Question:
    contexts = record.get("CONTEXTS")
    if not isinstance(contexts, list) or not all(isinstance(item, str) for item in contexts):
        refuse(where, "`CONTEXTS` is not a list of strings")
    answer = record.get("final_decision")
    if answer not in PUBMEDQA_CHOICES:
        refuse(where, f"`final_decision` is {answer!r}", "it is yes, no or maybe")
    return Question(
        id=name,
        stem=text_field(where, record, "QUESTION"),
        context=tuple(contexts),
        choices=PUBMEDQA_CHOICES,
        answer=PUBMEDQA_CHOICES.index(answer),
        split=split,
        subject="",
        style=WORDED,
        explanation=optional_text(record, "LONG_ANSWER"),
    )
