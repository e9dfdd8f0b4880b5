"""A question of a benchmark, and choices among questions. Standard library only."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.contract.errors import TaskError
from jobs.contract.units import plural

LETTERS = "ABCDEFGHIJ"
LETTERED, WORDED, TEXTS, OPEN = "letters", "words", "texts", "open"
"""Styles of a question: its choices are listed under letters, which are answered; they are words
that need no list (yes, no, maybe); or their own texts are answered, which is informative even for
models too small to have learnt to answer by letter. An open question has none.
"""
USER = "user"
ROLES = (USER, "assistant", "system")
"""Speakers of a conversation, as published."""


@dataclass(frozen=True)
class Question:
    """One question with its choices; ``jobs.prompts`` puts it."""

    id: str
    stem: str
    """What is asked, as published, without choices."""
    context: tuple[str, ...]
    """The texts that it is about, as published."""
    choices: tuple[str, ...]
    """As published."""
    answer: int
    """Index of the right choice."""
    split: str
    """``test``, or ``train`` for a question to learn from, also as a worked example."""
    subject: str
    style: str
    """``letters``, ``words``, ``texts`` or ``open``."""
    explanation: str = ""
    """Why the answer is right, of a train record; empty without one."""
    roles: tuple[str, ...] = ()
    """Of each text of the context and of the stem, where they are a conversation; see ``ROLES``."""

    @property
    def turns(self) -> list[tuple[str, str]]:
        """Return role and text of each turn of a conversation; without roles the user's one."""
        texts = (*self.context, self.stem)
        return list(zip(self.roles, texts, strict=True)) if self.roles else [(USER, self.stem)]

    @property
    def text(self) -> str:
        """Return the question behind the texts that it is about, one per line."""
        return "\n".join([*self.context, self.stem])

    @property
    def identity(self) -> tuple[str, ...]:
        """Return what is equal for one question in two files: words and choices, whatever the
        spaces and capitals.
        """
        return tuple(" ".join(text.lower().split()) for text in (self.text, *self.choices))


def require_examples(
    path: Path | str, questions: Sequence[Question], shots: int, per_subject: bool = False
) -> list[Question]:
    """Return the questions that may serve as worked examples.

    Args:
        path: of the benchmark, for messages.
        questions: all of it.
        shots: examples before a question.
        per_subject: they are drawn from those of its subject.

    Raises:
        TaskError: they are fewer than ``shots``.
    """
    train = [question for question in questions if question.split == "train"]
    if len(train) < shots:
        raise TaskError(
            f"{path}: `shots` is {shots}, the benchmark has {plural(len(train), 'train record')}",
            "set `shots` to 0, or add train records to the benchmark",
        )
    there = Counter(question.subject for question in train)
    for question in questions if per_subject else ():
        if question.split == "test" and there[question.subject] < shots:
            count = there[question.subject]
            raise TaskError(
                f"{path}: `shots` is {shots}, the subject {question.subject!r} has "
                f"{plural(count, 'train record')}",
                f"set `demonstrations` to pooled, or `shots` to {count}",
            )
    return train


def require_permutable(path: Path | str, questions: Iterable[Question]) -> None:
    """Refuse questions whose prompts do not list their options, so that these have no order.

    Raises:
        TaskError: no prompt lists its options.
    """
    if not any(question.style == LETTERED for question in questions):
        raise TaskError(
            f"{path}: `permute` has no effect, no prompt lists its options under letters",
            "remove `permute` from the benchmark",
        )


def stratified(questions: Sequence[Question], size: int, seed: int) -> list[Question]:
    """Return a sample in the order of its file, in which each answer has its share as far as whole
    questions allow: published files are sorted by answer or by subject. A seed gives the same
    questions on every machine.
    """
    groups: dict[int, list[int]] = {}
    for place, question in enumerate(questions):
        groups.setdefault(question.answer, []).append(place)
    draw = random.Random(seed)
    places = []
    for group in (groups[answer] for answer in sorted(groups)):
        draw.shuffle(group)
        # Of each group, the n-th of m comes at (n + ½)/m: a prefix has each answer's share.
        places += [((n + 0.5) / len(group), place) for n, place in enumerate(group)]
    return [questions[place] for place in sorted(place for _, place in sorted(places)[:size])]
