"""Read XML of others safely, and turn its inline elements into text that keeps every value."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from html.entities import html5
from typing import IO, Any

from lxml import etree

from jobs.corpus.marked_text import plain

SUPERSCRIPTS = str.maketrans("0123456789+-\u2212=()", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾")
SUBSCRIPTS = str.maketrans("0123456789+-\u2212=()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎")
SCRIPTED = re.compile("[0-9+\\-\u2212=()]+")
"""What has superscript and subscript characters of its own."""

ORDINALS = frozenset({"st", "nd", "rd", "th", "TM", "SM"})
"""Superscripts that are no exponents and stand on the line."""

WHITESPACE = re.compile("[\t\r\n][ \t\r\n]*| [ \t\r\n]+")
"""More than one space, or others: a single space stays as it is."""
HEAD_BYTES = 1 << 10
"""The root element is looked for in so many bytes at a time."""
INDENT = re.compile("[ \t]*\n\\s*$")
"""Of a pretty-printed file; in front of an index it is none of the text."""

KNOWN = {**html5, "Thetas;": "\u0398", "thetas;": "\u03b8"}
"""Named characters: HTML 5's, and two of MathML's first version that articles have."""

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class BadXml(ValueError):
    """XML that cannot be read, or whose text would be incomplete."""


SAFELY: dict[str, Any] = {
    "resolve_entities": False,
    "no_network": True,
    "load_dtd": False,
    "huge_tree": False,
    "remove_comments": True,
    "remove_pis": True,
}
"""Options of every parser: no entity is expanded, nothing is fetched, and trees stay bounded."""


def parse(content: bytes) -> etree._Element:
    """Parse a whole document.

    Raises:
        BadXml: not well-formed, or larger or deeper than lxml's limits.
    """
    try:
        return etree.fromstring(content, etree.XMLParser(**SAFELY))
    except etree.XMLSyntaxError as error:
        raise BadXml(problem(error)) from error


def root_name(head: bytes) -> str:
    """Return the name of the root element of a document that begins so; empty without any."""
    parser = etree.XMLPullParser(events=("start",), **SAFELY)
    for begin in range(0, len(head), HEAD_BYTES):
        with contextlib.suppress(etree.XMLSyntaxError):  # whoever reads the whole reports it
            parser.feed(head[begin : begin + HEAD_BYTES])
        for _, element in parser.read_events():
            return local_name(element)
    return ""


def records(stream: IO[bytes], tags: tuple[str, ...]) -> Iterator[etree._Element]:
    """Yield the elements of some names directly under the root, one in memory at a time.

    Raises:
        BadXml: not well-formed, or truncated; what was yielded before it is whole.
    """
    try:
        for _, element in etree.iterparse(stream, events=("end",), tag=tags, **SAFELY):
            parent = element.getparent()
            if parent is None or parent.getparent() is not None:
                continue
            yield element
            element.clear()
            while element.getprevious() is not None:
                del parent[0]
    except etree.XMLSyntaxError as error:
        raise BadXml(problem(error)) from error


def problem(error: etree.XMLSyntaxError) -> str:
    """Return what a parser found, as a clause."""
    return f"not XML ({(error.msg or '').replace(chr(10), '')})"


Special = Callable[[etree._Element], str | None]
"""A function that returns the text of an element which its owner writes in its own way; None for
others.
"""


def inline_text(element: etree._Element, special: Special = lambda element: None) -> str:
    """Return the text inside an element, with indices kept apart from numbers.

    A superscript of digits becomes superscript characters (``10<sup>9</sup>`` is 10⁹ and not 109);
    so does a subscript beside a digit. Letters above the line follow ``^``, but for those of
    ordinals and isotopes; other subscripts become ordinary text. Whitespace stays as it is
    written: ``one_line`` collapses it.

    Args:
        special: how some elements are written.

    Raises:
        BadXml: the text contains an entity that is not one of HTML 5.
    """
    return inline_run(element.text or "", element, special)


def inline_run(text: str, nodes: Iterable[Any], special: Special) -> str:
    """Return a text and the nodes behind it, each with the text after it, as ``inline_text``."""
    pieces = [plain(text)]
    for child in nodes:
        name = local_name(child)
        written = special(child) if name else entity(child)
        if written is None:
            written = inline_text(child, special)
            if name in ("sup", "sub"):
                pieces[-1] = INDENT.sub("", pieces[-1])
                written = scripted(name, written, last_character(pieces), child)
        pieces += [written, plain(child.tail or "")]
    return "".join(pieces)


def scripted(name: str, text: str, before: str, element: etree._Element) -> str:
    """Return a superscript or subscript as ``index`` writes it, with the spaces around its text."""
    whole = one_line(text)
    inner = whole.strip()
    after = first_character_after(element) if whole.endswith(inner) else " "
    written = index(name, inner, before if whole.startswith(inner) else " ", after)
    return whole.replace(inner, written, 1) if inner else whole


def index(name: str, text: str, before: str, after: str) -> str:
    """Return a superscript (``sup``) or subscript (``sub``) as text between its neighbours."""
    if name == "sup":
        if text in ("o", "O") and before.isnumeric():
            return "°"
        if SCRIPTED.fullmatch(text):
            return text.translate(SUPERSCRIPTS)
        if text in ORDINALS or (len(text) == 1 and not text.isalpha()):
            return text
        if text.isalpha():
            return text if len(text) == 1 and before.isnumeric() else f"^{text}"
        return f"^({text})"
    if not (before.isnumeric() or after.isnumeric()):
        return text
    if SCRIPTED.fullmatch(text):
        return text.translate(SUBSCRIPTS)
    return f"_({text})" if any(map(str.isnumeric, text)) else text


def last_character(pieces: Sequence[str]) -> str:
    """Return the last character written so far; empty before the first."""
    return next((piece[-1] for piece in reversed(pieces) if piece), "")


def first_character_after(element: etree._Element) -> str:
    """Return the first character behind an element, inside the next one where none is between."""
    if element.tail:
        return str(element.tail[0])
    following = element.getnext()
    text = "" if following is None else "".join(following.itertext())
    return str(text[:1])


def entity(node: Any) -> str:
    """Return the character of a named entity.

    Raises:
        BadXml: HTML 5 has no entity of that name.
    """
    if isinstance(node, etree._Entity):
        name = f"{node.name};"
        if name in KNOWN:
            return KNOWN[name]
        raise BadXml(f"the entity &{name} is not one of HTML 5, and none is expanded")
    return ""


def date(element: etree._Element) -> str:
    """Return the day in an element with year, month (a number or a name) and day, in the precision
    that is known, as ``2018-05-17``; empty where none is known.
    """
    texts = {local_name(part).lower(): (part.text or "").strip() for part in element}
    month = texts.get("month", "")[:3].capitalize()
    texts["month"] = str(MONTHS.index(month) + 1) if month in MONTHS else texts.get("month", "")
    known = []
    for name, width in (("year", 4), ("month", 2), ("day", 2)):
        text = texts.get(name, "")
        if not text.isdecimal():
            break
        known.append(text.zfill(width))
    return "-".join(known)


def local_name(node: Any) -> str:
    """Return the name of an element without its namespace; empty for what is no element."""
    return etree.QName(node).localname if isinstance(node.tag, str) else ""


def one_line(text: str) -> str:
    """Return a text in which XML's whitespace is one space each; others stay."""
    return WHITESPACE.sub(" ", text)
