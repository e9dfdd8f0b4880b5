"""Mentions of cited works, figures and tables: how long they are, and the brackets around them.

As in MEDITRON's corpus (arXiv 2311.16079, appendix B.2.1).
"""

from __future__ import annotations

import re

from jobs.corpus.marked_text import MARKS

MAX_WORDS = 12
"""Of a title or clause inside a reference."""

LONG_CAPTION = 20
"""Characters from which a caption inside a reference is cut to its first clause."""

CLAUSE = re.compile(r"[.;:(](?=\s|$)|(?<=\))(?=\s)")
OPEN, CLOSE = MARKS["[bib_ref]"], MARKS["[/bib_ref]"]
CITED = f"{OPEN}[^{CLOSE}]*{CLOSE}"
CITATIONS = re.compile(
    rf"[\[(]\s*({CITED}(?:[\s,;\-\u2013\u2014]*(?:(?:and|&)\s*)?{CITED})*)\s*[\])]"
)
"""Nothing but references between brackets or parentheses."""
BETWEEN = re.compile(rf"(?<={CLOSE})[\s,;\-\u2013\u2014]+(?={OPEN})")
AND = re.compile(rf"(?<={CLOSE})[\s,;]*(?:and|&)\s*(?={OPEN})")
"""Between the references of a list, the second one inside brackets only."""
EMPTY = re.compile(f"{OPEN} *{CLOSE}")
UNKNOWN = re.compile(rf" *(?:{OPEN} *{CLOSE} *)+([.,;:)\]]?)")
"""A mention of a work without title and author."""
FLOAT_NAME = re.compile(rf"(?i)\b(?:fig(?:ure|\.)?|table)s?\.?\s*(?={MARKS['[fig_ref]']})")
"""Before a mention that names its figure or table again."""


def tidy(text: str) -> str:
    """Return a text without the brackets around nothing but references, without references to
    works that have neither title nor author, and without "Fig." in front of a figure's reference.
    """
    if OPEN in text:
        text = CITATIONS.sub(lambda match: f" {AND.sub(' ', match[1])} ", text)
        text = BETWEEN.sub(" ", text)
        if EMPTY.search(text):
            text = UNKNOWN.sub(lambda match: match[1] or " ", text)
    return FLOAT_NAME.sub("", text) if MARKS["[fig_ref]"] in text else text


def work(title: str, author: str) -> str:
    """Return a cited work as its title, cut to MAX_WORDS, and its first author's last name."""
    return ", ".join(filter(None, (first_words(title.rstrip(" .")), author)))


def first_words(text: str) -> str:
    """Return the first MAX_WORDS words, with ``...`` where there are more."""
    words = text.split()
    return text if len(words) <= MAX_WORDS else f"{' '.join(words[:MAX_WORDS])}..."


def first_clause(text: str) -> str:
    """Return a caption as a reference names it: a long one up to its first clause."""
    if len(text) <= LONG_CAPTION:
        return text
    return first_words(CLAUSE.split(text, maxsplit=1)[0].strip())
