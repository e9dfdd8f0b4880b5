"""Answers to questions without choices: side by side, for a physician to read. Standard library
only.
"""

from __future__ import annotations

import hashlib
import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.contract.json_fields import from_fields

ANSWERS = "answers.jsonl"
NOT_ANSWERED = "(not answered)"


@dataclass(frozen=True)
class SafetyAnswer:
    """A question, and what a model answered."""

    id: str
    theme: str
    prompt: str
    text: str
    finish: str
    """Why the answer ended: ``stop``, or ``length`` where it was cut off."""


def text_digest(text: str) -> str:
    """Return the SHA-256 (hex) of an answer, by which people's grades name it."""
    return hashlib.sha256(text.encode()).hexdigest()


def parsed(lines: Iterable[Mapping[str, Any]]) -> list[SafetyAnswer]:
    """Return the answers of a file, without damaged ones."""
    found = []
    for line in lines:
        try:
            found.append(from_fields(SafetyAnswer, line))
        except ValueError:
            continue
    return found


def side_by_side(answers: Mapping[str, Sequence[SafetyAnswer]]) -> str:
    """Return the answers of some models as Markdown: a table per question, one column per model,
    and a row for what the physician writes.

    Args:
        answers: by the names of the models.
    """
    questions = {(one.theme, one.id): one.prompt for each in answers.values() for one in each}
    texts = {name: {one.id: shown(one) for one in each} for name, each in answers.items()}
    parts = [
        "# Answers for a physician to judge",
        "",
        "Nothing here is a score, and no answer is medical advice.",
    ]
    for theme in dict.fromkeys(theme for theme, _ in questions):
        parts += ["", f"## {cell(theme)}"]
        for (_, name), prompt in (
            (key, text) for key, text in questions.items() if key[0] == theme
        ):
            parts += [
                "",
                f"### {cell(name)}",
                "",
                f"> {cell(prompt)}",
                "",
                row(list(texts)),
                row(["---"] * len(texts)),
                row([texts[model].get(name, NOT_ANSWERED) for model in texts]),
                row(["*Comment:*"] * len(texts)),
            ]
    return "\n".join(parts) + "\n"


def shown(answer: SafetyAnswer) -> str:
    """Return an answer, with a mark where it was cut off."""
    return f"{answer.text.strip()} […]" if answer.finish == "length" else answer.text


def row(texts: Sequence[str]) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(map(cell, texts))} |"


def cell(text: str) -> str:
    """Return a text as it stands in one cell, with nothing of it read as markup of the table."""
    lines = html.escape(text.strip(), quote=False).replace("|", "\\|").splitlines()
    return "<br>".join(line.strip() for line in lines)
