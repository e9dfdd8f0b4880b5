"""Normalise the text of a document, and decide whether it is short enough."""

from __future__ import annotations

import hashlib
import re
import unicodedata

MAX_DOCUMENT_BYTES = 16 << 20
"""Of a document's UTF-8. Tokenization needs up to 152 bytes of memory per byte (measured with
tokenizers 0.23 and a token per byte): 2.9 GB for a task with the longest one; 4 GiB are planned.
"""

LINE_BREAKS = "\r\x0b\x0c\x85\u2028\u2029"

INVISIBLE = "".join(
    chr(code)
    for code in (*range(0x20), *range(0x7F, 0xA0), 0xAD, 0x200B, 0xFEFF)
    if chr(code) not in f"\t\n{LINE_BREAKS}"
)
"""Control characters except tab and line breaks; soft hyphen, zero-width space, byte order mark."""

REPLACED = {**dict.fromkeys(map(ord, LINE_BREAKS), "\n"), **dict.fromkeys(map(ord, INVISIBLE))}

BLANK_LINES = re.compile("\n{3,}")


def normalise(text: str) -> str:
    """Return the text in Unicode NFC with plain line breaks and without invisible characters.

    Control characters, soft hyphens, zero-width spaces and spaces at line ends are removed, every
    kind of line break becomes ``\\n``, and of several blank lines in a row one stays. Visible
    characters are kept. The function is idempotent.
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
    """Return the 16 bytes that identify a text (BLAKE2b; RFC 7693)."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def length_problem(text: str) -> str:
    """Return what is wrong with the length of a text; empty when it can be tokenized."""
    if 4 * len(text) <= MAX_DOCUMENT_BYTES:  # UTF-8 takes four bytes per character at most
        return ""
    size = len(text.encode())
    if size <= MAX_DOCUMENT_BYTES:
        return ""
    return (
        f"the text has {size:,} bytes, a document may have {MAX_DOCUMENT_BYTES:,}; "
        "split it into shorter documents"
    )
