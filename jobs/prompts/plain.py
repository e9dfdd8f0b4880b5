"""Prompts without instruction or template, for models that only continue texts.

They follow the released MEDITRON evaluation (epfLLM/meditron:evaluation/benchmarks.py): an exam
question lists its options under letters and the model is scored on the letters; PubMedQA gives the
abstract, then the question, and the model is scored on yes, no and maybe.
"""

from __future__ import annotations

from jobs.questions.question import LETTERED, LETTERS, TEXTS, Question

ANSWER_CUE = "\nThe answer is:"
"""The end of a prompt, as in the released evaluation."""


def prompt(question: Question) -> str:
    """Return all text before the answer, without a trailing space."""
    if question.style == LETTERED:
        return with_options(question) + ANSWER_CUE
    if question.style == TEXTS:
        return open_prompt(question.text)
    return question.text + ANSWER_CUE


def continuations(question: Question) -> tuple[str, ...]:
    """Return the texts to score, one per choice: its letter under ``letters``, else its text."""
    lettered = question.style == LETTERED
    return tuple(LETTERS[: len(question.choices)]) if lettered else question.choices


def open_prompt(text: str) -> str:
    """Return a question with the cue for an answer, or an unfinished sentence as it is."""
    text = text.strip()
    return f"Question: {text}{ANSWER_CUE}" if text.endswith("?") else text


def with_options(question: Question) -> str:
    """Return a question, with ``?`` if it lacks an end, and its options under letters."""
    text = question.text if question.text.endswith(("?", ".")) else f"{question.text}?"
    options = "\n".join(
        f"{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=False)
    )
    return f"Question: {text}\n\nOptions:\n{options}"


def open_exchange(question: Question) -> str:
    """Return a question without choices in the layout of the paper's qualitative answers (App. E),
    which end where the user speaks again.
    """
    turns = (f"### {role.capitalize()}: {text}\n" for role, text in question.turns)
    return f"{''.join(turns)}### Assistant:"
