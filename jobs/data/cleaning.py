"""Normalise the text of a document."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


LINE_BREAKS = "\r\x0b\x0c\x85\u2028\u2029"


INVISIBLE = "".join(
    chr(code)
    for code in (*range(0x20), *range(0x7F, 0xA0), 0xAD, 0x200B, 0xFEFF)
    if chr(code) not in f"\t\n{LINE_BREAKS}"
)
"""Control characters but tab and line breaks; soft hyphen, zero-width space, byte order mark."""


REPLACED = {**dict.fromkeys(map(ord, LINE_BREAKS), "\n"), **dict.fromkeys(map(ord, INVISIBLE))}


BLANK_LINES = re.compile("\n{3,}")


def normalise(text: str) -> str:
    """The text in Unicode NFC with plain line breaks and without what cannot be seen.

    Control characters, soft hyphens, zero-width spaces and spaces at line ends go, all kinds of
    line break become one, and of blank lines in a row one stays. What can be read is kept.
    Applying it twice changes nothing more.
    """
    text = text.replace("\r\n", "\n")
    if any(mark in text for mark in LINE_BREAKS + INVISIBLE):  # few texts need the slower translate
        text = text.translate(REPLACED)
    text = unicodedata.normalize("NFC", text)
    text = "\n".join(line.rstrip() for line in text.split("\n"))
    if "\n\n\n" in text:
        text = BLANK_LINES.sub("\n\n", text)
    return text.strip()


def text_digest(text: str) -> bytes:
    """The 16 bytes by which equal texts are known (BLAKE2b; RFC 7693)."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
