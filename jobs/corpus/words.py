"""Hash the words of texts, many texts at a time.

A word is a run of letters, digits and combining marks of any script, in lower case after Unicode's
normalization NFKC; everything else separates words. So ``3.5 mg/kg`` has the words ``3``, ``5``,
``mg`` and ``kg``, and a script without spaces has long words. Hashes are the same on every machine.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

Hashes = np.ndarray[Any, np.dtype[np.uint64]]
Rows = np.ndarray[Any, np.dtype[Any]]

BLOCK = 1 << 16
"""Characters that are hashed at a time: their arrays fit a processor's cache."""
LONGEST = re.compile(f"([^ \n]{{{BLOCK // 2}}})")
"""Longer runs without a space are cut, so that a block ends between words."""
LAST_LETTER = 0x323B0
"""No code point behind it is a letter or a digit."""
BASE = 0x9E3779B97F4A7C15
"""Of the polynomial over a word's characters, and over the words of an n-gram; odd."""


def word_hashes(texts: Sequence[str]) -> tuple[Hashes, Rows]:
    """Return the hashes of all words of the texts, in order, and the number of words per text."""
    normal = [_cut(unicodedata.normalize("NFKC", text).lower()) for text in texts]
    hashes, begins = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for offset, block in _blocks("\n".join(normal)):
        found, places = _hash_block(block)
        hashes.append(found)
        begins.append(places + offset)
    ends = np.cumsum([len(text) + 1 for text in normal], dtype=np.int64)
    words = np.searchsorted(np.concatenate(begins), ends)
    return np.concatenate(hashes), np.diff(words, prepend=0)


def ngrams(words: Hashes, size: int) -> Hashes:
    """Return the hashes of all runs of ``size`` words."""
    count = max(len(words) - size + 1, 0)
    total = np.zeros(count, np.uint64)
    for at in range(size):
        total += words[at : at + count] * np.uint64(pow(BASE, at, 1 << 64))
    return mix(total)


def mix(values: Hashes) -> Hashes:
    """Make every bit of a hash depend on every bit of the value: the finalizer of SplitMix64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _cut(text: str) -> str:
    return LONGEST.sub(r"\1 ", text) if len(text) > BLOCK // 2 else text


def _blocks(text: str) -> Iterator[tuple[int, str]]:
    """Yield parts that end between words, with their offsets."""
    begin = 0
    while begin < len(text):
        end = begin + BLOCK
        if end < len(text):
            end = max(text.rfind(" ", begin, end), text.rfind("\n", begin, end)) + 1
        yield begin, text[begin:end]
        begin = end


def _hash_block(text: str) -> tuple[Hashes, Rows]:
    """Return the hashes of a block's words, and where they begin."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    is_word = _word_characters()[codes]
    edges = np.flatnonzero(np.diff(is_word, prepend=False, append=False))
    begins, ends = edges[::2], edges[1::2]
    powers, inverses = _powers()
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum((codes + np.uint64(1)) * powers[: len(codes)], out=sums[1:])
    return mix((sums[ends] - sums[begins]) * inverses[begins]), begins


@functools.cache
def _word_characters() -> Rows:
    """Return per code point whether it is part of words."""
    found = np.zeros(0x110000, np.bool_)
    for code in range(LAST_LETTER):
        character = chr(code)
        found[code] = character.isalnum() or unicodedata.category(character)[0] == "M"
    return found


@functools.cache
def _powers() -> tuple[Hashes, Hashes]:
    """Return the powers of BASE for the places of a block, and their inverses modulo 2**64."""
    base = np.full(BLOCK + 1, BASE, np.uint64)
    inverse = np.full(BLOCK + 1, pow(BASE, -1, 1 << 64), np.uint64)
    return np.cumprod(base), np.cumprod(inverse)
