"""Read articles in JATS, the format of PubMed Central's open-access subset.

Layout: https://jats.nlm.nih.gov/archiving/. The text follows MEDITRON's (arXiv 2311.16079, appendix
B.2.1): title, headings with ``#`` and ``##``, references, captions and formulas between markup
tokens; no authors, affiliations, bibliography, figures and table bodies.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from lxml import etree

from jobs.corpus.document import Document, Rejected, identifiers, work_id
from jobs.corpus.formats import mathml
from jobs.corpus.formats.references import first_clause, tidy, work
from jobs.corpus.formats.xml_text import (
    BadXml,
    date,
    inline_run,
    inline_text,
    local_name,
    one_line,
    parse,
)
from jobs.corpus.marked_text import block, inline, plain

DROPPED = frozenset(
    {
        "table",
        "table-wrap-foot",
        "graphic",
        "inline-graphic",
        "media",
        "supplementary-material",
        "fn",
        "fn-group",
        "ref-list",
        "object-id",
        "alt-text",
        "long-desc",
        "permissions",
        "attrib",
        "contrib-group",
        "aff",
        "author-notes",
        "inline-supplementary-material",
        "xref-group",
        "author-comment",
        "index-term",
        "private-char",
    }
)
BLOCKS = frozenset(
    {
        "p",
        "sec",
        "fig",
        "fig-group",
        "table-wrap",
        "table-wrap-group",
        "disp-formula",
        "disp-formula-group",
        "list",
        "def-list",
        "disp-quote",
        "boxed-text",
        "statement",
        "verse-group",
        "app",
        "app-group",
        "ack",
        "glossary",
        "notes",
        "speech",
        "preformat",
        "code",
        "array",
        "alternatives",
    }
)
ARTICLE_IDS = {"pmid": "pmid", "pmc": "pmcid", "pmcid": "pmcid", "doi": "doi"}
HEADINGS = {"ack": "Acknowledgments"}
"""Of sections without one."""
TEX = re.compile(r"\\begin\{document\}\s*(.*?)\s*\\end\{document\}", re.DOTALL)
FIGURE = re.compile(r"(?i)^fig(?:ure|\.)?s?\.?\s*")


def read(content: bytes) -> Iterator[Document | Rejected]:
    """Yield the articles of a file as documents, or why they cannot be one: most files have one, a
    ``pmc-articleset`` several.

    Raises:
        BadXml: not well-formed, or without an article.
    """
    root = parse(content)
    articles = [root] if local_name(root) == "article" else root.findall(".//{*}article")
    if not articles:
        raise BadXml(f"a <{local_name(root)}> without an <article>")
    for article in articles:
        try:
            yield Article(article).document()
        except BadXml as error:
            yield Rejected("", str(error))
        except RecursionError:
            yield Rejected("", "elements inside each other too deeply")


class Article:
    """One article, and what its references name."""

    def __init__(self, root: etree._Element) -> None:
        self.root = root
        meta = root.find("{*}front/{*}article-meta")
        self.meta = etree.Element("article-meta") if meta is None else meta
        self.named = {found.get("id", ""): found for found in root.iter() if _is_named(found)}

    def document(self) -> Document | Rejected:
        """Return the whole article; one without a body is no full text, and has an empty one: its
        names show what is of one work.
        """
        names = identifiers(
            (kind, one_line("".join(found.itertext())))
            for found in self.meta
            if local_name(found) == "article-id"
            and (kind := ARTICLE_IDS.get(found.get("pub-id-type", "")))
        )
        if not names:
            return Rejected("", "an article without PMC id, PMID and DOI")
        # A number alone may be the PMID of a citation, which PubMed's updates replace and delete.
        identity = f"PMC{names['pmcid']}" if "pmcid" in names else work_id(names)
        title = self._title()
        body = self.root.find("{*}body")
        text = "" if body is None else self._text(title, body)
        return Document(
            identity, title, text, names, self._facts(), is_versioned=self._is_versioned()
        )

    def _is_versioned(self) -> bool:
        """Return whether PubMed Central numbers the versions of the article."""
        kinds = (found.get("pub-id-type") for found in self.meta.iterfind("{*}article-id"))
        return "pmcid-ver" in kinds

    def _text(self, title: str, body: etree._Element) -> str:
        parts = [f"{title}\n", *self._abstracts(), self.blocks(body, 0)]
        back = self.root.find("{*}back")
        if back is not None:
            parts += [self.blocks(part, 0) for part in back if local_name(part) == "app-group"]
            parts += [self.section(part, 1) for part in back if local_name(part) in ("ack", "sec")]
        return "\n".join(parts)

    def _title(self) -> str:
        found = self.meta.find("{*}title-group/{*}article-title")
        return "" if found is None else self.line(found)

    def _abstracts(self) -> Iterator[str]:
        """Yield the abstracts that are text, each under a heading of its own."""
        for found in self.meta.iterfind("{*}abstract"):
            if found.get("abstract-type", "") in ("graphical", "teaser", "toc", "video"):
                continue
            heading = found.find("{*}title")
            text = "Abstract" if heading is None else self.line(heading)
            yield f"\n# {text}\n\n{self.blocks(found, 1)}"

    def _facts(self) -> dict[str, object]:
        """Return what is known of the work beside its names."""
        journal = self.root.find(".//{*}journal-title")
        dates = (date(found) for found in self.meta.iterfind("{*}pub-date"))
        related = self.meta.iterfind("{*}related-article")
        languages = (value for key, value in self.root.attrib.items() if str(key).endswith("}lang"))
        facts: dict[str, object] = {
            "types": _known([self.root.get("article-type", "")]),
            "languages": _known(languages),
            "journal": "" if journal is None else self.line(journal),
            "licence": self._licence(),
            "date": min(_known(dates), key=lambda day: f"{day}~", default=""),
            "related": _known(found.get("related-article-type", "") for found in related),
        }
        return {key: value for key, value in facts.items() if value}

    def _licence(self) -> str:
        """Return the address of the licence, or the beginning of its text; empty without any."""
        licence = self.meta.find("{*}permissions/{*}license")
        if licence is None:  # before JATS it was part of the copyright
            stated = self.meta.find(".//{*}copyright-statement")
            text = "" if stated is None else self.line(stated)
            return text[:200] if "licen" in text.lower() else ""
        links = [value for key, value in licence.attrib.items() if str(key).endswith("}href")]
        links += ["".join(found.itertext()).strip() for found in licence.iter("{*}license_ref")]
        return next(filter(None, links), "") or self.line(licence)[:200]

    def blocks(self, element: etree._Element, depth: int) -> str:
        """Return the blocks inside an element, of sections below so many others."""
        parts = []
        text, loose = element.text or "", list[etree._Element]()
        for child in element:
            name = local_name(child)
            if name in BLOCKS:
                parts += [self.run(text, loose), self.block(child, name, depth)]
                text, loose = child.tail or "", []
            else:
                loose.append(child)
        parts.append(self.run(text, loose))
        return "\n".join(filter(None, parts))

    def run(self, text: str, nodes: list[etree._Element]) -> str:
        """Return the text and the inline elements between two blocks as one line."""
        return one_line(tidy(one_line(inline_run(text, nodes, self.beside_blocks)))).strip()

    def beside_blocks(self, element: etree._Element) -> str | None:
        """Return what ``special`` does; the heading of a block is written elsewhere."""
        return "" if local_name(element) in ("title", "label", "caption") else self.special(element)

    def block(self, element: etree._Element, name: str, depth: int) -> str:
        """Return one block as lines."""
        if name in ("sec", "app", "ack", "glossary", "notes"):
            return self.section(element, depth + 1)
        if name == "p":
            return self.paragraph(element, depth)
        if name in ("fig", "table-wrap"):
            return self.caption(element, "fig" if name == "fig" else "table")
        if name == "disp-formula":
            formula = self.formula(element)
            return block("formula", formula) if formula else ""
        if name == "list":
            items = element.iterfind("{*}list-item")
            return "\n".join(f"- {one_line(self.blocks(item, depth)).strip()}" for item in items)
        if name == "def-list":
            return "\n".join(
                f"- {': '.join(self.line(part) for part in item if local_name(part))}"
                for item in element.iterfind("{*}def-item")
            )
        return self.blocks(element, depth)

    def section(self, element: etree._Element, level: int) -> str:
        """Return a section under its heading: ``#`` at the first level, ``##`` below it."""
        title = element.find("{*}title")
        usual = HEADINGS.get(local_name(element), "")
        heading = usual if title is None else self.line(title)
        text = self.blocks(element, level)
        if not text or not heading:
            return text
        return f"\n{'#' * min(level, 2)} {heading}\n\n{text}"

    def paragraph(self, element: etree._Element, depth: int) -> str:
        """Return a paragraph, cut at the blocks inside it, which stand between its parts."""
        if not any(local_name(child) in BLOCKS for child in element):
            return self.line(element)
        return self.blocks(element, depth)

    def caption(self, element: etree._Element, token: str) -> str:
        """Return the caption of a figure or table in full."""
        label, text = self.label(element), self.caption_text(element)
        if not label and not text:
            return ""
        return block(token, ": ".join(filter(None, (label, text))))

    def label(self, element: etree._Element) -> str:
        """Return the label of a figure or table, as ``Figure 2`` and ``Table 2``."""
        found = element.find("{*}label")
        return "" if found is None else FIGURE.sub("Figure ", self.line(found)).rstrip(" .:")

    def caption_text(self, element: etree._Element) -> str:
        return " ".join(map(self.line, _caption_parts(element)))

    def formula(self, element: etree._Element) -> str:
        """Return a formula: its TeX where it has some, else its MathML as text, else its text."""
        for found in element.iter("{*}tex-math"):
            whole = "".join(found.itertext())
            match = TEX.search(whole)
            return one_line(plain(match[1] if match else whole)).strip().strip("$").strip()
        for found in element.iter("{*}math"):
            return one_line(mathml.text_of(found)).strip()
        return one_line(inline_text(element, self.in_formula)).strip()

    def in_formula(self, element: etree._Element) -> str | None:
        """Return what is written in its own way in a formula; its number is none of it."""
        return "" if local_name(element) == "label" else self.special(element)

    def line(self, element: etree._Element) -> str:
        """Return the text inside an element as one line."""
        return one_line(tidy(one_line(inline_text(element, self.special)))).strip()

    def special(self, element: etree._Element) -> str | None:
        """Return references, formulas and line breaks; nothing for what is dropped."""
        name = local_name(element)
        if name == "xref":
            return self.reference(element)
        if name in ("inline-formula", "tex-math", "math"):
            return self.formula(element) if name != "math" else mathml.text_of(element)
        if name == "sup" and len(element) and all(_is_citation(part) for part in element):
            return inline_text(element, self.special)
        if name == "break":
            return " "
        if name in DROPPED:
            return ""
        if name in ("fig", "table-wrap", "disp-formula"):
            return self.block(element, name, 0)
        return None

    def reference(self, element: etree._Element) -> str | None:
        """Return a mention of a cited work, figure or table between markup tokens."""
        kind = element.get("ref-type", "")
        if kind in ("fn", "table-fn", "aff", "corresp", "author-notes", "contrib"):
            return ""
        target = self.named.get(element.get("rid", "").split(" ")[0])
        if kind == "bibr":
            return inline("bib_ref", "" if target is None else self.cited(target))
        if kind in ("fig", "table") and target is not None:
            label = self.label(target) or _unlinked(element)
            caption = first_clause(" ".join(map(_unlinked, _caption_parts(target))))
            return inline("fig_ref", ": ".join(filter(None, (label, caption))))
        return None

    def cited(self, reference: etree._Element) -> str:
        """Return a cited work as its title, cut to MAX_WORDS, and its first author's last name."""
        title = reference.find(".//{*}article-title")
        if title is None:
            title = reference.find(".//{*}source")
        author = reference.find(".//{*}surname")
        parts = ["" if found is None else _unlinked(found) for found in (title, author)]
        return work(*parts)


def _caption_parts(element: etree._Element) -> list[etree._Element]:
    found = element.find("{*}caption")
    parts = () if found is None else found
    return [part for part in parts if local_name(part) in ("title", "p")]


def _unlinked(element: etree._Element) -> str:
    """Return the text inside an element without citations: what refers to it may be inside it."""
    text = inline_text(element, lambda part: "" if _is_citation(part) else None)
    return one_line(text).strip()


def _is_named(element: etree._Element) -> bool:
    return isinstance(element.tag, str) and "id" in element.attrib


def _is_citation(element: etree._Element) -> bool:
    return local_name(element) == "xref" and element.get("ref-type") == "bibr"


def _known(values: Iterable[str]) -> list[str]:
    return [value for value in values if value]
