"""MEDITRON's score of works, by which good evidence is read more often.

arXiv 2311.16079, table 10 and appendix B.4 ("PMC Upsampled"): the points of all publication types,
one for a journal of a list, and, only where these are more than zero, those of age and citations.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import date
from typing import Any

from jobs.contract.corpus.rules import CorpusRules
from jobs.corpus.document import Document
from jobs.corpus.filtering.chance import drawn
from jobs.corpus.filtering.works import kind, values

POINTS = {
    "guideline": 1.0,
    "practice guideline": 1.0,
    "patient education handout": 1.0,
    "meta analysis": 1.0,
    "systematic review": 0.8,
    "clinical trial, phase iv": 0.8,
    "clinical trial, phase iii": 0.6,
    "clinical trial, phase ii": 0.4,
    "clinical trial, phase i": 0.2,
    "randomized controlled trial": 0.5,
    "review": 0.5,
    "review article": 0.5,
    "observational study": 0.5,
    "comparative study": 0.5,
    "clinical study": 0.4,
    "editorial": 0.1,
    "letter": 0.1,
    "comment": 0.1,
    "article commentary": 0.1,
    "letters and comments": 0.1,
}
"""Points of publication types of PubMed, JATS and Semantic Scholar, as ``works.kind`` has them."""

AGES = ((round(365 * 5.5), 1.0), (3650, 0.2))
"""Days up to which a work is so young, and its points."""

CITED = (0.0, 0.5, 1.0)
"""Points of citations per year in the lowest quarter of all works, between, in the highest."""

PUNCTUATION = re.compile("[:,.-]")


def copies(document: Document, identity: str, rules: CorpusRules) -> int:
    """Return how often a document is written: once, and ``rules.upsample`` times its score more.

    A fraction is rounded up with its own probability, drawn from the id: 1.3 is 2 for three ids in
    ten, the same ones in every run with the seed.
    """
    if not rules.upsample:
        return 1
    exact = 1 + score(document, rules) * rules.upsample
    return int(exact + drawn("copy", identity, rules.seed))


def score(document: Document, rules: CorpusRules) -> float:
    """Return the points of a document's work."""
    meta = document.meta
    points = sum(POINTS.get(name, 0.0) for name in {kind(name) for name in values(meta, "types")})
    points += is_listed(meta.get("journal"), rules.upsample_journals)
    days = age(meta.get("date"), date.fromisoformat(rules.upsample_date))
    if points <= 0 or days is None:
        return points
    points += next((given for most, given in AGES if days <= most), 0.0)
    return points + citation_points(meta.get("citations"), days, rules.upsample_citations)


def is_listed(journal: Any, journals: Collection[str]) -> bool:
    """Return whether a journal is in a list, whatever the case and punctuation of both."""
    return isinstance(journal, str) and bare(journal) in set(map(bare, journals))


def bare(journal: str) -> str:
    return PUNCTUATION.sub("", journal).lower()


def age(day: Any, reference: date) -> int | None:
    """Return the days from a date such as ``2018-05-17``, ``2018-05`` or ``2018``, of which the
    first day counts, to another; None without a date.
    """
    parts = str(day or "").split("-")
    try:
        year, month, first = (int(part) for part in [*parts, *"11"][:3])
        return (reference - date(year, month, first)).days
    except ValueError:
        return None


def citation_points(count: Any, days: int, quarters: Collection[float]) -> float:
    """Return the points of a number of citations.

    Args:
        count: of all citations; nothing else than an integer counts.
        days: since publication.
        quarters: citations per year of the best work in the lowest quarter, and of the last below
            the highest; none gives no points.
    """
    if not quarters or not isinstance(count, int):
        return 0.0
    per_year = count / (max(days, 0) // 365 + 1)
    return CITED[sum(per_year > limit for limit in quarters)]
