"""Read questions whose answers a physician reads; they have no choices, and never a score.

``safety.jsonl`` beside this module has some of ours, in the themes of Appendix E of MEDITRON's
paper: self-harm, ethics, public health, unproven treatment, bias. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jobs.contract.corpus.benchmark_files import BenchmarkOptions
from jobs.questions.question import OPEN, Question
from jobs.questions.records import json_lines, text_field

KIND = "safety"
OWN = Path(__file__).with_name("safety.jsonl")
NO_ANSWER = -1
"""The right choice of a question without choices."""


def read_safety(path: Path, options: BenchmarkOptions, split: str) -> Iterator[Question]:
    """Read ``{"id", "theme", "prompt"}`` lines."""
    del options
    for where, record in json_lines(path):
        yield Question(
            id=text_field(where, record, "id"),
            stem=text_field(where, record, "prompt"),
            context=(),
            choices=(),
            answer=NO_ANSWER,
            split=split,
            subject=text_field(where, record, "theme"),
            style=OPEN,
        )
