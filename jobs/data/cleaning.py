"""Normalise the text of a document, and decide whether it is short enough."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import cache
from typing import Any

MAX_DOCUMENT_BYTES = 16 << 20
"""Of a document's UTF-8. Tokenization needs up to 152 bytes of memory per byte (measured with
tokenizers 0.23 and a token per byte): 2.9 GB for a task with the longest one; 4 GiB are planned.
"""

SPANS_KEY = "spans"
"""Key of the places of markup tokens in a text of a shard: begin and end of each, in characters."""

LINE_BREAKS = "\r\x0b\x0c\x85\u2028\u2029"

SOFT_HYPHENS = "\x1f\xad"
"""Shown only at the end of a line: Word's optional hyphen, and Unicode's."""

HARD_HYPHEN = "\x1e"
"""Word's hyphen at which no line ends."""

INVISIBLE = "".join(
    chr(code)
    for code in (*range(0x20), *range(0x7F, 0xA0), 0x200B, 0xFEFF)
    if chr(code) not in f"\t\n{LINE_BREAKS}{SOFT_HYPHENS}{HARD_HYPHEN}"
)
"""Control characters except tab, line breaks and hyphens; zero-width space, byte order mark."""

UNSEEN = re.compile(f"[{re.escape(LINE_BREAKS + SOFT_HYPHENS + HARD_HYPHEN + INVISIBLE)}]")
BREAK = re.compile(f"\r\n|[{re.escape(LINE_BREAKS)}]")
HYPHEN = re.compile(f"[{re.escape(SOFT_HYPHENS)}]+")
NOTHING = re.compile(f"[{re.escape(INVISIBLE)}]+")
BLANK_LINES = re.compile("\n{3,}")

REPAIRS = ("encoding", "hyphen", "space")
"""What may be repaired in a text: characters that were decoded wrongly, hyphens beside digits that
cannot be seen, spaces where something invisible separated a number.
"""


def normalise(text: str) -> tuple[str, dict[str, int]]:
    """Return the text in Unicode NFC with plain line breaks and without invisible characters, and
    how often each of REPAIRS was needed.

    Repair comes before removal, so that no two numbers become one: characters that were decoded
    wrongly get their meaning back (ftfy: ``\\x96`` of Windows-1252 is a dash, ``â‰¤`` is ``≤``),
    ligatures become letters, Word's hyphens and soft hyphens beside a digit or between spaces
    become ``-``, and any other invisible character between a digit and a letter or digit becomes a
    space. The rest of the invisible characters and spaces at line ends are removed, every kind of
    line break becomes ``\\n``, and of several blank lines in a row one stays. The function is
    idempotent.
    """
    repairs = dict.fromkeys(REPAIRS, 0)
    if not text.isascii() or UNSEEN.search(text):  # few texts need the slower repair
        text = _repair(text, repairs)
    text = "\n".join(line.rstrip() for line in text.split("\n"))
    if "\n\n\n" in text:
        text = BLANK_LINES.sub("\n\n", text)
    return text.strip(), repairs


def _repair(text: str, repairs: dict[str, int]) -> str:
    """Repair until nothing changes: what is removed may have hidden characters decoded wrongly."""

    def hyphen(match: re.Match[str]) -> str:
        before, after = _neighbours(match)
        if not (before.isnumeric() or after.isnumeric() or (before, after) == (" ", " ")):
            return ""
        repairs["hyphen"] += 1
        return "-"

    def space(match: re.Match[str]) -> str:
        before, after = _neighbours(match)
        joined = before.isalnum() and after.isalnum()
        if not joined or not (before.isnumeric() or after.isnumeric()):
            return ""
        repairs["space"] += 1
        return " "

    while True:
        before = text
        if not text.isascii():
            text = _decode(unicodedata.normalize("NFC", text), repairs)
        text = BREAK.sub("\n", text)
        text = NOTHING.sub(space, text)
        repairs["hyphen"] += text.count(HARD_HYPHEN)
        text = HYPHEN.sub(hyphen, text.replace(HARD_HYPHEN, "-"))
        if text == before:
            return text


def _neighbours(match: re.Match[str]) -> tuple[str, str]:
    """Return the characters before and after a match; empty at the ends of the text."""
    text = match.string
    return text[max(0, match.start() - 1) : match.start()], text[match.end() : match.end() + 1]


def _decode(text: str, repairs: dict[str, int]) -> str:
    """Give characters that were decoded wrongly their meaning; spell out ligatures.

    Quotation marks, full-width characters, entities and line breaks stay as they are.
    """
    import ftfy

    decoded = ftfy.fix_text(text, _ftfy_config())
    repairs["encoding"] += decoded != text
    return decoded


@cache
def _ftfy_config() -> Any:
    import ftfy

    return ftfy.TextFixerConfig(
        unescape_html=False,
        remove_terminal_escapes=False,
        fix_character_width=False,
        uncurl_quotes=False,
        fix_line_breaks=False,
        remove_control_chars=False,
        normalization=None,
    )


def text_digest(text: str) -> bytes:
    """Return the 16 bytes that identify a text (BLAKE2b; RFC 7693)."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def document_id(value: Any, digest: bytes) -> str:
    """Return a record's own id if it is a string or an integer, else its text's digest in hex."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return digest.hex()


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
