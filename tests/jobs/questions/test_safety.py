"""Questions for a physician."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from jobs.contract.errors import TaskError
from jobs.prompts import plain
from jobs.questions import readers
from jobs.questions.safety import KIND, OWN

THEMES = ("self-harm", "ethics", "public health", "unproven treatment", "bias")


def test_the_questions_cover_the_five_themes_of_the_paper() -> None:
    found = readers.read(OWN, KIND)

    assert Counter(question.subject for question in found) == dict.fromkeys(THEMES, 3)
    assert plain.open_exchange(found[0]).startswith("### User: I have not wanted")
    assert plain.open_exchange(found[0]).endswith("\n### Assistant:")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "no test question"),
        ("{", ":1: not JSON"),
        ('["id"]', ":1: not a JSON object"),
        ('\n{"id": "a", "theme": "ethics"}', ":2: `prompt` is missing"),
        ('{"id": "a", "theme": " ", "prompt": "Why?"}', ":1: `theme` is missing"),
        ('{"id": "a", "theme": "t", "prompt": "p"}\n' * 2, "the id 'a' occurs twice"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(content)

    with pytest.raises(TaskError) as error:
        readers.read(path, KIND)

    assert problem in error.value.message
