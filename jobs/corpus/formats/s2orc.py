"""Read the records of Semantic Scholar's bulk data sets: full texts (``s2orc``, ``s2orc_v2``) and
abstracts, with the keys of ``papers`` where they were joined.

Layout: https://api.semanticscholar.org/api-docs/datasets. A full text is one string, annotated by
begin and end of paragraphs, headings, references and figures; the annotations are strings of JSON.
The text follows MEDITRON's (arXiv 2311.16079, appendix B.2.1): title, headings with ``#`` and
``##``, references, captions and formulas between markup tokens; no authors, affiliations,
bibliography, bodies of figures and tables, and nothing in front of the abstract.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from jobs.contract.corpus.rules import SourceSpec
from jobs.corpus.document import Document, Rejected, identifiers
from jobs.corpus.formats import records
from jobs.corpus.formats.references import first_clause, tidy, work
from jobs.corpus.formats.xml_text import one_line
from jobs.corpus.marked_text import block, inline, plain

MAIN_HEADINGS = (
    "abstract",
    "introduction",
    "background",
    "related",
    "method",
    "material",
    "result",
    "analysis",
    "discussion",
    "conclusion",
    "contribution",
    "statement",
    "declaration",
    "strength",
    "limitation",
    "future research",
    "funding",
    "disclosure",
    "acknowledgment",
    "ethical",
    "tables",
    "figures",
    "appendix",
)
"""A heading of up to three words with one of these is of the first level, unless its number shows
another.
"""

KINDS = {
    "figure": "figure",
    "table": "figure",
    "title": "nothing",
    "author": "nothing",
    "authoraffiliation": "nothing",
    "authorfirstname": "nothing",
    "authorlastname": "nothing",
    "bibentry": "nothing",
    "sectionheader": "heading",
    "formula": "formula",
    "bibref": "citation",
    "figureref": "mention",
    "tableref": "mention",
    "paragraph": "paragraph",
}
"""What is written for each kind of annotation. Of two that overlap the one that begins first
counts, of those that begin together the longer one, then the first of this table."""

EXTERNAL = {"pubmed": "pmid", "pubmedcentral": "pmcid", "doi": "doi"}
FLOAT = re.compile(
    r"(?i)^\W*(fig(?:ure|\.)?|tab(?:le|\.)?)s?\b\W*(s?\d+(?:[.-]\d+)*[a-z]?\b)?[\s.:)]*"
)
"""Name and number of a figure or table at the beginning of its caption."""
NUMBER = re.compile(r"^(\d{1,2})[\s.:)]+(?=[A-Z])")
"""Of a figure, at the beginning of a caption whose name stands in front of it."""
CONTINUED = re.compile(r"(?i)^\W*cont(inued|['.\u2019]d)\b")
EXPONENT = re.compile(r"[\u00d7x*\u00b7]\s?10\s?$")
"""Before a number that was taken for a reference: 3 x 10 9 /L."""
UNIT = re.compile(
    r"\s?(?:%|°|(?:[kmµ\u03bcn]?g|mcg|[mdµ\u03bc]?[lL]|[mµ\u03bcn]?mol|[mµ\u03bcn]?M|I?U|mmHg|[cm]m|kDa|Hz)\b)"
)
"""Behind a number that was taken for a reference: 5 mg."""
BULLET = re.compile(r"(?m)^[ \t]*•\s*|(?<=\s)•\s+(?!\d)")
WORDS = re.compile(r"[A-Z][A-Z &,/]*")
BRACKETS = {"(": ")", "[": "]"}


class Annotation(NamedTuple):
    """A part of a text."""

    begin: int
    end: int
    attributes: Mapping[str, Any]


class BadAnnotation(ValueError):
    """An annotation that does not fit the text: its places cannot be relied on."""


def item_of(value: Mapping[str, Any], source: SourceSpec) -> Document | Rejected:
    """Return a record as a document, or why it cannot be one; the source's keys do not matter."""
    identity = records.name_of(value.get("corpusid"))
    if not identity:
        return Rejected("", "no key 'corpusid' with a number, as Semantic Scholar's records have")
    body = value.get("content") or value.get("body")
    try:
        if isinstance(body, dict):
            return _full_text(identity, value, body)
    except BadAnnotation as error:
        return Rejected(identity, str(error))
    abstract = next((value[key] for key in ("abstract", "text") if value.get(key)), "")
    if not isinstance(abstract, str):
        return Rejected(identity, "neither 'content' nor 'body' is an object, nor 'abstract' text")
    title, text = _title(value), plain(abstract)
    if title and text.strip():
        text = f"{title}\n{text}"
    return Document(identity, title, text, _names(value), _meta(value), is_abstract=True)


def _full_text(identity: str, value: Mapping[str, Any], body: Mapping[str, Any]) -> Document:
    text = body.get("text")
    if not isinstance(text, str) or not text.strip():
        return Document(identity, _title(value), "", _names(value), _meta(value))
    article = Article(text, body.get("annotations"))
    listed = value.get("bibliography")
    if isinstance(listed, dict) and isinstance(listed.get("text"), str):
        article.cited = Article(listed["text"], listed.get("annotations")).works()
    title = _title(value) or article.title()
    built = article.text()
    whole = f"{title}\n\n{built}" if title else built
    return Document(identity, title, whole, _names(value), _meta(value))


def _title(value: Mapping[str, Any]) -> str:
    title = value.get("title")
    return one_line(plain(title)).strip() if isinstance(title, str) else ""


def _names(value: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of a work, from the record and its information on open access."""
    access = value.get("openaccessinfo")
    places = [value, access if isinstance(access, dict) else {}]
    found = [("corpusid", records.name_of(value.get("corpusid")))]
    for place in places:
        inner = place.get("externalids")
        for key, name in inner.items() if isinstance(inner, dict) else ():
            if kind := EXTERNAL.get(key.lower()):
                found.append((kind, records.name_of(name)))
    return identifiers(found)


def _meta(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of a work."""
    found = records.meta(value)
    content = value.get("content")
    source = content.get("source") if isinstance(content, dict) else None
    for access in (value.get("openaccessinfo"), isinstance(source, dict) and source.get("oainfo")):
        if isinstance(access, dict):
            found = {**records.meta(access), **found}
    journal = value.get("journal")
    name = journal.get("name") if isinstance(journal, dict) else value.get("venue")
    if isinstance(name, str) and name:
        found.setdefault("journal", name)
    if isinstance(value.get("year"), int):
        found.setdefault("date", str(value["year"]))
    if isinstance(value.get("citationcount"), int):
        found["citations"] = value["citationcount"]
    return found


class Article:
    """A full text with its annotations."""

    def __init__(self, text: str, annotations: Any) -> None:
        self.raw = text
        self.found: dict[str, list[Annotation]] = {}
        named = annotations if isinstance(annotations, dict) else {}
        for name, value in named.items():
            kind = name.replace("_", "").lower()
            self.found[kind] = list(_annotations(kind, value, len(text)))
        self.cited = self.works()
        self.floats = {
            str(found.attributes["id"]): self.float(found)
            for kind in ("table", "figure")
            for found in self.found.get(kind, ())
            if "id" in found.attributes
        }
        self._written: set[tuple[str, str]] = set()

    def part(self, place: Annotation) -> str:
        """Return an annotated part as one line."""
        return one_line(plain(self.raw[place.begin : place.end])).strip()

    def inside(self, kind: str, place: Annotation) -> str:
        """Return the first part of a kind inside another part; empty without any."""
        found = self.found.get(kind, [])
        at = bisect.bisect_left(found, place.begin, key=lambda item: item.begin)
        fits = at < len(found) and found[at].end <= place.end
        return self.part(found[at]) if fits else ""

    def title(self) -> str:
        """Return the title that the text contains; empty without any."""
        return self.part(self.found["title"][0]) if self.found.get("title") else ""

    def works(self) -> dict[str, str]:
        """Return the works of the bibliography, as mentions name them, by their ids."""
        return {
            str(entry.attributes["id"]): work(
                self.inside("bibtitle", entry), self.inside("bibauthorlastname", entry)
            )
            for entry in self.found.get("bibentry", ())
            if "id" in entry.attributes
        }

    def float(self, place: Annotation) -> tuple[str, str, str]:
        """Return the markup token, the name such as ``Figure 2``, and the caption of a figure or
        table.
        """
        found = self.found.get("figurecaption", [])
        at = bisect.bisect_left(found, place.begin, key=lambda item: item.begin)
        inside = at < len(found) and found[at].end <= place.end
        caption = self.part(found[at]) if inside else ""
        head = self.part(place._replace(end=found[at].begin)) if inside else ""
        known = place.attributes.get("figure_type") or place.attributes.get("id", "")
        name = "Table" if str(known).lower().startswith("tab") else "Figure"
        number = ""
        for text in (head, caption):
            if match := FLOAT.match(text):
                name = "Table" if match[1].lower().startswith("tab") else "Figure"
                number = number or match[2] or ""
        if (match := FLOAT.match(caption)) and match[2]:
            caption = caption[match.end() :]
        elif not number and head and (match := NUMBER.match(caption)):
            number, caption = match[1], caption[match.end() :]
        label = f"{name} {number.upper()}" if number else ""
        return ("table" if name == "Table" else "fig"), label, caption.strip()

    def text(self) -> str:
        """Return the text from the abstract or the first heading on, with marks."""
        abstract = self.found.get("abstract", [])
        headings = self.found.get("sectionheader", [])
        begin = min((place.begin for place in [*abstract[:1], *headings[:1]]), default=0)
        pieces = []
        if abstract and abstract[0].begin == begin and (not headings or headings[0].begin > begin):
            pieces.append("\n\n# Abstract\n")
        at = begin
        for place, kind in self._places():
            if place.begin < at:
                continue
            pieces.append(plain(self.raw[at : place.begin]))
            at = place.begin
            if kind == "paragraph":
                pieces.append("\n")
                continue
            if kind == "citation" and self._opens(place, pieces[-1][-1:]):
                pieces[-1] = pieces[-1][:-1]
            written, at = self.written(place, kind)
            pieces.append(written)
        pieces.append(plain(self.raw[at:]))
        return _lines("".join(pieces))

    def _places(self) -> list[tuple[Annotation, str]]:
        """Return the annotations that ``text`` writes, in the order in which it meets them."""
        found = [
            (place.begin, kind != "paragraph", -place.end, order, place, kind)
            for order, (name, kind) in enumerate(KINDS.items())
            for place in self.found.get(name, ())
        ]
        return [(place, kind) for *_, place, kind in sorted(found, key=lambda item: item[:4])]

    def written(self, place: Annotation, kind: str) -> tuple[str, int]:
        """Return what is written for an annotated part, and where the text continues."""
        text = self.part(place)
        if kind == "heading":
            return _heading(text, str(place.attributes.get("n", ""))), place.end
        if kind == "formula":
            return block("formula", text), place.end
        if kind == "figure":
            return self.caption(place), place.end
        if kind == "nothing":
            return "\n", place.end
        identity = str(place.attributes.get("ref_id", ""))
        as_it_is = plain(self.raw[place.begin : place.end])
        if kind == "mention":
            _, label, caption = self.floats.get(identity, ("", "", ""))
            named = ": ".join(filter(None, (label, first_clause(caption))))
            return (inline("fig_ref", named) if named else as_it_is), place.end
        if self._is_value(place):
            return as_it_is, place.end
        return inline("bib_ref", self.cited.get(identity, "")), self._closed(place)

    def _is_value(self, place: Annotation) -> bool:
        """Return whether a reference is a number in truth: an exponent, or one with a unit."""
        return bool(
            EXPONENT.search(self.raw, max(0, place.begin - 8), place.begin)
            or (self.part(place).isdecimal() and UNIT.match(self.raw, place.end))
        )

    def _closed(self, place: Annotation) -> int:
        """Return the end of a reference, its other bracket included where it begins with one."""
        text = self.raw[place.begin : place.end].strip()
        close = BRACKETS.get(text[:1], "")
        follows = close and close not in text and self.raw[place.end : place.end + 1] == close
        return place.end + bool(follows)

    def _opens(self, place: Annotation, before: str) -> bool:
        """Return whether a reference ends with the other bracket of the character before it."""
        text = self.raw[place.begin : place.end].strip()
        return before in BRACKETS and text.endswith(BRACKETS[before]) and before not in text

    def caption(self, place: Annotation) -> str:
        """Return the caption of a figure or table in full, once."""
        token, label, caption = self.float(place)
        is_known = (label, caption) in self._written
        self._written.add((label, caption))
        if is_known or not (label or caption) or CONTINUED.match(caption):
            return "\n"
        return block(token, ": ".join(filter(None, (label, caption))))


def _annotations(kind: str, value: Any, length: int) -> Iterator[Annotation]:
    """Yield the annotations of a kind, by their begin.

    Raises:
        BadAnnotation: they are no JSON, or one is not inside the text.
    """
    try:
        parsed = orjson.loads(value) if isinstance(value, str) and value else value or []
        found = [
            Annotation(int(item["start"]), int(item["end"]), item.get("attributes") or {})
            for item in parsed
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadAnnotation(f"the annotations {kind!r} are no list of places ({error})") from error
    for place in sorted(found, key=lambda item: (item.begin, -item.end)):
        if not 0 <= place.begin <= place.end <= length:
            raise BadAnnotation(
                f"an annotation {kind!r} from {place.begin} to {place.end}, the text has "
                f"{length} characters"
            )
        yield place


def _heading(text: str, number: str) -> str:
    """Return a heading; one in capitals that is of the usual ones gets small letters."""
    is_main = any(name in text.lower() for name in MAIN_HEADINGS)
    if is_main and WORDS.fullmatch(text):
        text = text.capitalize()
    if number.strip("."):
        level = 2 if "." in number.strip(".") else 1
    else:
        level = 1 if is_main and len(text.split()) <= 3 else 2
    return f"\n\n{'#' * level} {text}\n" if text else "\n"


def _lines(text: str) -> str:
    """Return a text without blank lines but those in front of headings."""
    written = (BULLET.sub("- ", text) if "•" in text else text).split("\n")
    lines = (one_line(tidy(one_line(line))).strip() for line in written)
    kept = (f"\n{line}" if line.startswith(("# ", "## ")) else line for line in lines if line)
    return "\n".join(kept).strip()
