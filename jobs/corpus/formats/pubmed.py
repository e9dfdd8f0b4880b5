"""Read the citations of PubMed's baseline and update files.

Layout: https://dtd.nlm.nih.gov/ncbi/pubmed/doc/out/pubmedcitation.html. A baseline file holds
30,000 citations; an update file also names citations that were deleted. A PMID that occurs again
in a later file replaces the earlier citation, which whoever reads several files has to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from lxml import etree

from jobs.corpus.document import Document, Rejected, Removal, identifiers
from jobs.corpus.formats import mathml
from jobs.corpus.formats.xml_text import date, inline_text, local_name, one_line, records
from jobs.corpus.marked_text import plain

BOOK = "PubmedBookArticle"
"""Not in the baseline; queries of PubMed return some."""

ARTICLE_IDS = {"doi": "doi", "pmc": "pmcid", "pubmed": "pmid"}


def read(stream: IO[bytes]) -> Iterator[Document | Rejected | Removal]:
    """Yield the citations of a file, and the ids that it deletes, in its order.

    Raises:
        BadXml: not well-formed, truncated, or with entities of its own.
    """
    for element in records(stream, ("PubmedArticle", BOOK, "DeleteCitation")):
        if element.tag == "DeleteCitation":
            yield from (Removal(_text(pmid)) for pmid in element.iter("PMID"))
        elif element.tag == BOOK:
            problem = f"the record of a book ({BOOK}), of which no layout is read"
            yield Rejected(_text(element.find("BookDocument/PMID")), problem)
        else:
            yield citation(element)


def citation(element: etree._Element) -> Document | Rejected:
    """Return one citation as a document: its title, then the abstract's paragraphs. One without an
    abstract has an empty text, since it may state that its work was retracted.

    A structured abstract's labels stand before their paragraphs, as in ``METHODS: …``.
    """
    medline = element.find("MedlineCitation")
    article = medline.find("Article") if medline is not None else None
    pmid = _text(medline.find("PMID")) if medline is not None else ""
    if article is None or not pmid:
        return Rejected(pmid, "a PubmedArticle without PMID or Article")
    title = _text(article.find("ArticleTitle")) or _text(article.find("VernacularTitle"))
    paragraphs = [paragraph(part) for part in article.iterfind("Abstract/AbstractText")]
    body = "\n".join(filter(None, paragraphs))
    names = identifiers(
        [
            ("pmid", pmid),
            *(
                (kind, _text(found))
                for found in element.iterfind("PubmedData/ArticleIdList/ArticleId")
                if (kind := ARTICLE_IDS.get(found.get("IdType", "")))
            ),
        ]
    )
    meta = {
        "date": published(article),
        "types": [_text(kind) for kind in article.iterfind("PublicationTypeList/PublicationType")],
        "languages": [_text(language) for language in article.iterfind("Language")],
        "journal": _text(article.find("Journal/Title")),
        "mesh": [_text(name) for name in medline.iterfind("MeshHeadingList/*/DescriptorName")],
    }
    text = f"{title}\n{body}" if title and body else body
    meta = {key: value for key, value in meta.items() if value}
    return Document(pmid, title, text, names, meta, is_versioned=True, is_abstract=True)


def paragraph(element: etree._Element) -> str:
    """Return a part of an abstract after its label; empty without text."""
    text, label = _text(element), plain(element.get("Label", "")).strip()
    return f"{label}: {text}" if text and label and label != "UNLABELLED" else text


def published(article: etree._Element) -> str:
    """Return the day of publication, as ``date`` does."""
    for path in ("ArticleDate", "Journal/JournalIssue/PubDate"):
        found = article.find(path)
        if found is not None and (known := date(found)):
            return known
    season = _text(article.find("Journal/JournalIssue/PubDate/MedlineDate"))
    return season[:4] if season[:4].isdigit() else ""


def _text(element: etree._Element | None) -> str:
    return "" if element is None else one_line(inline_text(element, _formula)).strip()


def _formula(element: etree._Element) -> str | None:
    return mathml.text_of(element) if local_name(element) == "math" else None
