"""The turns of a conversation with a finetuned model, under two templates.

``code`` is what the released programs do, and what the released models were made with
(epfLLM/meditron:evaluation/benchmarks.py): the instruction stands in the question's turn and the
answer is a letter or a word. ``paper`` is what arXiv 2311.16079 describes (section 4.2): the
instruction is a turn of its own, options are ``(A) …`` and the answer repeats the option's text.
The paper does not say how yes, no and maybe are asked for, nor where its step-by-step phrase
stands: here the words need no list, and the phrase ends the question's turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jobs.prompts.instructions import Instruction
from jobs.prompts.plain import continuations, with_options
from jobs.questions.question import LETTERED, LETTERS, ROLES, TEXTS, Question

CODE, PAPER = "code", "paper"
SYSTEM, ASKER, ASSISTANT = "system", "question", "answer"
"""The roles of turns."""
STOP = "###"
"""The end of an answer with reasoning; a generation stops there."""


class Turn(NamedTuple):
    """One message of a conversation."""

    role: str
    text: str


def conversation(
    question: Question, instruction: Instruction, template: str, cot: bool = False
) -> tuple[Turn, ...]:
    """Return the turns before the answer."""
    if template == CODE:
        body = _as_released(question)
        return (Turn(ASKER, f"{instruction.system}\n{body}\n{instruction.user}\n"),)
    lines = [*question.context, f"Question: {question.stem}"]
    if question.style == LETTERED:
        lines += ["Options:", *_options(question)]
    if cot:
        lines.append(instruction.user)
    return (Turn(SYSTEM, instruction.system), Turn(ASKER, "\n".join(lines)))


def gold(question: Question, template: str, cot: bool = False) -> str:
    """Return the right answer, behind the question's explanation with ``cot``."""
    answer = replies(question, template)[question.answer]
    return f"{question.explanation}.\nThe answer is: {answer} {STOP}" if cot else answer


def replies(question: Question, template: str) -> tuple[str, ...]:
    """Return the whole answer that each choice would be."""
    lettered = template == PAPER and question.style == LETTERED
    return tuple(_options(question)) if lettered else continuations(question)


def options(question: Question, template: str) -> tuple[str, ...]:
    """Return the text to score for each choice: under ``paper`` a letter in brackets, since the
    lengths of the options' texts must not decide.
    """
    if template == PAPER and question.style == LETTERED:
        return tuple(f"({letter})" for letter in LETTERS[: len(question.choices)])
    return continuations(question)


def exchange(prompt: str, system: str = "") -> tuple[Turn, ...]:
    """Return the turns of a prompt that is used as it is."""
    turns = [Turn(SYSTEM, system)] if system else []
    return (*turns, Turn(ASKER, prompt))


def open_turns(question: Question) -> tuple[Turn, ...]:
    """Return the turns of a question without choices, of one turn or of a conversation."""
    ours = dict(zip(ROLES, (ASKER, ASSISTANT, SYSTEM), strict=True))
    return tuple(Turn(ours[role], text) for role, text in question.turns)


def _options(question: Question) -> Sequence[str]:
    pairs = zip(LETTERS, question.choices, strict=False)
    return [f"({letter}) {choice}" for letter, choice in pairs]


def _as_released(question: Question) -> str:
    if question.style == LETTERED:
        return with_options(question)
    return f"Question: {question.text}" if question.style == TEXTS else question.text
