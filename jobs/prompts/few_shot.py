"""Plain prompts behind worked examples, for models that only continue texts."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.prompts import plain
from jobs.questions.question import Question


def prompt(question: Question, examples: Sequence[Question], instruction: str = "") -> str:
    """Return a question behind solved ones and an instruction, as in the released evaluation."""
    solved = [
        f"{plain.prompt(example)} {plain.continuations(example)[example.answer]}"
        for example in examples
    ]
    text = "\n\n".join([*solved, plain.prompt(question)])
    return f"{instruction}\n{text}" if instruction else text
