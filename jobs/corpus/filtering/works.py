"""Kinds of works, by the metadata of their records: publication types and MeSH headings of PubMed,
``article-type`` and related articles of JATS.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

BETWEEN_WORDS = re.compile("[-_]|(?<=[a-z])(?=[A-Z])")

RETRACTED_TYPES = frozenset(
    {
        "retracted publication",
        "retraction of publication",
        "retraction notice",
        "retraction",
        "retracted article",
        "partial retraction",
    }
)
"""The work itself, or the notice about it."""

RETRACTED_RELATIONS = frozenset({"retraction forward", "retracted article", "partial retraction"})
"""Of JATS's ``related-article-type``: a retracted article names its notice by the first, a notice
what it retracts by the others.
"""

RETRACTED_TITLES = ("retracted:", "retracted article:", "[retracted]")
"""Beginnings of titles, in small letters; publishers change the title of a retracted article."""


def kind(value: Any) -> str:
    """Return a publication type as it is compared: ``meta analysis`` for ``Meta-Analysis`` of
    PubMed, ``meta-analysis`` of JATS and ``MetaAnalysis`` of Semantic Scholar.
    """
    return " ".join(BETWEEN_WORDS.sub(" ", str(value)).lower().split())


def values(meta: Mapping[str, Any], key: str) -> Sequence[Any]:
    """Return the values of a key of metadata; none where it holds no list."""
    found = meta.get(key)
    return found if isinstance(found, list | tuple) else ()


def retracted(title: str, meta: Mapping[str, Any]) -> Iterator[str]:
    yield from (
        f"type {value}" for value in values(meta, "types") if kind(value) in RETRACTED_TYPES
    )
    for value in values(meta, "related"):
        if kind(value) in RETRACTED_RELATIONS:
            yield f"related article {value}"
    if title.lower().startswith(RETRACTED_TITLES):
        yield f"title {title[:60]}"


def preprint(title: str, meta: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"type {value}" for value in values(meta, "types") if kind(value) == "preprint")


def animals(title: str, meta: Mapping[str, Any]) -> Iterator[str]:
    """Yield the heading ``Animals``: MEDITRON's rule, also for works about humans as well."""
    yield from (f"MeSH {name}" for name in values(meta, "mesh") if kind(name) == "animals")


def veterinary(title: str, meta: Mapping[str, Any]) -> Iterator[str]:
    """Yield publication types such as ``Observational Study, Veterinary``."""
    found = (str(value) for value in values(meta, "types"))
    yield from (f"type {value}" for value in found if "veterinary" in value.lower())


KINDS: dict[str, Callable[[str, Mapping[str, Any]], Iterator[str]]] = {
    "retracted": retracted,
    "preprint": preprint,
    "animals": animals,
    "veterinary": veterinary,
}
"""Values of ``CorpusRules.drop``, and how a work of that kind is recognised."""
