"""Rules of quality, in presets by name. A rule measures a text and has bounds; no rule changes it.

``gopher``: Rae et al. 2021, arXiv 2112.11446, appendix A.1.1, "Quality Filtering" and table A1.
``fineweb``: Penedo et al. 2024, arXiv 2406.17557: Gopher's rules, those of C4 (Raffel et al. 2020,
arXiv 1910.10683, section 2.2) that drop whole documents, and the three of section 3.6.
``abstracts``: ours, for abstracts and other short texts: it drops placeholders (``No abstract
available``), stubs, tables, garbage, and texts of which most is repeated. Of 1,000 abstracts of
PubMedQA and 3,010 documents of MedQuAD it drops none and 2, of which three quarters are repeated
lines; Gopher's rules drop 15 and 189, FineWeb's 33 and 191: lists and studies full of numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from jobs.corpus.filtering import measures
from jobs.corpus.filtering.measures import Text


class Rule(NamedTuple):
    """A rule: what it measures, and the values that stay."""

    name: str
    measure: Callable[[Text], float]
    least: float = -math.inf
    most: float = math.inf

    @property
    def bounds(self) -> str:
        if self.least == -math.inf:
            return f"at most {self.most:,}"
        return f"{self.least:,} to {self.most:,}" if self.most < math.inf else f"{self.least:,} up"


GOPHER = (
    Rule("gopher: words", measures.words, 50, 100_000),
    Rule("gopher: mean word length", measures.word_length, 3, 10),
    Rule("gopher: hashes per word", measures.hashes, most=0.1),
    Rule("gopher: ellipses per word", measures.ellipses, most=0.1),
    Rule("gopher: lines with a bullet", measures.bullet_lines, most=0.9),
    Rule("gopher: lines ending in an ellipsis", measures.ellipsis_lines, most=0.3),
    Rule("gopher: words with a letter", measures.alphabetic_words, 0.8),
    Rule("gopher: stop words", measures.stop_words, 2),
    Rule("gopher: repeated lines", measures.repeated_lines, most=0.3),
    Rule("gopher: repeated paragraphs", measures.repeated_paragraphs, most=0.3),
    Rule("gopher: characters in repeated lines", measures.repeated_line_characters, most=0.2),
    Rule(
        "gopher: characters in repeated paragraphs",
        measures.repeated_paragraph_characters,
        most=0.2,
    ),
    *(
        Rule(f"gopher: top {count}-gram", partial(measures.top_run, count=count), most=share)
        for count, share in ((2, 0.20), (3, 0.18), (4, 0.16))
    ),
    *(
        Rule(
            f"gopher: repeated {count}-grams",
            partial(measures.repeated_runs, count=count),
            most=share,
        )
        for count, share in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
    ),
)

C4 = (
    Rule("c4: sentences", measures.sentences, 5),
    Rule("c4: curly brackets", measures.curly_brackets, most=0),
    Rule("c4: lorem ipsum", measures.lorem_ipsum, most=0),
)
"""C4's other rules drop lines, which would change a text."""

FINEWEB = (
    Rule("fineweb: lines with an end", measures.ended_lines, 0.12),
    Rule("fineweb: characters in repeated lines", measures.repeated_line_characters, most=0.1),
    Rule("fineweb: short lines", measures.short_lines, most=0.67),
)

ABSTRACTS = (
    Rule("abstracts: placeholders", measures.placeholders, most=0),
    Rule("abstracts: words", measures.words, 20),
    Rule("abstracts: mean word length", measures.word_length, 3, 12),
    Rule("abstracts: letters", measures.letters, 0.5),
    Rule("abstracts: characters in repeated lines", measures.repeated_line_characters, most=0.5),
)

PRESETS: dict[str, tuple[Rule, ...]] = {
    "none": (),
    "gopher": GOPHER,
    "fineweb": (*GOPHER, *C4, *FINEWEB),
    "abstracts": ABSTRACTS,
}
"""Values of ``SourceSpec.quality``; rules are checked in their order."""

RULES = tuple(dict.fromkeys(rule.name for rules in PRESETS.values() for rule in rules))
"""Names of all rules."""


def first_broken(preset: str, text: str) -> tuple[str, str] | None:
    """Return the first rule of a preset that a text breaks, by name, and the value that it has, as
    ``2.1 of 3 to 10``; None where it keeps all.
    """
    parts = Text(text)
    for rule in PRESETS[preset]:
        value = rule.measure(parts)
        if not rule.least <= value <= rule.most:
            return (
                rule.name,
                f"{round(value, 3):,} of {rule.bounds}",
            )
    return None
