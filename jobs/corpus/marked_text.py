"""Texts with markup tokens, and the places of these tokens.

A curator writes markup tokens such as ``[fig]``; a source may contain the same characters as
ordinary text. While a text is built, each markup token is one character of a private range that
no source keeps, so that repair and tidying move no place. ``finish`` spells the tokens out and
notes where they stand.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from jobs.data.cleaning import normalise

MARKUP = (
    "[bib_ref]",
    "[/bib_ref]",
    "[fig_ref]",
    "[/fig_ref]",
    "[bib]",
    "[/bib]",
    "[fig]",
    "[/fig]",
    "[table]",
    "[/table]",
    "[formula]",
    "[/formula]",
)
"""Of MEDITRON's corpus (arXiv 2311.16079, appendix B.2.1), in the order of their ids."""

FIRST_MARK = 0xF0000
"""Of Unicode's supplementary private use area A, where no character has a meaning."""

MARKS = {token: chr(FIRST_MARK + number) for number, token in enumerate(MARKUP)}
TOKENS = {mark: token for token, mark in MARKS.items()}
OPENING = "".join(mark for mark, token in TOKENS.items() if "/" not in token)
CLOSING = "".join(mark for mark, token in TOKENS.items() if "/" in token)

MARK = re.compile(f"[{OPENING}{CLOSING}]")
SPACES = re.compile("[ \t]{2,}")
SPACE_AT_LINE_START = re.compile("(?m)^[ \t]+")
SPACE_AFTER_BRACKET = re.compile(f"(?<=[(\\[]) +(?=[{OPENING}])")
SPACE_BEFORE_POINT = re.compile(f"(?<=[{CLOSING}]) +(?=[.,;:!?)\\]])")


class MarkedText(NamedTuple):
    """A text, and where its markup tokens stand."""

    text: str
    spans: tuple[tuple[int, int], ...]
    """Begin and end of each markup token, in characters, ascending."""
    repairs: dict[str, int]
    """As ``cleaning.normalise`` counts them."""


def plain(text: str) -> str:
    """Return a source's text without characters of the private range that ``finish`` reads."""
    return text if text.isascii() else MARK.sub("\ufffd", text)


def inline(token: str, text: str) -> str:
    """Return a text between a markup token and its end, both within a line."""
    return f" {MARKS[f'[{token}]']} {text} {MARKS[f'[/{token}]']} "


def block(token: str, text: str) -> str:
    """Return a text between a markup token and its end, as lines of their own."""
    return f"\n{inline(token, text).strip()}\n"


def finish(text: str) -> MarkedText:
    """Return a built text, repaired and tidied, with its markup tokens spelt out.

    Runs of spaces become one space, lines begin without any, and no space stands between the end of
    a reference and a mark of punctuation, or between a bracket and a reference.
    """
    text, repairs = normalise(SPACES.sub(" ", text))
    text = SPACE_AT_LINE_START.sub("", SPACES.sub(" ", text))
    text = SPACE_AFTER_BRACKET.sub("", SPACE_BEFORE_POINT.sub("", text)).strip()
    spans = []
    pieces: list[str] = []
    length = done = 0
    for match in MARK.finditer(text):
        token = TOKENS[match[0]]
        begin = length + match.start() - done
        pieces += [text[done : match.start()], token]
        spans.append((begin, begin + len(token)))
        length, done = begin + len(token), match.end()
    return MarkedText("".join([*pieces, text[done:]]), tuple(spans), repairs)
