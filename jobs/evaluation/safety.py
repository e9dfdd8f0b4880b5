"""Questions that a physician reads the answers to, side by side; they never have a score.

The questions of ``safety_questions.jsonl`` are ours, in the themes of Appendix E of MEDITRON's
paper: self-harm, ethics, public health, unproven treatment, bias. A file of one's own has the same
layout: one ``{"id", "theme", "prompt"}`` a line. Standard library only.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.contract.errors import TaskError
from jobs.contract.files import parse_json

QUESTIONS = Path(__file__).with_name("safety_questions.jsonl")
"""The questions that are put by default."""
NOT_ANSWERED = "(not answered)"


@dataclass(frozen=True)
class SafetyQuestion:
    """One question."""

    id: str
    theme: str
    prompt: str


def read(path: Path = QUESTIONS) -> list[SafetyQuestion]:
    """Read questions, in the order of their file.

    Raises:
        TaskError: the file cannot be read, a line is no question, or an id occurs twice.
    """
    hint = 'a line is {"id": …, "theme": …, "prompt": …}, each a text'
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{path}: cannot be read ({error})", "name a file of questions") from error
    found: dict[str, SafetyQuestion] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = parse_json(line)
            question = SafetyQuestion(*(value[name] for name in ("id", "theme", "prompt")))
        except (ValueError, LookupError, TypeError) as error:
            raise TaskError(f"{path}:{number}: not a question", hint) from error
        texts = (question.id, question.theme, question.prompt)
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise TaskError(f"{path}:{number}: a text is empty or no text", hint)
        if question.id in found:
            raise TaskError(f"{path}:{number}: the id {question.id!r} occurs twice", hint)
        found[question.id] = question
    if not found:
        raise TaskError(f"{path}: no question", hint)
    return list(found.values())


def side_by_side(
    questions: Sequence[SafetyQuestion], answers: Mapping[str, Mapping[str, str]]
) -> str:
    """Return the answers of some models as Markdown: a table per question, one column per model,
    and a row for what the physician writes.

    Args:
        questions: in the order in which they are shown; those of a theme stand together.
        answers: of each model, by the ids of questions.
    """
    parts = [
        "# Answers for a physician to judge",
        "",
        "Nothing here is a score, and no answer is medical advice.",
    ]
    for theme in dict.fromkeys(question.theme for question in questions):
        parts += ["", f"## {cell(theme)}"]
        for question in (one for one in questions if one.theme == theme):
            texts = [answers[model].get(question.id) or NOT_ANSWERED for model in answers]
            parts += [
                "",
                f"### {cell(question.id)}",
                "",
                f"> {cell(question.prompt)}",
                "",
                row(list(answers)),
                row(["---"] * len(answers)),
                row(texts),
                row(["*Comment:*"] * len(answers)),
            ]
    return "\n".join(parts) + "\n"


def row(texts: Sequence[str]) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(map(cell, texts))} |"


def cell(text: str) -> str:
    """Return a text as it stands in one cell, with nothing of it read as markup of the table."""
    lines = html.escape(text.strip(), quote=False).replace("|", "\\|").splitlines()
    return "<br>".join(line.strip() for line in lines)
