"""Documents as PubMed and PubMed Central would publish them, to curate them back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from xml.sax.saxutils import escape


def citations(records: Iterable[Mapping[str, str]]) -> bytes:
    """Return records with title and text as a file of PubMed: a part of an abstract per line."""
    written = (
        f"<PubmedArticle><MedlineCitation><PMID Version='1'>{number}</PMID><Article>"
        f"<ArticleTitle>{escape(record['title'])}</ArticleTitle><Abstract>"
        + "".join(f"<AbstractText>{escape(line)}</AbstractText>" for line in lines(record))
        + "</Abstract></Article></MedlineCitation></PubmedArticle>"
        for number, record in enumerate(records, start=1)
    )
    root = "<?xml version='1.0' encoding='utf-8'?>\n<PubmedArticleSet>"
    return f"{root}{''.join(written)}</PubmedArticleSet>".encode()


def article(record: Mapping[str, str], number: int) -> bytes:
    """Return a record with title and text as an article in JATS: a paragraph per line."""
    paragraphs = "".join(f"<p>{escape(line)}</p>" for line in lines(record))
    return (
        "<article article-type='research-article'><front><article-meta>"
        f"<article-id pub-id-type='pmc'>PMC{number}</article-id><title-group>"
        f"<article-title>{escape(record['title'])}</article-title></title-group></article-meta>"
        f"</front><body><sec>{paragraphs}</sec></body></article>"
    ).encode()


def lines(record: Mapping[str, str]) -> list[str]:
    """Return the lines of a text that are not blank: XML has paragraphs, no space between."""
    return [line for line in record["text"].split("\n") if line]
