"""Semantic Scholar's records: texts from annotations, abstracts, names of works."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from jobs.corpus import marked_text
from jobs.corpus.document import Document, Rejected
from jobs.corpus.formats import s2orc

from .specs import spec

item_of = partial(s2orc.item_of, source=spec())

Part = Any
"""A string, or kind, parts inside it and attributes."""


def build(parts: Part) -> dict[str, Any]:
    """Return text and annotations, as the bulk data sets write them."""
    text = ""
    found: dict[str, list[dict[str, Any]]] = {}

    def add(part: Part) -> None:
        nonlocal text
        if isinstance(part, str):
            text += part
            return
        kind, inside, attributes = part
        begin = len(text)
        for inner in inside if isinstance(inside, list) else [inside]:
            add(inner)
        place = {"end": len(text), "start": begin, "attributes": attributes}
        found.setdefault(kind, []).append({k: v for k, v in place.items() if v is not None})

    for part in parts:
        add(part)
    names = {kind: json.dumps(places) for kind, places in found.items()}
    return {"text": text, "annotations": {"venue": None, **names}}


def paragraph(*parts: Part) -> Part:
    return ("paragraph", list(parts), None)


def heading(text: str, number: str | None = None) -> Part:
    return ("sectionheader", text, {"n": number} if number else None)


def mention(kind: str, text: str, target: str | None) -> Part:
    return (kind, text, {"ref_id": target} if target else None)


def entry(identity: str, author: str, title: str) -> Part:
    parts = [("bibauthorlastname", author, None), ", A. ", ("bibtitle", title, None), ", 2010."]
    return ("bibentry", parts, {"id": identity})


def figure(identity: str, head: str, caption: str, body: str = "") -> Part:
    return ("figure", [head, ("figurecaption", caption, None), body], {"id": identity})


BIBLIOGRAPHY = [
    entry("b0", "Smith", "Warfarin dosing in adults"),
    "\n",
    entry("b1", "Jones", "One two three four five six seven eight nine ten eleven twelve thirteen"),
    "\n",
    ("bibentry", "Anonymous leaflet.", {"id": "b2"}),
    "\n",
]


def read(*parts: Part, **keys: Any) -> Document:
    record = {"corpusid": 7, "content": build([*parts, "\n", *BIBLIOGRAPHY]), **keys}
    document = item_of(record)
    assert isinstance(document, Document), document
    return document


def text_of(*parts: Part, **keys: Any) -> str:
    return marked_text.finish(read(*parts, **keys).text).text


def body_of(*parts: Part) -> str:
    return text_of(heading("Results"), "\n", paragraph(*parts)).removeprefix("# Results\n")


def test_a_paper_is_its_text_between_header_and_bibliography() -> None:
    found = text_of(
        "\n",
        ("title", "On  warfarin", None),
        " OPEN ACCESS\n",
        ("author", ["Ann ", ("authorlastname", "Lee", None)], None),
        "\nSome College\n\n",
        ("abstract", "We gave 5 mg.", None),
        "\n\n",
        heading("INTRODUCTION", "1"),
        "\n",
        paragraph("It matters ", mention("bibref", "[1,", "b0"), " ", mention("bibref", "2]", "b1"),
                  ", as ", mention("figureref", "Fig. 1", "fig_0"), " shows."),
        "\n\n",
        paragraph("• first\n• second, 2 • 3"),
        "\n",
        heading("Effects on IL-6 in mM", "2.1"),
        "\n",
        paragraph("See Table ", mention("tableref", "1", "tab_0"), "."),
        ("formula", "E = mc 2", None),
        "\n",
        figure("fig_0", "\nFig. 1.\n", "Fig. 1. Doses given to adults (mean). n = 5."),
        figure("tab_0", "\nTable 1\n", "Outcomes", "\na b c 1 2 3"),
        "\n",
        paragraph("Text after the first figure stays."),
        figure("tab_0", "\nTable 1\n", "Outcomes"),
        figure("fig_9", "\nFig. 1 ", "continued"),
    )  # fmt: skip

    assert found == (
        "On warfarin\n\n"
        "# Abstract\nWe gave 5 mg.\n\n"
        "# Introduction\n"
        "It matters [bib_ref] Warfarin dosing in adults, Smith [/bib_ref] [bib_ref] One two three "
        "four five six seven eight nine ten eleven twelve..., Jones [/bib_ref], as [fig_ref] "
        "Figure 1: Doses given to adults (mean) [/fig_ref] shows.\n"
        "- first\n- second, 2 • 3\n\n"
        "## Effects on IL-6 in mM\n"
        "See [fig_ref] Table 1: Outcomes [/fig_ref].\n"
        "[formula] E = mc 2 [/formula]\n"
        "[fig] Figure 1: Doses given to adults (mean). n = 5. [/fig]\n"
        "[table] Table 1: Outcomes [/table]\n"
        "Text after the first figure stays."
    )


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (["a (", mention("bibref", "Smith, 2010", "b0"), ")."], "a [b]."),
        (["a ", mention("bibref", "(Smith, 2010)", "b0"), ", b"], "a [b], b"),
        (["a (", mention("bibref", "Smith, 2010)", "b0"), " b"], "a [b] b"),
        (["a ", mention("bibref", "[1", "b0"), "] b"], "a [b] b"),
        (["a (see ", mention("bibref", "Smith", "b0"), ") b"], "a (see [b]) b"),
        (["a (95% CI 1-2) ", mention("bibref", "[1]", "b0"), "."], "a (95% CI 1-2) [b]."),
        (["a ", mention("bibref", "[9]", None), "."], "a."),
        (["a ", mention("bibref", "[3]", "b2"), " b"], "a b"),
        (["5 \u00d7 10 ", mention("bibref", "9", "b0"), " /L"], "5 \u00d7 10 9 /L"),
        (["5 \u00d7 10", mention("bibref", " 9", "b0"), " /L"], "5 \u00d7 10 9 /L"),
        (["give ", mention("bibref", "5", "b0"), " mg"], "give 5 mg"),
        (["to ", mention("bibref", "12", None), "% or"], "to 12% or"),
        (["in ", mention("bibref", "12", None), " Lausanne"], "in Lausanne"),
        (["a ", mention("figureref", "Fig. 7", None), "."], "a Fig. 7."),
        (["a literal [fig] stays"], "a literal [fig] stays"),
    ],
)
def test_references_stand_between_tokens_and_brackets_do_not_stay(
    parts: list[Part], text: str
) -> None:
    named = "[bib_ref] Warfarin dosing in adults, Smith [/bib_ref]"

    assert body_of(*parts) == text.replace("[b]", named)


@pytest.mark.parametrize(
    ("head", "caption", "written"),
    [
        ("\nFIGURE 1 |", "Growth", "[fig] Figure 1: Growth [/fig]"),
        ("\nFigure\n", "1 Growth of cells", "[fig] Figure 1: Growth of cells [/fig]"),
        ("\n", "Fig. S2a: Growth", "[fig] Figure S2A: Growth [/fig]"),
        ("\n", "Tablets of 5 mg", "[fig] Tablets of 5 mg [/fig]"),
        ("\nFig. 3", "5 mg tablets", "[fig] Figure 3: 5 mg tablets [/fig]"),
        ("\nTab. 4", "Doses", "[table] Table 4: Doses [/table]"),
    ],
)
def test_captions_have_the_name_of_their_figure_once(head: str, caption: str, written: str) -> None:
    assert text_of(heading("Results"), figure("fig_0", head, caption)) == f"# Results\n{written}"


@pytest.mark.parametrize(
    ("text", "number", "written"),
    [
        ("MATERIALS AND METHODS", None, "# Materials and methods"),
        ("Statistical analysis of it all", None, "## Statistical analysis of it all"),
        ("Study design", "3", "# Study design"),
        ("Results", "3.2.", "## Results"),
        ("DNA", None, "## DNA"),
        ("RESULTS AT 5 mM", None, "## RESULTS AT 5 mM"),
    ],
)
def test_the_level_of_a_heading(text: str, number: str | None, written: str) -> None:
    assert text_of(heading(text, number), "\n", paragraph("A.")) == f"{written}\nA."


def test_every_golden_value_survives_beside_references(values: list[str]) -> None:
    parts: list[Part] = []
    for value in values:
        parts += [paragraph(f"Give {value} ", mention("bibref", "(1)", "b0"), "."), "\n"]
        parts += [heading(f"Dose {value}"), "\n", figure("fig_0", "\nFig. 1. ", f"Of {value} is")]

    lines = text_of(heading("Results"), "\n", *parts).split("\n")

    cited = "[bib_ref] Warfarin dosing in adults, Smith [/bib_ref]."
    for value in values:
        assert f"Give {value} {cited}" in lines
        assert f"## Dose {value}" in lines
        assert f"[fig] Figure 1: Of {value} is [/fig]" in lines


def test_every_golden_value_survives_in_an_abstract(values: list[str]) -> None:
    body = "\n".join(f"Give {value}." for value in values)
    document = item_of({"corpusid": 1, "abstract": body, "title": "T"})

    assert isinstance(document, Document)
    assert marked_text.finish(document.text).text == f"T\n{body}"


def test_what_is_known_of_a_paper() -> None:
    document = read(
        paragraph("A."),
        title="T",
        externalids={"DOI": "10.1/X", "pubmed": "12", "PubMedCentral": 34, "MAG": "9", "ACL": None},
        openaccessinfo={"license": "CCBY", "url": "https://a.example", "status": "GOLD"},
        publicationtypes=["Review"], publicationdate="2020-01-02", citationcount=3,
        journal={"name": "J", "volume": "1"}, year=2020,
    )  # fmt: skip

    assert (document.id, document.title, document.is_abstract) == ("7", "T", False)
    assert document.names == {"corpusid": "7", "doi": "10.1/x", "pmid": "12", "pmcid": "34"}
    assert document.meta == {
        "types": ["Review"], "date": "2020-01-02", "licence": "CCBY", "url": "https://a.example",
        "journal": "J", "citations": 3,
    }  # fmt: skip


def test_an_abstract_is_one_of_its_work() -> None:
    record = {
        "corpusid": 5,
        "openaccessinfo": {"externalids": {"PubMedCentral": "34", "DOI": None}, "license": None},
        "abstract": "Of [fig] 5 mg.",
    }

    document = item_of(record)

    assert document == Document(
        "5", "", "Of [fig] 5 mg.", {"corpusid": "5", "pmcid": "34"}, {}, is_abstract=True
    )


@pytest.mark.parametrize(
    "record", [{"content": {"text": None}}, {"abstract": " "}, {}, {"body": {"text": ""}}]
)
def test_a_record_without_a_text_has_its_names_alone(record: dict[str, Any]) -> None:
    document = item_of({"corpusid": 1, "title": "T", "externalids": {"DOI": "10.1/x"}, **record})

    assert isinstance(document, Document)
    assert (document.title, document.text.strip()) == ("T", "")
    assert document.names == {"corpusid": "1", "doi": "10.1/x"}


def test_the_second_layout_has_body_and_bibliography_apart() -> None:
    def underscored(part: dict[str, Any]) -> dict[str, Any]:
        names = {"sectionheader": "section_header", "bibref": "bib_ref", "bibentry": "bib_entry",
                 "bibtitle": "bib_title", "bibauthorlastname": "bib_author_last_name"}  # fmt: skip
        annotations = part["annotations"].items()
        return part | {"annotations": {names.get(key, key): value for key, value in annotations}}

    parts = [heading("Results"), "\n", paragraph("As ", mention("bibref", "[1]", "b0"), ".")]
    document = item_of(
        {
            "corpusid": 7,
            "title": "T",
            "body": underscored(build(parts)),
            "bibliography": underscored(build(BIBLIOGRAPHY)),
        }
    )

    assert isinstance(document, Document)
    assert marked_text.finish(document.text).text == (
        "T\n\n# Results\nAs [bib_ref] Warfarin dosing in adults, Smith [/bib_ref]."
    )


@pytest.mark.parametrize(
    ("record", "rejected"),
    [
        (
            {"text": "a"},
            Rejected("", "no key 'corpusid' with a number, as Semantic Scholar's records have"),
        ),
        (
            {"corpusid": 1, "abstract": 5},
            Rejected("1", "neither 'content' nor 'body' is an object, nor 'abstract' text"),
        ),
        (
            {"corpusid": 1, "content": {"text": "ab", "annotations": {
                "bibref": '[{"start": 1, "end": 3}]'}}},
            Rejected("1", "an annotation 'bibref' from 1 to 3, the text has 2 characters"),
        ),
        (
            {"corpusid": 1, "content": {"text": "ab", "annotations": {"figure": "[{"}}},
            Rejected("1", "the annotations 'figure' are no list of places"),
        ),
        (
            {"corpusid": 1, "content": {"text": "ab", "annotations": {"figure": '[{"end": 1}]'}}},
            Rejected("1", "the annotations 'figure' are no list of places"),
        ),
    ],
)  # fmt: skip
def test_a_record_that_cannot_be_read_is_rejected(
    record: dict[str, Any], rejected: Rejected
) -> None:
    found = item_of(record)

    assert isinstance(found, Rejected)
    assert found.id == rejected.id
    assert found.problem.startswith(rejected.problem)
