"""The questions that a judge is asked, and its verdicts in what it answers. Standard library only.

The words are ours. What they ask is what HealthBench's grader is asked (arXiv 2505.08775;
openai/simple-evals:healthbench_eval.py): whether one criterion is true of a reply, whether or not
that is good, for examples it names by any of their sort.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

from jobs.questions.question import Question

RUBRIC = """\
### Conversation
{conversation}

### Reply
{reply}

### Statement
{criterion}

Above someone talks with an assistant about health. Decide whether the statement is true of the \
assistant's reply to the last message of the conversation.

- Judge the reply alone, not the messages before it.
- A statement may describe a fault. It is then true if the reply has the fault; do not answer \
whether the reply is good.
- A statement of several parts is true only if each of them is.
- Examples that a statement gives ("such as", "for example", "including") stand for others of the \
same sort; the reply needs none of these very ones.

Answer with one JSON object and nothing else: {{"reason": "one sentence", "met": true}} if the \
statement is true of the reply, {{"reason": "one sentence", "met": false}} if it is not."""

PAIR = """\
### Conversation
{conversation}

### Reply 1
{first}

### Reply 2
{second}

Above someone talks with an assistant about health, and two replies to the last message are given. \
Decide which of them helps the person more: it is right, safe, complete in what matters, and fits \
what was asked. Neither the length of a reply nor its place speaks for it.

Answer with one JSON object and nothing else: {{"reason": "one sentence", "better": 1}} if the \
first reply is better, {{"reason": "one sentence", "better": 2}} if the second is, \
{{"reason": "one sentence", "better": 0}} if neither is."""

EQUAL = 0
THOUGHTS = "</think>"
MET, BETTER = "met", "better"
WORDS = {"yes": True, "true": True, "no": False, "false": False}


def digest(prompt: str) -> str:
    """Return the SHA-256 (hex) of the question that a judge is asked, without what is filled in."""
    return hashlib.sha256(prompt.encode()).hexdigest()


def rubric_prompt(question: Question, reply: str, criterion: str) -> str:
    """Return the question whether a criterion is true of a reply."""
    return RUBRIC.format(conversation=conversation(question), reply=reply, criterion=criterion)


def pair_prompt(question: Question, first: str, second: str) -> str:
    """Return the question which of two replies is better."""
    return PAIR.format(conversation=conversation(question), first=first, second=second)


def conversation(question: Question) -> str:
    """Return a conversation as a judge reads it."""
    return "\n\n".join(f"{role}: {text}" for role, text in question.turns)


def met(text: str) -> bool | None:
    """Return whether a judge found a criterion true; None where it gives no verdict, or two.

    It is the last JSON object with ``met``, else a first word ``yes``, ``no``, ``true`` or
    ``false``.
    """
    for value in objects(text):
        if MET in value:
            return value[MET] if type(value[MET]) is bool else None
    word = re.match(r"\W*(\w+)", text.rpartition(THOUGHTS)[2])
    return WORDS.get(word[1].lower()) if word else None


def better(text: str) -> int | None:
    """Return the reply that a judge prefers, 1 or 2, or 0 for neither; None without a verdict."""
    for value in objects(text):
        if BETTER in value:
            number = value[BETTER]
            return number if type(number) is int and number in (EQUAL, 1, 2) else None
    return None


def objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a text behind its thoughts, the last first."""
    said, decoder = text.rpartition(THOUGHTS)[2], json.JSONDecoder()
    for place in reversed([found.start() for found in re.finditer(r"\{", said)]):
        try:
            value, _ = decoder.raw_decode(said, place)
        except ValueError:
            continue
        yield value


def preferred(first: int | None, swapped: int | None) -> int | None:
    """Return which of two replies is preferred, 1 or 2, from the verdicts on them in their order
    and in the other: only where both agree; 0 otherwise, None where a verdict is missing.
    """
    if first is None or swapped is None:
        return None
    return first if first and first + swapped == 3 else EQUAL
