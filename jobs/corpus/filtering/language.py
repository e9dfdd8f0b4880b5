"""Language of a document: as its record declares it, else detected from its text.

py3langid detects it: of 4,010 English texts about medicine (MedQuAD, PubMedQA) and 18 paragraphs
in nine other languages it mistook none, with a model of 5 MB and no random part. langdetect, which
MEDITRON used, and lingua, with 96 MB of models, mistook none either, at an eighth of its speed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from functools import cache
from typing import Any

FIRST_CHARS = 10_000
"""Of a text, among which its language is detected. MEDITRON read 10,000 of guidelines and 2,000 of
papers; the first 2,000 of a paper in Spanish are often its abstract in English.
"""

READ_CHARS = 4_000
"""The last ones of these, by which it is detected."""

ENGLISH = frozenset(["the", "of", "and", "with", "from", "that", "were", "which"])
ENGLISH_SHARE = 0.08
"""Share of ENGLISH among the words of a text from which it is in English without a closer look; in
no other language are there so many. 99 % of the texts above reach it, ten times as fast.
"""

LEAST = 0.02
"""Probability of all wanted languages together, over that of the likeliest one, below which a text
is dropped: texts that are hardly language, such as names of bacteria and values of laboratories,
stay. The least of texts of that kind in English had 0.066; paragraphs in other languages have less
than 0.0001.
"""

REFERENCE = re.compile(r"\[(bib_ref|fig_ref)\].*?\[/\1\]")
"""Titles of cited works are often in English."""

OTHER = frozenset({"la", "vo"})
"""Languages that are not detected: names in anatomy and biology are Latin, and what looks like
Volapük is a list of values.
"""

THREE_LETTERS = {
    "afr": "af", "alb": "sq", "sqi": "sq", "ara": "ar", "arm": "hy", "hye": "hy", "aze": "az",
    "baq": "eu", "eus": "eu", "bel": "be", "ben": "bn", "bos": "bs", "bul": "bg", "cat": "ca",
    "chi": "zh", "zho": "zh", "hrv": "hr", "cze": "cs", "ces": "cs", "dan": "da", "dut": "nl",
    "nld": "nl", "eng": "en", "epo": "eo", "est": "et", "fao": "fo", "fin": "fi", "fre": "fr",
    "fra": "fr", "geo": "ka", "kat": "ka", "ger": "de", "deu": "de", "gle": "ga", "glg": "gl",
    "gre": "el", "ell": "el", "heb": "he", "hin": "hi", "hun": "hu", "ice": "is", "isl": "is",
    "ind": "id", "ita": "it", "jpn": "ja", "kaz": "kk", "kor": "ko", "kur": "ku", "lat": "la",
    "lav": "lv", "lit": "lt", "mac": "mk", "mkd": "mk", "mal": "ml", "may": "ms", "msa": "ms",
    "nor": "no", "per": "fa", "fas": "fa", "pol": "pl", "por": "pt", "pus": "ps", "rum": "ro",
    "ron": "ro", "rus": "ru", "san": "sa", "slo": "sk", "slk": "sk", "slv": "sl", "spa": "es",
    "srp": "sr", "swe": "sv", "tam": "ta", "tha": "th", "tur": "tr", "ukr": "uk", "urd": "ur",
    "uzb": "uz", "vie": "vi", "wel": "cy", "cym": "cy",
}  # fmt: skip
"""ISO 639-1 codes of ISO 639-2 codes in both forms, those that PubMed has (https://www.nlm.nih.gov/
bsd/language_table.html); not ``mul`` and ``und``.
"""

KNOWN = frozenset(THREE_LETTERS.values())


def declared(values: Iterable[Any]) -> set[str]:
    """Return the languages that a record declares as ISO 639-1 codes, those that are known:
    ``eng``, ``EN`` and ``en-GB`` are ``en``; ``go`` and ``python`` are none.
    """
    codes = {re.split("[-_]", str(value).strip().lower())[0] for value in values}
    return {THREE_LETTERS.get(code, code) for code in codes} & KNOWN


def detect(text: str, wanted: Collection[str]) -> str:
    """Return the language of a text that is in none of the wanted ones, with its probability, as
    ``fr 0.98``; empty where it may be in one of them.
    """
    start = part(text)
    words = start.split()
    if "en" in wanted and sum(map(ENGLISH.__contains__, words)) > ENGLISH_SHARE * len(words):
        return ""
    ranked = identifier().rank(start)
    probability = dict(ranked)
    likeliest, highest = ranked[0]
    if sum(probability.get(language, 0.0) for language in wanted) >= LEAST * highest:
        return ""
    return f"{likeliest} {highest:.2f}"


def part(text: str) -> str:
    """Return the part of a text by which its language is detected, without mentions of works."""
    start = text[:FIRST_CHARS]
    if "ref]" in start:
        start = REFERENCE.sub(" ", start)
    return start[-READ_CHARS:]


@cache
def identifier() -> Any:
    """Return py3langid's model, for the languages with an ISO 639-1 code."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    model.set_languages([name for name in model.labels if len(name) == 2 and name not in OTHER])
    return model
