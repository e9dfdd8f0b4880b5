"""Texts, and the first rule of the presets ``gopher`` and ``fineweb`` that they break.

datatrove 0.10.1 decides each of them alike, for the same reason: ``GopherRepetitionFilter`` and
``GopherQualityFilter``; for FineWeb also ``C4QualityFilter(filter_no_terminal_punct=False)`` and
``FineWebQualityFilter(char_duplicates_ratio=0.1)``, the paper's threshold.
"""

from __future__ import annotations

SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprst" for vowel in "aeiou"]
REPEATED = "fineweb: characters in repeated lines"


def word(number: int) -> str:
    """Return a word of six letters that no other number below 3,600 has."""
    return SYLLABLES[number % 60] + SYLLABLES[number // 60 % 60] + SYLLABLES[(number * 7 + 11) % 60]


def sentence(number: int) -> str:
    """Return a sentence of eight words without a run of words of any other."""
    a, b, c, d, e = (word(number * 5 + place) for place in range(5))
    return f"{a} of {b} and {c} {d} to {e}."


def sentences(count: int, begin: int = 0, separator: str = " ") -> str:
    return separator.join(sentence(number) for number in range(begin, begin + count))


def lines(count: int, begin: int = 0) -> str:
    return sentences(count, begin, "\n")


GOOD = sentences(30)
NAMES = " ".join(map(word, range(300)))

CASES: dict[str, tuple[str, str, str]] = {
    "good": (GOOD, "", ""),
    "good lines": (lines(30), "", ""),
    "few words": (sentences(6), "gopher: words", ""),
    "long words": (
        " ".join(f"{word(n)}{word(n + 400)}{word(n + 800)}" for n in range(90)) + f" {GOOD[:200]}",
        "gopher: mean word length",
        "",
    ),
    "hashes": (GOOD.replace(" of ", " of#").replace(" to", "# to"), "gopher: hashes per word", ""),
    "ellipses": (
        GOOD.replace(" and", "... and").replace(" of", "… of"),
        "gopher: ellipses per word",
        "",
    ),
    "bullets": ("- " + sentences(30, separator="\n- "), "gopher: lines with a bullet", ""),
    "ellipsis at the ends of lines": (
        "\n".join(sentences(3, begin) + ".." for begin in range(0, 60, 3)),
        "gopher: lines ending in an ellipsis",
        "",
    ),
    "numbers": (
        " ".join(f"{sentence(n)} {' '.join(map(str, range(n * 9, n * 9 + 9)))}" for n in range(9)),
        "gopher: words with a letter",
        "",
    ),
    "no stop words": (f"{NAMES}.", "gopher: stop words", ""),
    "repeated lines": (lines(10) + "\nAn end." * 7, "gopher: repeated lines", ""),
    "repeated paragraphs": (
        sentences(12, separator="\n\n").replace(" and", "\nand") + "\n\nYes" * 7,
        "gopher: repeated paragraphs",
        "",
    ),
    "characters in repeated lines": (
        f"{lines(15)}\n" + f"{sentences(4, 40)}\n" * 3,
        "gopher: characters in repeated lines",
        "",
    ),
    "two words again and again": (
        " ".join(f"{sentence(n)} {word(n + 900)} cardiac disease." for n in range(30)),
        "gopher: top 2-gram",
        "",
    ),
    "a sentence again and again": (
        " ".join(f"{sentence(n)} {sentences(1, 90 + n % 5)}" for n in range(10)),
        "gopher: repeated 5-grams",
        "",
    ),
    "a line again": (f"{lines(32)}\n" + f"{sentences(5, 40)}\n" * 2, "", REPEATED),
    "few sentences": (GOOD.replace(". ", ", "), "", "c4: sentences"),
    "a curly bracket": (f"{GOOD} if x {{ y }}.", "", "c4: curly brackets"),
    "filler": (f"{GOOD} Lorem ipsum dolor sit amet.", "", "c4: lorem ipsum"),
    "lines without an end": (lines(30).replace(".", ""), "", "fineweb: lines with an end"),
    "short lines": (
        lines(30).replace(" and", ".\nand"),
        "",
        "fineweb: short lines",
    ),
}  # fmt: skip
"""Text, rule of ``gopher``, rule of ``fineweb`` where ``gopher`` has none."""
