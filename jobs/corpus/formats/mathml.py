"""Write presentation MathML as a line of text that keeps every value."""

from __future__ import annotations

from collections.abc import Sequence

from lxml import etree

from jobs.corpus.formats.xml_text import index, inline_text, local_name, one_line

SPACED = frozenset("=<>+-\u2212\u00b1\u00d7\u00b7\u2264\u2265\u2248\u2260\u2192")
"""Operators with a space around them."""

RELATIONS = frozenset("=<>\u2264\u2265\u2248\u2260\u2261\u221d\u223c\u2192")
"""What begins or ends the cells of equations that are written one below the other."""

UNSEEN = frozenset({"annotation", "annotation-xml", "mphantom", "none", ""})

SCRIPTS = {
    "msup": "^",
    "mover": "^",
    "msub": "_",
    "munder": "_",
    "msubsup": "_^",
    "munderover": "_^",
}
"""The marks in front of the indices of an element's base."""

ACCENTS = str.maketrans(
    "\u00af\u203e-^\u02c6\u2192~\u02dc.\u02d9\u00a8",
    "\u0304\u0304\u0304\u0302\u0302\u20d7\u0303\u0303\u0307\u0307\u0308",
)
"""Marks above a letter, as characters that combine with it: V with a dot, x with a bar."""
COMBINING = frozenset("\u0302\u0303\u0304\u0307\u0308\u20d7")


def text_of(element: etree._Element) -> str:
    """Return an element of MathML as text: ``10^(-3)``, ``(a + b)/c``, ``√(x)``, ``x_i``, ``³He``.

    Raises:
        BadXml: it contains an entity that is not one of HTML 5.
    """
    name = local_name(element)
    if name in UNSEEN:
        return ""
    children = [child for child in element if local_name(child)]
    if not children:
        return _token(name, element)
    if name == "mmultiscripts":
        return _multiscripts(children)
    parts = [text_of(child) for child in children]
    marks = SCRIPTS.get(name, "")
    if marks and len(parts) == 1 + len(marks):
        accent = parts[-1].strip().translate(ACCENTS)
        if name == "mover" and accent in COMBINING and len(parts[0].strip()) == 1:
            return parts[0].strip() + accent
        return parts[0] + _indices(marks, parts[1:])
    return _compound(name, element, parts)


def _token(name: str, element: etree._Element) -> str:
    """Return a name, a number, an operator or words, with the spaces around it."""
    whole = inline_text(element)
    text = one_line(whole).strip()
    if name == "mspace" or (whole and not text):
        return " "
    is_apart = (name == "mo" and text in SPACED) or (name == "mtext" and len(text) > 1)
    return f" {text} " if is_apart else text


def _indices(marks: str, parts: Sequence[str]) -> str:
    """Return indices behind their marks; an empty one is none."""
    found = zip(marks, parts, strict=False)
    return "".join(f"{mark}{_grouped(part)}" for mark, part in found if part.strip())


def _multiscripts(children: Sequence[etree._Element]) -> str:
    """Return a base with indices on both sides; the number of an isotope stands above the line."""
    names = [local_name(child) for child in children]
    at = names.index("mprescripts") if "mprescripts" in names else len(names)
    parts = [text_of(child) for child in children]
    before, after = parts[at + 1 :], parts[1:at]
    lower = _indices("_" * len(before), before[::2])
    upper = "".join(index("sup", part.strip(), " ", " ") for part in before[1::2] if part.strip())
    return f"{lower}{upper}{parts[0]}{_indices('_^' * len(after), after)}"


def _compound(name: str, element: etree._Element, parts: list[str]) -> str:
    """Return an element that puts its parts into a frame of its own, or in a row."""
    whole = "".join(parts)
    if name == "mfrac" and len(parts) == 2:
        return f"{_grouped(parts[0])}/{_grouped(parts[1])}"
    if name == "msqrt":
        return f"√({whole})"
    if name == "mroot" and len(parts) == 2:
        return f"({parts[0]})^(1/{parts[1].strip()})"
    if name == "mfenced":
        separator = element.get("separators", ",").strip()[:1]
        return f"{element.get('open', '(')}{separator.join(parts)}{element.get('close', ')')}"
    if name in ("mtr", "mlabeledtr"):
        return (" " if any(map(_is_aligned, parts)) else ", ").join(parts)
    if name == "mtable":
        return "; ".join(parts)
    return whole


def _is_aligned(cell: str) -> bool:
    """Return whether a cell is part of an equation, and no element of a matrix."""
    text = cell.strip()
    return not text or text[0] in RELATIONS or text[-1] in RELATIONS


def _grouped(text: str) -> str:
    stripped = text.strip()
    return stripped if len(stripped) == 1 else f"({stripped})"
