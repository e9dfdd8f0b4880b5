"""Read clinical guidelines: published ones, and pages that were scraped, which are cleaned here.

Layouts: ``hf://datasets/epfl-llm/guidelines``, and what the scrapers of MEDITRON
write (arXiv 2311.16079, appendix B.1). A published record has ``clean_text``, which is taken as it
is; ``text_key: raw_text`` makes it again of the page. A page is Markdown, or an object with the
text of each section. Cleaning removes addresses, tags, links, numbers of references and decoration,
and gives lists and headings one form. It removes nothing that may be a value: an interval in
brackets, ``p<0.05 and OR>2``, a line that begins with "o" or ">140/90".
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any

from jobs.contract.corpus.rules import SourceSpec
from jobs.corpus.document import Document, Rejected
from jobs.corpus.formats import records
from jobs.corpus.formats.xml_text import index
from jobs.corpus.marked_text import plain

PAGES = ("raw_text", "text", "content")
"""Keys of a page that is to be cleaned; the first that holds text counts."""

ADDRESS = r"(?:https?|ftp)://[^\s<>\[\]()]+|\bwww\.[\w.-]+\.[a-z]{2,}(?:/[^\s<>\[\]()]*)?"
WHOLE = rf"<?(?:{ADDRESS})(?<![.,;:!?])>?"
GAP = r"(?<![ \t])[ \t]*"
END = r"(?=[.,;:!?]*(?:[\s)\]]|$))"
URL = re.compile(rf"{GAP}\(\s*{WHOLE}\s*\)|{GAP}{WHOLE}{END}|{WHOLE}")
IMAGE = re.compile(r"!\[[^\[\]\n]*\]\([^()\s]*(?:\([^()\s]*\)[^()\s]*)*(?:\s+\"[^\"\n]*\")?\)")
LINK = re.compile(r"\[([^\[\]\n]*)\]\((?:[^()\s]*(?:\([^()\s]*\)[^()\s]*)*)(?:\s+\"[^\"\n]*\")?\)")
LINKED = re.compile(r"(?i)\((?:\)|[a-z][a-z+.-]*:|[/#?]|\.{1,2}/|[^\s\"]*[a-z]\.[a-z]{2,})")
"""The address of a link: "[18F](2.5)" has none."""

ATTRIBUTES = r"(?:\s+[\w:-]+\s*=\s*(?:\"[^\"]*\"|'[^']*'))*\s*/?"
LINE_TAGS = "p|br|div|li|ul|ol|tr|table|tbody|thead|h[1-6]|hr|section|article"
TAG = re.compile(
    rf"(?i)<(/?)({LINE_TAGS}|td|th|a|b|i|u|em|strong|span|font|small|img|code)({ATTRIBUTES})>"
)
INDEX = re.compile(r"(?i)(\S?)<(sup|sub)>([^<>\n]*)</\2>(?=(\S?))")
ENTITY = re.compile(r"&(?:#\d{2,6}|#x[\da-f]{2,5}|[a-z][a-z\d]{1,30});", re.IGNORECASE)
COMMENT = re.compile(r"<!--(?:(?!<!--).)*?-->", re.DOTALL)

CITED = r"\[(?:\d{1,3}(?:\s*[,;\u2013-]\s*\d{1,3})*)\]"
CITATIONS = re.compile(rf"(?<=[^\W\d]|[.,;:)\"\u201d])(?: ?{CITED})+(?![\w(])")
"""Numbers of references in brackets, behind a letter or a mark of punctuation."""
INTERVAL = re.compile(r"\[\d+\s*[,;\u2013-]\s*\d+\]")
VALUE = re.compile(r"(?i)\d|\b(?:range|interval|iqr|ci|score|scale|median|mean|scored|between)\b")
"""What stands in front of an interval of integers."""
WINDOW = 24
"""Characters in front of brackets in which VALUE makes an interval of two integers."""

BULLET = re.compile(r"(?m)^([ \t]*)(?:[•◆▪■□●\uf0b7]\s*|\*[ \t]+|o[ \t]+|\+[ \t]+(?!\d))")
INLINE_BULLET = re.compile(r"(?<=\s)[•\uf0b7][ \t]+(?!\d)")
BOLD = re.compile(r"(?<!\d)\*\*(?=\S)([^*\n]+?)(?<=\S)\*\*(?!\d)")
DECORATION = re.compile(r"(?<!\S)[◆▪■□\ue031\uf0b7]+(?!\S)|(?<!\d)\ufffd(?!\d)")
QUOTE = re.compile(r"(?m)^[ \t]*>[ \t]+(?!\d)")
HEADING = re.compile(r"(?m)^[ \t]*(#+)[ \t]*(?=[^\W\d]|[ \t]\S)[ \t]*")
MAX_LEVEL = 3
WITHOUT_TEXT = re.compile(r"[\s!-/:-@\[-`{-~\u2010-\u2015\u2022\u00b7]*")
"""A line of marks of punctuation."""


def item_of(value: Mapping[str, Any], source: SourceSpec) -> Document | Rejected:
    """Return a record as a document, or why it cannot be one."""
    identity = records.name_of(value.get("id"))
    title = next((value[key] for key in ("title", "name") if isinstance(value.get(key), str)), "")
    title = " ".join(plain(title).split())
    text = value.get("clean_text")
    if not isinstance(text, str) or source.text_key in PAGES[:1]:
        page = next((value[key] for key in PAGES if value.get(key)), None)
        if page is None and not any(key in value for key in (*PAGES, "clean_text")):
            keys = ", ".join(map(repr, ("clean_text", *PAGES)))
            return Rejected(identity, f"none of the keys {keys}")
        text = _page(page)
        if text is None:
            return Rejected(identity, "the page is neither text nor an object of sections")
    text = plain(text).strip()
    if not text:
        return Rejected(identity)
    if title and not text.lstrip("# ").casefold().startswith(title.casefold()):
        text = f"{title}\n\n{text}"
    overview = value.get("overview")
    if isinstance(overview, str) and plain(overview).strip() not in text:
        first, _, rest = text.partition("\n") if title else ("", "", text)
        text = f"{first}\n\n{plain(overview).strip()}\n\n{rest.lstrip()}".strip()
    return Document(identity, title, text, meta=_meta(value))


def _page(page: Any) -> str | None:
    """Return a page, cleaned; None for what is no page."""
    if isinstance(page, dict):
        sections = ((str(name), text) for name, text in page.items() if isinstance(text, str))
        page = "\n\n".join(f"# {name}\n\n{text}" for name, text in sections)
    return clean(page) if isinstance(page, str) else "" if page is None else None


def _meta(value: Mapping[str, Any]) -> dict[str, Any]:
    urls = value.get("urls")
    first = urls[0] if isinstance(urls, list) and urls else ""
    return records.meta({**value, "url": value.get("url") or first})


def clean(text: str) -> str:
    """Return a page without what is no text of the guideline."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "[" in text:
        text = LINK.sub(_link, IMAGE.sub("", text))
    if "://" in text or "www." in text.lower():
        text = URL.sub("", text)
    if "<" in text:
        text = TAG.sub(_tag, INDEX.sub(_index, COMMENT.sub(" ", text)))
    if "&" in text:
        text = plain(ENTITY.sub(lambda match: html.unescape(match[0]), text))
    if "*" in text:
        text = BOLD.sub(r"\1", text)
    if "[" in text:
        text = CITATIONS.sub(_citations, text)
    text = INLINE_BULLET.sub("- ", BULLET.sub(r"\1- ", text))
    text = DECORATION.sub("", QUOTE.sub("", text))
    return _lines(_levels(text))


Match = re.Match[str]


def _link(match: Match) -> str:
    """Return the text of a link; what has no address in parentheses stays."""
    return match[1] if LINKED.search(match[0][len(match[1]) + 2 :]) else match[0]


def _tag(match: Match) -> str:
    if re.fullmatch(LINE_TAGS, match[2], re.IGNORECASE):
        return "\n"
    return " " if match[2].lower() in ("td", "th") else ""


def _index(match: Match) -> str:
    before, name, text, after = match.groups()
    return f"{before}{index(name.lower(), text.strip(), before or ' ', after or ' ')}"


def _citations(match: Match) -> str:
    """Return nothing but for what may be an interval of values."""
    before = match.string[max(0, match.start() - WINDOW) : match.start()]
    is_value = INTERVAL.search(match[0]) and VALUE.search(re.sub(CITED, "", before))
    return match[0] if is_value or "[0" in match[0] else ""


def _levels(text: str) -> str:
    """Return a page whose headings begin at the first level and have three at most."""
    lowest = min((len(match[1]) for match in HEADING.finditer(text)), default=1)
    return HEADING.sub(lambda match: "#" * min(len(match[1]) - lowest + 1, MAX_LEVEL) + " ", text)


def _lines(text: str) -> str:
    """Return a page without lines that have neither letters nor digits, and with blank lines in
    front of headings alone.
    """
    lines = (line.rstrip() for line in text.split("\n"))
    kept = (line for line in lines if not WITHOUT_TEXT.fullmatch(line))
    return "\n".join(f"\n{line}" if line.startswith("#") else line for line in kept).strip()
