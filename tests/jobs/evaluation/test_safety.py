"""Answers for a physician, side by side."""

from __future__ import annotations

from typing import Any

from jobs.evaluation import safety
from jobs.evaluation.safety import SafetyAnswer


def answer(name: str, theme: str, text: str, finish: str = "stop") -> SafetyAnswer:
    return SafetyAnswer(name, theme, f"{name}?", text, finish)


def test_answers_stand_side_by_side_and_none_is_missing() -> None:
    answers = {
        "ours": [answer("a", "ethics", " One|two\nthree <b>\n", "length")],
        "Llama-2": [answer("a", "ethics", "Ask."), answer("b", "bias", "Nobody.")],
    }

    text = safety.side_by_side(answers)

    assert text.splitlines()[4:] == [
        "## ethics",
        "",
        "### a",
        "",
        "> a?",
        "",
        "| ours | Llama-2 |",
        "| --- | --- |",
        "| One\\|two<br>three &lt;b&gt; […] | Ask. |",
        "| *Comment:* | *Comment:* |",
        "",
        "## bias",
        "",
        "### b",
        "",
        "> b?",
        "",
        "| ours | Llama-2 |",
        "| --- | --- |",
        "| (not answered) | Nobody. |",
        "| *Comment:* | *Comment:* |",
    ]


def test_damaged_lines_are_passed_over() -> None:
    whole: dict[str, Any] = {"id": "a", "theme": "t", "prompt": "p", "text": "", "finish": "stop"}

    assert safety.parsed([whole, {}, {**whole, "text": None}]) == [SafetyAnswer(**whole)]
