"""Write presentation MathML as a line of text that keeps every value."""

from __future__ import annotations

from lxml import etree

from jobs.corpus.formats.xml_text import local_name, one_line
from jobs.corpus.marked_text import plain

SPACED = frozenset("=<>+-\u2212\u00b1\u00d7\u00b7\u2264\u2265\u2248\u2260\u2192")
"""Operators with a space around them."""

UNSEEN = frozenset({"annotation", "annotation-xml", "mspace", ""})

SCRIPTS: dict[str, str] = {
    "msup": "{0}^{1}",
    "mover": "{0}^{1}",
    "msub": "{0}_{1}",
    "munder": "{0}_{1}",
    "msubsup": "{0}_{1}^{2}",
    "munderover": "{0}_{1}^{2}",
}
"""How an element is written from its base and its indices, which are grouped."""


def text_of(element: etree._Element) -> str:
    """Return an element of MathML as text: ``10^(-3)``, ``(a + b)/c``, ``√(x)``, ``x_i``."""
    name = local_name(element)
    if name in UNSEEN:
        return ""
    parts = [text_of(child) for child in element if local_name(child)]
    if not parts:
        text = one_line(plain(element.text or "")).strip()
        return f" {text} " if name == "mo" and text in SPACED else text
    if name in SCRIPTS and len(parts) == SCRIPTS[name].count("{"):
        return SCRIPTS[name].format(parts[0], *map(_grouped, parts[1:]))
    return _compound(name, element, parts)


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
    if name in ("mtable", "mtr", "mlabeledtr"):
        return ("; " if name == "mtable" else ", ").join(parts)
    return whole


def _grouped(text: str) -> str:
    stripped = text.strip()
    return stripped if len(stripped) == 1 else f"({stripped})"
