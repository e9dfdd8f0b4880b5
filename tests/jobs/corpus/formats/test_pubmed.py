"""PubMed's citations: their text, their names, and what the updates delete."""

from __future__ import annotations

import io

import pytest

from jobs.corpus import marked_text
from jobs.corpus.document import Document, Rejected, Removal
from jobs.corpus.formats import pubmed
from jobs.corpus.formats.xml_text import BadXml

HEAD = (
    '<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE PubmedArticleSet SYSTEM "pubmed.dtd">\n'
    "<PubmedArticleSet>"
)

CITATION = """
<PubmedArticle><MedlineCitation Status="MEDLINE"><PMID Version="1">{pmid}</PMID><Article>
<Journal><JournalIssue><PubDate>{date}</PubDate></JournalIssue><Title>A Journal</Title></Journal>
<ArticleTitle>Drug X at 10<sup>-3</sup> mol/L.</ArticleTitle>
<Abstract>{abstract}<CopyrightInformation>Copyright 2020</CopyrightInformation></Abstract>
<Language>eng</Language>
<PublicationTypeList><PublicationType>Review</PublicationType></PublicationTypeList></Article>
<MeshHeadingList><MeshHeading><DescriptorName>Asthma</DescriptorName></MeshHeading></MeshHeadingList>
</MedlineCitation><PubmedData>
<ArticleIdList><ArticleId IdType="pubmed">{pmid}</ArticleId>
<ArticleId IdType="doi">10.1/x</ArticleId>
<ArticleId IdType="pmc">PMC77</ArticleId><ArticleId IdType="pii">S1</ArticleId></ArticleIdList>
<ReferenceList><Reference><ArticleIdList><ArticleId IdType="doi">10.9/other</ArticleId>
</ArticleIdList></Reference></ReferenceList></PubmedData></PubmedArticle>
"""  # fmt: skip

PLAIN = "<AbstractText>Give 5&#x2013;10 mg; p&lt;0.05 and OR&gt;2.</AbstractText>"
STRUCTURED = """
<AbstractText Label="BACKGROUND" NlmCategory="BACKGROUND">A <i>common</i> disease.</AbstractText>
<AbstractText Label="METHODS">52 weeks, 0.5 mg.</AbstractText>
<AbstractText Label="UNLABELLED">The end.</AbstractText><AbstractText Label="NONE"/>
"""
YEAR_MONTH_DAY = "<Year>2018</Year><Month>May</Month><Day>7</Day>"


def citation(pmid: str = "11", abstract: str = PLAIN, date: str = YEAR_MONTH_DAY) -> str:
    return CITATION.format(pmid=pmid, abstract=abstract, date=date)


def read(*parts: str, end: str = "</PubmedArticleSet>") -> list[Document | Rejected | Removal]:
    return list(pubmed.read(io.BytesIO("".join([HEAD, *parts, end]).encode())))


def only(found: list[Document | Rejected | Removal]) -> Document:
    [document] = found
    assert isinstance(document, Document)
    return document


def test_a_citation_is_its_title_and_its_abstract() -> None:
    document = only(read(citation()))

    assert marked_text.finish(document.text).text == (
        "Drug X at 10⁻³ mol/L.\nGive 5\u201310 mg; p<0.05 and OR>2."
    )
    assert document.title == "Drug X at 10⁻³ mol/L."
    assert (document.id, document.work_id) == ("11", "pmid:11")
    assert document.names == {"pmid": "11", "doi": "10.1/x", "pmcid": "77"}
    assert document.meta == {
        "date": "2018-05-07",
        "types": ["Review"],
        "languages": ["eng"],
        "journal": "A Journal",
        "mesh": ["Asthma"],
    }


def test_labels_stand_before_the_parts_of_a_structured_abstract() -> None:
    text = only(read(citation(abstract=STRUCTURED))).text

    assert text.splitlines()[1:] == [
        "BACKGROUND: A common disease.",
        "METHODS: 52 weeks, 0.5 mg.",
        "The end.",
    ]


def test_a_formula_in_an_abstract_keeps_its_indices() -> None:
    math = (
        "<mml:math xmlns:mml='http://www.w3.org/1998/Math/MathML'><mml:mmultiscripts>"
        "<mml:mi>He</mml:mi><mml:mprescripts/><mml:none/><mml:mn>3</mml:mn></mml:mmultiscripts>"
        "<mml:msup><mml:mn>10</mml:mn><mml:mn>9</mml:mn></mml:msup></mml:math>"
    )
    text = only(read(citation(abstract=f"<AbstractText>Inhaled {math}.</AbstractText>"))).text

    assert text.splitlines()[1:] == ["Inhaled ³He10^9."]


@pytest.mark.parametrize(
    ("date", "known"),
    [
        ("<Year>2018</Year><Month>05</Month>", "2018-05"),
        ("<Year>2018</Year><Season>Spring</Season>", "2018"),
        ("<Year>2018</Year><Month>Whatever</Month><Day>3</Day>", "2018"),
        ("<MedlineDate>1998 Dec-1999 Jan</MedlineDate>", "1998"),
        ("<MedlineDate>Winter</MedlineDate>", ""),
        ("", ""),
    ],
)
def test_a_date_is_as_precise_as_it_is_known(date: str, known: str) -> None:
    assert only(read(citation(date=date))).meta.get("date", "") == known


def test_citations_without_an_abstract_are_counted_and_deleted_ones_are_named() -> None:
    deleted = "<DeleteCitation><PMID>5</PMID><PMID>6</PMID></DeleteCitation>"
    broken = "<PubmedArticle><MedlineCitation><PMID>4</PMID></MedlineCitation></PubmedArticle>"

    found = read(citation(), citation("12", "<AbstractText> </AbstractText>"), broken, deleted)

    assert isinstance(found[0], Document)
    assert [(type(one), one.id) for one in found[1:]] == [
        (Document, "12"),
        (Rejected, "4"),
        (Removal, "5"),
        (Removal, "6"),
    ]
    assert [one.problem for one in found if isinstance(one, Rejected)] == [
        "a PubmedArticle without PMID or Article",
    ]
    assert [one.text for one in found if isinstance(one, Document)][1:] == [""]


def test_the_record_of_a_book_is_rejected_and_not_lost() -> None:
    book = "<PubmedBookArticle><BookDocument><PMID>7</PMID></BookDocument></PubmedBookArticle>"

    _, rejected = read(citation(), book)

    assert isinstance(rejected, Rejected)
    assert rejected.id == "7"
    assert rejected.problem.startswith("the record of a book")


def test_a_truncated_file_is_reported_and_not_taken_for_a_whole_one() -> None:
    with pytest.raises(BadXml, match="not XML"):
        read(citation(), citation("12"), end="<PubmedArticle>")
