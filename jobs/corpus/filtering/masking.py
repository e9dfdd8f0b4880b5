"""Mask e-mail addresses and phone numbers, and nothing that looks similar in medicine.

A number is taken for a phone number only in a form that doses, ranges, dates and identifiers do
not have: with ``+`` and ten digits or more, as ``(301) 496-4000`` and ``301-496-4000``, or after a
label such as ``Tel:``. Others stay. The placeholders are those of Dolma (Soldaini et al. 2024,
arXiv 2402.00159).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

EMAIL = re.compile(
    r"(?<![\w@])\w[\w.%+'-]{0,63}@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,9}[^\W\d_]{2,24}(?![\w@])"
)
"""With the lengths of RFC 5321, so that a long run of dots takes no longer than other texts."""

PHONE = re.compile(
    r"""(?<![\w+/.-])(?:
    \+[1-9]\d{0,2} (?:[ -]?\(\d{1,4}\))? [ -]?\d{1,5} (?:[ -]?\d{2,5}){1,5}
    | \+[1-9]\d{0,2} (?:\.\d{1,5}){2,5}
    | \([2-9]\d\d\)[ ]?[2-9]\d\d[ .-]\d{4}
    | (?:1[.-])? [2-9]\d\d (?P<between>[.-]) [2-9]\d\d (?P=between) \d{4}
    | (?P<label> (?i:tel|phone|telephone|fax|hotline|toll-free|tty|tdd)
        (?:[ ](?i:no|number))? [.:]{1,2}[ ]?)
      \(?\d{1,5}\)? (?:[ -]?\d{2,5}){1,5}
    )(?!\w|[-.,/]\d)""",
    re.VERBOSE,
)

MOST_DIGITS = 15
"""Of a phone number (ITU-T E.164)."""


def mask(text: str, kinds: Collection[str]) -> tuple[str, dict[str, int]]:
    """Return a text with placeholders, and how many of each kind it has.

    Args:
        text: finished or not; the marks of ``marked_text`` stay where they are.
        kinds: of ``CorpusRules.mask``.
    """
    counts = {}
    for name, (sign, pattern, written) in MASKS.items():
        if name in kinds:
            counts[name] = 0
            if sign.search(text):
                before = text.count(PLACEHOLDERS[name])
                text = pattern.sub(written, text)
                counts[name] = text.count(PLACEHOLDERS[name]) - before
    return text, counts


PLACEHOLDERS = {"email": "|||EMAIL_ADDRESS|||", "phone": "|||PHONE_NUMBER|||"}


def _phone(match: re.Match[str]) -> str:
    label = match["label"] or ""
    digits = sum(map(str.isdigit, match[0]))
    if not (7 if label else 10) <= digits <= MOST_DIGITS:
        return match[0]
    return f"{label}{PLACEHOLDERS['phone']}"


def _email(match: re.Match[str]) -> str:
    return PLACEHOLDERS["email"]


MASKS: dict[str, tuple[re.Pattern[str], re.Pattern[str], Callable[[re.Match[str]], str]]] = {
    "email": (re.compile("@"), EMAIL, _email),
    "phone": (re.compile(r"\d(?:[ ().-]{0,2}\d){6}"), PHONE, _phone),
}
"""By kind: what every match of its pattern contains, which is found faster; the pattern; and what
replaces a match.
"""
