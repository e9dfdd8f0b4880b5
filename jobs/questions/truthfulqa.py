"""Read TruthfulQA, of which each question is put with one right and three wrong answers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from jobs.contract.corpus.benchmark_files import BenchmarkOptions
from jobs.questions.question import LETTERED, Question
from jobs.questions.records import csv_rows, refuse

MEDICAL = ("Health", "Nutrition", "Psychology", "Science")
"""Categories of the CSV whose sizes are those of the paper's table 13: 55, 16, 19 and 9. The
released programs lack the file that assigns them."""
WRONG = 3
COLUMNS = ("Category", "Question", "Best Answer", "Incorrect Answers")


def read_truthfulqa(path: Path, options: BenchmarkOptions, split: str) -> Iterator[Question]:
    """Read TruthfulQA.csv. Questions of other categories may serve as worked examples.

    Wrong answers are drawn without replacement and all answers are shuffled, by the seed and the
    question alone. A question with fewer than three wrong answers has fewer options.
    """
    lines = csv_rows(path)
    where, header = next(lines, (f"{path}:1", []))
    if missing := [name for name in COLUMNS if name not in header]:
        refuse(where, f"no column {missing[0]!r}", "take TruthfulQA.csv as published")
    wanted = options.subjects or MEDICAL
    for number, (place, cells) in enumerate(lines):
        if len(cells) != len(header):
            refuse(place, f"{len(cells)} cells, not {len(header)}")
        record = dict(zip(header, (cell.strip() for cell in cells), strict=True))
        subject, stem, right, wrong = (record[name] for name in COLUMNS)
        others = [text.strip() for text in wrong.split(";") if text.strip() not in ("", right)]
        if not stem or not right or not others:
            refuse(place, "the question, its best answer or every incorrect answer is empty")
        draw = random.Random(f"{options.seed} {stem}")
        choices = [right, *draw.sample(others, min(WRONG, len(others)))]
        draw.shuffle(choices)
        yield Question(
            id=f"{path.stem}-{number}",
            stem=stem,
            context=(),
            choices=tuple(choices),
            answer=choices.index(right),
            split=split if subject in wanted else "train",
            subject=subject,
            style=LETTERED,
        )
