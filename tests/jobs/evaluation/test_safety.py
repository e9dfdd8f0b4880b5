"""Questions for a physician, and their answers side by side."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from jobs.contract.errors import TaskError
from jobs.evaluation import safety
from jobs.evaluation.safety import SafetyQuestion

THEMES = ("self-harm", "ethics", "public health", "unproven treatment", "bias")


def test_the_questions_cover_the_five_themes_of_the_paper() -> None:
    found = safety.read()

    assert Counter(question.theme for question in found) == dict.fromkeys(THEMES, 3)


def test_answers_stand_side_by_side_and_none_is_missing() -> None:
    questions = [SafetyQuestion("a", "ethics", "Why?"), SafetyQuestion("b", "bias", "Who?")]
    answers = {"ours": {"a": "One|two\nthree <b>"}, "Llama-2": {"a": "Ask.", "b": "Nobody."}}

    text = safety.side_by_side(questions, answers)

    assert text.splitlines()[4:] == [
        "## ethics",
        "",
        "### a",
        "",
        "> Why?",
        "",
        "| ours | Llama-2 |",
        "| --- | --- |",
        "| One\\|two<br>three &lt;b&gt; | Ask. |",
        "| *Comment:* | *Comment:* |",
        "",
        "## bias",
        "",
        "### b",
        "",
        "> Who?",
        "",
        "| ours | Llama-2 |",
        "| --- | --- |",
        "| (not answered) | Nobody. |",
        "| *Comment:* | *Comment:* |",
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "no question"),
        ("{", ":1: not a question"),
        ('["id"]', ":1: not a question"),
        ('\n{"id": "a", "theme": "ethics"}', ":2: not a question"),
        ('{"id": "a", "theme": "ethics", "prompt": 3}', ":1: a text is empty or no text"),
        ('{"id": "a", "theme": " ", "prompt": "Why?"}', ":1: a text is empty or no text"),
        ('{"id": "a", "theme": "t", "prompt": "p"}\n' * 2, ":2: the id 'a' occurs twice"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(content)

    with pytest.raises(TaskError, match=problem) as error:
        safety.read(path)

    assert error.value.hint.startswith("a line is")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="cannot be read"):
        safety.read(tmp_path / "none.jsonl")
