"""Read the answer out of a generated text. Standard library only.

``parse`` is our rule, the default. ``LegacyRules`` are those of the released evaluation
(epfLLM/meditron:evaluation/evaluate.py), each of which can be turned off alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

LETTERS = "ABCDEFGHIJ"
STOP = "###"
"""Ends a chain of thought, as in the released training data."""

_CUE = re.compile(r"\banswer\s*(?:is\b\s*:?|:)", re.IGNORECASE)
_MARKUP = re.compile(r"\\boxed|\\text|[*_`$\"'\u2018-\u201d]")
_OPENING = r"\s*(?:(?:option|choice)\s+)?[\[({]*"
_WORD_BEHIND = re.compile(r"[ \t]+(?!(?:as|because|for|is|since)\b)[a-z]")
_RUNNING_WORDS = {"A", "I", "NO"}
"""Answers that are common words too: "A patient …", "I think …", "No evidence …"."""


def parse(text: str, options: Sequence[str], style: str) -> int | None:
    """Return the index of the option that a text names; None where it names none, or several.

    The answer stands behind the last "answer is" or "answer:" that one follows, else at the very
    beginning. It is a letter of an option or the whole text of one. A letter in lower case, and an
    "A", "I" or "no", is an answer only where it does not begin a phrase, as in "A patient".

    Args:
        text: as it was generated; nothing behind ``###`` counts.
        options: as published.
        style: ``letters`` (A, B …, or an option's text), ``words`` or ``texts`` (an option's text).
    """
    plain = _MARKUP.sub("", text.partition(STOP)[0])
    for start in [*(match.end() for match in reversed(list(_CUE.finditer(plain)))), 0]:
        found = _at_start(plain[start:], options, style)
        if found is not None:
            return found
    return None


def _at_start(text: str, options: Sequence[str], style: str) -> int | None:
    names = [_simple(option) for option in options]
    if style == "letters":
        # A text of one character, such as a blood group, would be taken for a letter.
        found = _whole_text(text, [name if len(name) > 1 else "" for name in names])
        return _named(text, LETTERS[: len(options)]) if found is None else found
    return _named(text, names) if style == "words" else _whole_text(text, names)


def _simple(text: str) -> str:
    return " ".join(_MARKUP.sub("", text).casefold().split()).rstrip(".")


def _whole_text(text: str, names: Sequence[str]) -> int | None:
    """Return the longest of the names with which a text begins."""
    start = _simple(re.sub(rf"^{_OPENING}", "", text))
    found = [
        place
        for place, name in enumerate(names)
        if name and start.startswith(name) and not start[len(name) : len(name) + 1].isalnum()
    ]
    longest = max((len(names[place]) for place in found), default=0)
    found = [place for place in found if len(names[place]) == longest]
    return found[0] if len(found) == 1 else None


def _named(text: str, names: Sequence[str]) -> int | None:
    """Return the one of a few short names, letters or words, that a text begins with."""
    known = "|".join(map(re.escape, names))
    # "yesyes" is an answer that was said twice, "yesno" is none.
    pattern = rf"{_OPENING}((?:{known})+)(?![A-Za-z0-9])([\])}}]*)"
    first = re.match(pattern, text, re.IGNORECASE)
    if first is None:
        return None
    rest = text[first.end() :]
    if re.match(rf"\s*(?:,|/|&|\bor\b|\band\b)\s*[\[({{]*(?:{known})(?![A-Za-z0-9])", rest):
        return None
    said = {name.upper() for name in re.findall(known, first[1], re.IGNORECASE)}
    if len(said) > 1:
        return None
    name = said.pop()
    is_small_letter = len(name) == 1 and first[1].islower()
    may_run_on = (is_small_letter or name in _RUNNING_WORDS) and not first[2]
    if may_run_on and _WORD_BEHIND.match(rest):
        return None
    return [known.upper() for known in names].index(name)


@dataclass(frozen=True)
class LegacyRules:
    """The released rules. Each field is a difference to ours, which False removes."""

    after_hashes: bool = True
    """Where a line begins with ``##``, the rest of the first such line is the output."""
    first_block: bool = True
    """Few-shot: nothing behind the first blank line counts."""
    first_character: bool = True
    """The first character of a reply is its answer, so that "A patient …" is A. Off: a whole word
    must be the letter."""
    repair_doubles: bool = True
    """``yesyes`` and ``yesno`` are yes, ``nono`` and ``noyes`` no, wherever they stand."""
    refuse_maybe: bool = True
    """``maybe`` is no answer, so that PubMedQA cannot exceed 89.0 %."""
    refuse_beyond_e: bool = True
    """Letters behind E are no answers."""
    invalid_votes: bool = True
    """Self-consistency: replies without an answer vote, each with its whole text."""
    answer_of_first: bool = True
    """Where the right answer stands behind an explanation, it is what follows the first "answer
    is:" there, and cannot be given if the first sample has no answer."""

    def reply(self, text: str, *, whole: bool, few_shot: bool, cot: bool) -> str:
        """Return what a text is reduced to: an answer in lower case, or the whole text in lower
        case where it has none.

        Args:
            text: as it was generated.
            whole: all that is left must be the answer, as with yes and no; otherwise its first
                character.
            few_shot: worked examples preceded the question.
            cot: the answer is the first word behind the last "answer is".
        """
        full = text.lower()
        output = full
        if self.after_hashes and "\n##" in output:
            output = output.split("\n##")[1].split("\n")[0].strip()
        if self.first_block and few_shot:
            output = output.split("\n\n")[0].strip()
        output = " ".join(re.sub(r"[^a-zA-Z0-9]", " ", output).split())
        if cot:
            words = output.split("answer is")[-1].split()
            if not words:
                return full
            output = words[0]
        if whole:
            output = self._without_doubles(output)
        elif self.first_character:
            output = output[:1]
        else:
            output = output.partition(" ")[0]
        return output if self.is_valid(output) else full

    def _without_doubles(self, output: str) -> str:
        for double, single in (
            ("yesyes", "yes"),
            ("nono", "no"),
            ("yesno", "yes"),
            ("noyes", "no"),
        ):
            if self.repair_doubles and double in output:
                return output.replace(double, single)
        return output

    def is_valid(self, reply: str) -> bool:
        """Return whether a reply is an answer."""
        letters = LETTERS.lower()[: 5 if self.refuse_beyond_e else None]
        words = {"yes", "no"} if self.refuse_maybe else {"yes", "no", "maybe"}
        return reply in {*letters, *words}

    def answer(self, gold: str, first: str) -> str:
        """Return the right answer, in lower case.

        Args:
            gold: an explanation, "The answer is:", the answer and ``###``, or the answer alone.
            first: the reply of the first sample.
        """
        gold = gold.lower()
        if STOP not in gold:
            return gold
        if not self.answer_of_first:
            return gold.rpartition("answer is:")[2].partition(STOP)[0].strip()
        return gold.split("answer is:")[1].split(STOP)[0].strip() if self.is_valid(first) else gold

    def is_right(self, reply: str, answer: str) -> bool:
        """Return whether a reply is the right answer, in lower case; one without an answer never
        is, also where its text is that answer ("maybe").
        """
        return self.is_valid(reply) and reply == answer


LEGACY = LegacyRules()
