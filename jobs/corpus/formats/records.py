"""Make documents of records with keys: lines of JSON, rows of parquet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

import orjson

from jobs.corpus.document import Document, identifiers

NAMES = {
    "pmid": "pmid",
    "pmcid": "pmcid",
    "doi": "doi",
    "corpusid": "corpusid",
    "corpus_id": "corpusid",
}
"""Keys of the names of a work, in small letters."""

META = {
    "licence": "licence",
    "license": "licence",
    "max_stars_repo_licenses": "licence",
    "date": "date",
    "timestamp": "date",
    "publicationdate": "date",
    "url": "url",
    "source": "source",
    "language": "languages",
    "languages": "languages",
    "types": "types",
    "publicationtypes": "types",
    "journal": "journal",
    "mesh": "mesh",
}
"""What ``meta`` takes of a record, by its key in small letters."""

LISTS = ("languages", "types", "mesh")
"""Of META, what is a list; a string stands for a list of it alone."""

TITLE = "title"
REPOSITORY, FILE = "max_stars_repo_name", "max_stars_repo_path"
"""Keys of StarCoder's records, which number the files of each language from 0."""

COLUMNS = frozenset({*NAMES, *META, TITLE, "meta", REPOSITORY, FILE})
"""What is read of a parquet file beside text and id, in small letters."""


def document(value: Mapping[str, Any], text: str, id_key: str) -> Document:
    """Return the document of a record, its text as it is written.

    Args:
        value: the record.
        text: of the document.
        id_key: of its id: a string or an integer; other values are none.
    """
    title = value.get(TITLE) or inside(value).get(TITLE)
    return Document(
        id=_in_repository(value) or name_of(value.get(id_key)),
        title=title if isinstance(title, str) else "",
        text=text,
        names=identifiers(_names(value)),
        meta=meta(value),
        is_marked=False,
    )


def _in_repository(value: Mapping[str, Any]) -> str:
    """Return the path of a file of a public repository; empty for other records."""
    parts = (value.get(REPOSITORY), value.get(FILE))
    return "/".join(part for part in parts if isinstance(part, str)) if all(parts) else ""


def name_of(value: Any) -> str:
    """Return a name that is a string or an integer; empty for anything else."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def _names(value: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, found in value.items():
        if kind := NAMES.get(key.lower()):
            yield kind, name_of(found)


def inside(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the object ``meta`` of a record, which may be a string of JSON; empty without any."""
    found = value.get("meta")
    if isinstance(found, str):
        try:
            found = orjson.loads(found)
        except orjson.JSONDecodeError:
            return {}
    return found if isinstance(found, dict) else {}


def meta(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return what META names, of the record and of an object ``meta`` inside it: strings, lists of
    strings, times in ISO 8601, several licences as one string.
    """
    found: dict[str, Any] = {}
    for place in (value, inside(value)):
        for key, item in place.items():
            kind = META.get(key.lower(), "")
            if isinstance(item, date):  # Falcon's column of times
                item = item.isoformat()
            if kind == "licence" and isinstance(item, list):
                item = ", ".join(part for part in item if isinstance(part, str))
            if kind in LISTS and isinstance(item, str):
                item = [item]
            is_list = isinstance(item, list) and all(isinstance(part, str) for part in item)
            if item and (is_list if kind in LISTS else kind and isinstance(item, str)):
                found.setdefault(kind, item)
    return found
