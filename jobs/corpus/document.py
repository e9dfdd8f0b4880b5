"""Documents as readers yield them, before any filter."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

NUMBER = re.compile("[1-9][0-9]*")
IDENTIFIERS = {"pmid": NUMBER, "pmcid": NUMBER, "doi": re.compile("10[.].+/.+"), "corpusid": NUMBER}
"""Kinds of names of a work, with their form; the first that a document has becomes its ``work_id``.
Names of other forms, as ``0`` and ``N/A``, would join works.
"""

DOI_PREFIX = re.compile(r"^(?:https?://(?:dx\.)?doi\.org/|doi:\s*)")


@dataclass(frozen=True)
class Document:
    """One document of a source."""

    id: str
    """Of the record in its source, such as a PMID."""
    title: str
    text: str
    """Built with the marks of ``marked_text``, not finished; the title is its first line."""
    names: dict[str, str] = field(default_factory=dict)
    """Those of IDENTIFIERS that are known: an abstract and its full text share at least one."""
    meta: dict[str, Any] = field(default_factory=dict)
    """Licence, date, types, languages, journal; kept in the shards alone."""
    is_marked: bool = True
    """Whether the text is built with marks; False for one that is taken as it is."""
    is_versioned: bool = False
    """Whether a later record of its source with the same id replaces it, and a Removal drops it."""
    is_abstract: bool = False
    """Whether it is the abstract of a work alone: it is dropped where the full text is present."""

    @property
    def work_id(self) -> str:
        """Return the name of the work, with its kind; the document's own id without any."""
        return work_id(self.names) or f"id:{self.id}"


def work_id(names: Mapping[str, str]) -> str:
    """Return the name of a work with its kind, such as ``pmid:12``; empty without names."""
    known = next((kind for kind in IDENTIFIERS if kind in names), None)
    return f"{known}:{names[known]}" if known else ""


def identifiers(found: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return names of a work by their kinds, each written in one way, so that records of several
    sources agree; of several of a kind the first, and none that is no name.

    Args:
        found: kind, one of IDENTIFIERS, and name: ``PMC12`` is 12, and a DOI has no large letters.
    """
    names: dict[str, str] = {}
    for kind, text in found:
        name = text.strip()
        if kind == "pmcid":
            name = name.upper().removeprefix("PMC")
        elif kind == "doi":
            name = DOI_PREFIX.sub("", name.lower())
        if IDENTIFIERS[kind].fullmatch(name):
            names.setdefault(kind, name)
    return names


@dataclass(frozen=True)
class Removal:
    """A record that its source has deleted; what was read of it before is dropped."""

    id: str


@dataclass(frozen=True)
class Rejected:
    """A record that cannot become a document."""

    id: str
    """Empty where the record has none."""
    problem: str = ""
    """A sentence on what is wrong with it; empty where it only has no text."""


class Record(NamedTuple):
    """One document of a file, or what is there instead."""

    item: Document | Rejected | Removal
    line: int
    """From 1; of a parquet file the row, of XML the number of the article or citation."""
    position: int
    """Bytes of the file read so far (compressed bytes where it is compressed)."""
    raw: bytes = b""
    """A rejected record as it is written in a JSON file."""
