"""Measure a text as rules of quality do: shares, lengths and numbers of its parts.

Words are what stands between white space, so that punctuation is part of a word. Lines are those
with something in them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property

from jobs.corpus.filtering.repetition import Runs

STOP_WORD = re.compile(r"(?i)\b(?:the|be|to|of|and|that|have|with)\b")
HEADING = re.compile(r"(?m)^#{1,6}(?= )")
CODE = re.compile(r"\{\s")
SENTENCE = re.compile(r"[.!?…\u3002\uff01\uff1f]['\"”\u2019)\]]*(?=\s|$)")
PARAGRAPHS = re.compile(r"\n{2,}")
ELLIPSES = ("...", "…")
BULLETS = ("-", "•")
ENDS = tuple(".!?…\u3002\uff01\uff1f:;\"'”\u2019»)]")
"""Characters with which a line ends that is no fragment: of a sentence, a quotation or a bracket,
and before a list.
"""

SHORT_LINE = 30
"""Characters of the longest short line (FineWeb)."""

SHORT_TEXT = 100
"""Words of the longest text that a placeholder can stand in for."""

PLACEHOLDER = re.compile(
    r"(?im)^[^\w\n]*(?:no abstract (?:is )?(?:available|provided)|(?:an |the )?abstract (?:is )?"
    r"(?:not |un)available|this corrects the article)"
)
"""A line in place of an abstract."""


class Text:
    """A text and its parts, each found once, when a rule needs it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.length = max(len(text), 1)

    @cached_property
    def words(self) -> list[str]:
        return self.text.split()

    @cached_property
    def lines(self) -> list[str]:
        return [line for raw in self.text.split("\n") if (line := raw.strip())]

    @cached_property
    def paragraphs(self) -> list[str]:
        return PARAGRAPHS.split(self.text)

    @cached_property
    def runs(self) -> Runs:
        return Runs(self.words)

    def per_word(self, count: float) -> float:
        return count / max(len(self.words), 1)

    def share_of_lines(self, found: Iterable[bool]) -> float:
        return sum(found) / max(len(self.lines), 1)


def words(text: Text) -> float:
    return len(text.words)


def word_length(text: Text) -> float:
    return text.per_word(sum(map(len, text.words)))


def hashes(text: Text) -> float:
    """Return ``#`` per word, without those that mark a heading."""
    if "#" not in text.text:
        return 0
    return text.per_word(HEADING.sub("", text.text).count("#"))


def ellipses(text: Text) -> float:
    return text.per_word(sum(map(text.text.count, ELLIPSES)))


def bullet_lines(text: Text) -> float:
    return text.share_of_lines(line.startswith(BULLETS) for line in text.lines)


def ellipsis_lines(text: Text) -> float:
    return text.share_of_lines(line.endswith(ELLIPSES) for line in text.lines)


def ended_lines(text: Text) -> float:
    return text.share_of_lines(line.endswith(ENDS) for line in text.lines)


def short_lines(text: Text) -> float:
    return text.share_of_lines(len(line) <= SHORT_LINE for line in text.lines)


def alphabetic_words(text: Text) -> float:
    return text.per_word(sum(map(has_letter, text.words)))


def has_letter(word: str) -> bool:
    """Return whether any character is a letter; most words are answered by the first test."""
    return word.isalpha() or word.lower() != word.upper() or any(map(str.isalpha, word))


def stop_words(text: Text) -> float:
    """Return how many of Gopher's eight occur; two are enough to know."""
    found: set[str] = set()
    for match in STOP_WORD.finditer(text.text):
        found.add(match[0].lower())
        if len(found) == 2:
            break
    return len(found)


def sentences(text: Text) -> float:
    """Return the ends of sentences, and the lines without one."""
    ends = len(SENTENCE.findall(text.text))
    return ends + sum(not SENTENCE.search(line[-4:]) for line in text.lines)


def curly_brackets(text: Text) -> float:
    """Return those of code, before white space and outside formulas: ``{1, 2}`` is a set."""
    if "{" not in text.text:
        return 0
    outside = (part.rpartition("[/formula]")[2] for part in text.text.split("[formula]"))
    return sum(len(CODE.findall(part)) for part in outside)


def lorem_ipsum(text: Text) -> float:
    return text.text.lower().count("lorem ipsum")


def placeholders(text: Text) -> float:
    """Return the placeholders of a short text; in a longer one such a line is about other works."""
    return len(PLACEHOLDER.findall(text.text)) if len(text.words) <= SHORT_TEXT else 0


def letters(text: Text) -> float:
    """Return the share of letters among the characters that are not white space."""
    written = "".join(text.words)
    return sum(map(str.isalpha, written)) / max(len(written), 1)


def repeated_lines(text: Text) -> float:
    return repeated(text.lines) / max(len(text.lines), 1)


def repeated_line_characters(text: Text) -> float:
    return repeated_characters(text.lines) / text.length


def repeated_paragraphs(text: Text) -> float:
    return repeated(text.paragraphs) / len(text.paragraphs)


def repeated_paragraph_characters(text: Text) -> float:
    return repeated_characters(text.paragraphs) / text.length


def repeated(parts: Sequence[str]) -> int:
    """Return how many parts occurred before."""
    return len(parts) - len(set(parts))


def repeated_characters(parts: Sequence[str]) -> int:
    return sum(map(len, parts)) - sum(map(len, set(parts)))


def top_run(text: Text, count: int) -> float:
    """Return the share of characters in the most frequent run of so many words."""
    return text.runs.top(count) / text.length


def repeated_runs(text: Text, count: int) -> float:
    """Return the share of characters in runs of so many words that occurred before, each character
    counted once.
    """
    return text.runs.repeated(count) / text.length
