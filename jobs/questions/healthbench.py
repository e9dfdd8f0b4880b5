"""Read HealthBench: conversations, with criteria that a judge grades the reply by.

The layout is that of the published files (openai/simple-evals:healthbench_eval.py; arXiv
2505.08775). Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jobs.contract.corpus.benchmark_files import BenchmarkOptions
from jobs.questions.question import OPEN, ROLES, USER, Question
from jobs.questions.records import json_lines, refuse, text_field
from jobs.questions.safety import NO_ANSWER

KIND = "healthbench"
THEME = "theme:"
"""Beginning of the tag of a conversation that names its theme."""


class Criterion(NamedTuple):
    """A statement that is true of a reply, or not."""

    text: str
    points: float
    """What it is worth if it is true; negative for what a reply should not have."""


@dataclass(frozen=True)
class Rubric:
    """A conversation, and the criteria of its reply."""

    question: Question
    criteria: tuple[Criterion, ...]
    tags: tuple[str, ...]


def read_healthbench(path: Path, options: BenchmarkOptions, split: str) -> Iterator[Question]:
    """Read ``{"prompt_id", "prompt": [{"role", "content"}, …], "rubrics", …}`` lines."""
    del options
    for rubric in read_rubrics(path, split):
        yield rubric.question


def read_rubrics(path: Path, split: str = "test") -> Iterator[Rubric]:
    """Read the same lines with their criteria, ``[{"criterion", "points", "tags"}, …]``."""
    for where, record in json_lines(path):
        tags = record.get("example_tags", [])
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            refuse(where, "`example_tags` is not a list of strings")
        turns = _objects(where, record, "prompt")
        roles = tuple(text_field(where, turn, "role") for turn in turns)
        texts = tuple(text_field(where, turn, "content") for turn in turns)
        if not set(roles) <= set(ROLES) or roles[-1] != USER:
            refuse(where, f"`prompt` has turns of {', '.join(roles)}; the last is of {USER}")
        themes = [tag.removeprefix(THEME) for tag in tags if tag.startswith(THEME)]
        question = Question(
            id=text_field(where, record, "prompt_id"),
            stem=texts[-1],
            context=texts[:-1],
            choices=(),
            answer=NO_ANSWER,
            split=split,
            subject=themes[0] if themes else "",
            style=OPEN,
            roles=roles,
        )
        items = _objects(where, record, "rubrics")
        criteria = tuple(_criterion(where, item) for item in items)
        if not any(criterion.points > 0 for criterion in criteria):
            refuse(where, "no criterion of `rubrics` has points above 0")
        yield Rubric(question, criteria, tuple(tags))


def _objects(where: str, record: dict[str, Any], key: str) -> list[dict[str, Any]]:
    values = record.get(key)
    if not isinstance(values, list) or not values or not all(type(one) is dict for one in values):
        refuse(where, f"`{key}` is not a list of objects")
    return values


def _criterion(where: str, item: dict[str, Any]) -> Criterion:
    points = item.get("points")
    if isinstance(points, bool) or not isinstance(points, int | float):
        refuse(where, "`points` of a criterion is not a number")
    return Criterion(text_field(where, item, "criterion"), float(points))
