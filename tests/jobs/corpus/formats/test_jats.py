"""Articles in JATS: what is kept, what is dropped, and what stands between markup tokens."""

from __future__ import annotations

import re

import pytest

from jobs.corpus import marked_text
from jobs.corpus.document import Document, Rejected
from jobs.corpus.formats import jats
from jobs.corpus.formats.xml_text import BadXml

ARTICLE = """<?xml version="1.0"?>
<!DOCTYPE article PUBLIC "-//NLM//DTD Journal Archiving DTD v2.3//EN" "archivearticle.dtd">
<article article-type="research-article" xml:lang="en" xmlns:xlink="http://www.w3.org/1999/xlink"
 xmlns:mml="http://www.w3.org/1998/Math/MathML"><front><journal-meta><journal-title>A Journal
</journal-title></journal-meta><article-meta><article-id pub-id-type="pmid">11</article-id>
<article-id pub-id-type="pmc">PMC22</article-id><article-id pub-id-type="doi">10.1/x</article-id>
<title-group><article-title>Drug X in <italic>E. coli</italic></article-title></title-group>
<contrib-group><contrib><name><surname>Nobody</surname></name></contrib></contrib-group>
<pub-date><year>2013</year></pub-date><pub-date><day>4</day><month>2</month><year>2013</year>
</pub-date><permissions><license xlink:href="https://creativecommons.org/licenses/by/4.0/"><p>By.
</p></license></permissions><abstract><sec><title>Background</title><p>Why.</p></sec></abstract>
<abstract abstract-type="graphical"><p>A picture.</p></abstract></article-meta></front>
<body>{body}</body>
<back><ack><title>Acknowledgments</title><p>Thanks.</p></ack><fn-group><fn><p>Note.</p></fn></fn-group>
<ref-list><title>References</title>
<ref id="r1"><citation><name><surname>Ames</surname></name><article-title>One two three four five
 six seven eight nine ten eleven twelve thirteen.</article-title></citation></ref>
<ref id="r2"><mixed-citation><name><surname>Boyd</surname></name> <article-title>Short title.
</article-title></mixed-citation></ref>
<ref id="r3"><mixed-citation>Unstructured, 1999.</mixed-citation></ref></ref-list></back></article>
"""  # fmt: skip

AMES = (
    "[bib_ref] One two three four five six seven eight nine ten eleven twelve..., Ames [/bib_ref]"
)
BOYD = "[bib_ref] Short title, Boyd [/bib_ref]"
R1, R2 = (f'<xref ref-type="bibr" rid="r{number}">{number}</xref>' for number in (1, 2))
FIGURE = f"""<fig id="f1"><label>Fig. 1</label><caption><title>Survival.</title><p>By dose (5 mg),
 at <xref ref-type="fig" rid="f1">1</xref>; see [{R2}].</p>
</caption><graphic/></fig>"""
TABLE = """<table-wrap id="t1"><label>Table 2</label><caption><p>Doses.</p></caption>
<table><tr><td>never</td></tr></table><table-wrap-foot><fn><p>never</p></fn></table-wrap-foot>
</table-wrap>"""


def article(body: str) -> bytes:
    return ARTICLE.format(body=body).encode()


def body_of(body: str) -> str:
    """Return the text between the abstract and the acknowledgements."""
    [document] = jats.read(article(body))
    assert isinstance(document, Document)
    text = marked_text.finish(document.text).text
    return (
        text.partition("\n## Background\n\nWhy.\n")[2].partition("\n# Acknowledgments")[0].strip()
    )


def test_an_article_is_its_title_abstract_body_and_thanks() -> None:
    [document] = jats.read(article("<sec><title>Results</title><p>Fewer died.</p></sec>"))

    assert isinstance(document, Document)
    assert marked_text.finish(document.text).text == (
        "Drug X in E. coli\n\n# Abstract\n\n## Background\n\nWhy.\n\n# Results\n\nFewer died.\n\n"
        "# Acknowledgments\n\nThanks."
    )
    assert (document.id, document.work_id) == ("PMC22", "pmid:11")
    assert document.names == {"pmid": "11", "pmcid": "22", "doi": "10.1/x"}
    assert document.meta == {
        "types": ["research-article"],
        "languages": ["en"],
        "journal": "A Journal",
        "licence": "https://creativecommons.org/licenses/by/4.0/",
        "date": "2013-02-04",
    }


@pytest.mark.parametrize(
    ("licence", "known"),
    [
        ("<license><ali:license_ref xmlns:ali='a'>https://a.example</ali:license_ref></license>",
         {"licence": "https://a.example"}),
        ("<license><license-p>Free to  read.</license-p></license>", {"licence": "Free to read."}),
        ("<license/>", {}),
    ],
)  # fmt: skip
def test_the_licence_is_its_address_or_its_text(licence: str, known: dict[str, str]) -> None:
    content = re.sub(rb"<license.*</license>", licence.encode(), article("<p>x</p>"), flags=re.S)
    [document] = jats.read(content)

    assert isinstance(document, Document)
    assert {key: value for key, value in document.meta.items() if key == "licence"} == known


def test_a_licence_inside_the_copyright_is_known() -> None:
    stated = "<copyright-statement>Boyd et al. Under a free License.</copyright-statement><x>"
    content = article("<p>It was so.</p>").replace(b"<permissions>", stated.encode())
    [document] = jats.read(content.replace(b"</permissions>", b"</x>"))

    assert isinstance(document, Document)
    assert document.meta["licence"] == "Boyd et al. Under a free License."


def test_thanks_without_a_heading_get_the_usual_one() -> None:
    content = article("<p>It was so.</p>").replace(b"<title>Acknowledgments</title>", b"")
    [document] = jats.read(content)

    assert isinstance(document, Document)
    assert document.text.endswith("It was so.\n\n# Acknowledgments\n\nThanks.")


def test_a_retracted_article_names_the_notice_about_it() -> None:
    related = '<related-article related-article-type="retraction-forward" id="x"/><permissions>'
    [document] = jats.read(article("<p>It was so.</p>").replace(b"<permissions>", related.encode()))

    assert isinstance(document, Document)
    assert document.meta["related"] == ["retraction-forward"]


@pytest.mark.parametrize(
    ("paragraph", "text"),
    [
        (f'Known [{R2}].', f"Known {BOYD}."),
        (f'Known ({R1}, {R2}) too',
         f"Known {AMES} {BOYD} too"),
        (f'A<sup>{R1},{R2}</sup> B',
         f"A {AMES} {BOYD} B"),
        (f'[{R1}]\u2013[{R2}]',
         f"{AMES} {BOYD}"),
        ('Known [<xref ref-type="bibr" rid="r3">3</xref>]. So', "Known. So"),
        ('Known <xref ref-type="bibr" rid="gone">9</xref> so', "Known so"),
        (f'Lost[{R2}, {R1}].[{R1}]Then',
         f"Lost {BOYD} {AMES}. {AMES} Then"),
        (f'by Boyd (see {R2})', f"by Boyd (see {BOYD})"),
        ("[95% CI 0.45\u20130.86], p<sub>1</sub>", "[95% CI 0.45\u20130.86], p1"),
        ('value<xref ref-type="table-fn" rid="x">a</xref> 5', "value 5"),
        ("the literal [fig] stays", "the literal [fig] stays"),
        ("of course,<break/>o no bullet", "of course, o no bullet"),
    ],
)  # fmt: skip
def test_references_inside_a_paragraph(paragraph: str, text: str) -> None:
    assert body_of(f"<p>{paragraph}</p>") == text


def test_figures_and_tables_are_captions_and_mentions_short_ones() -> None:
    figure, table = '<xref ref-type="fig" rid="f1"/>', '<xref ref-type="table" rid="t1"/>'
    mention = f"(Figure {figure} and {table})"

    assert body_of(f"<p>As shown {mention}.</p>{FIGURE}{TABLE}<p>After it.</p>").splitlines() == [
        "As shown ([fig_ref] Figure 1: Survival [/fig_ref] "
        "and [fig_ref] Table 2: Doses. [/fig_ref]).",
        "",
        "[fig] Figure 1: Survival. By dose (5 mg), at [fig_ref] Figure 1: Survival [/fig_ref]; "
        f"see {BOYD}. [/fig]",
        "",
        "[table] Table 2: Doses. [/table]",
        "",
        "After it.",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("inside", "text"),
    [
        ("5 &#215; 10<sup>9</sup>/L", "5 \u00d7 10⁹/L"),
        ("10<sup>\u22125</sup>", "10⁻⁵"),
        ("<italic>x</italic><sup>n</sup>", "x^n"),
        ("pH<sub>50</sub>2", "pH₅₀2"),
        (f"known [{R2}]", f"known {BOYD}"),
        ('(Table <xref ref-type="table" rid="t1">2</xref>)',
         "([fig_ref] Table 2: Doses. [/fig_ref])"),
    ],
)  # fmt: skip
def test_text_beside_a_block_is_as_text_elsewhere(inside: str, text: str) -> None:
    listed = "<list><list-item><p>a</p></list-item></list>"

    assert body_of(f"<p>It is {inside}{listed}{inside}</p>{TABLE}").splitlines()[:3] == [
        f"It is {text}",
        "- a",
        text,
    ]


def test_a_mention_keeps_both_brackets_of_its_caption() -> None:
    figure = FIGURE.replace("Survival.", "Growth of Conus (Dauciconus) in water")

    assert "[fig_ref] Figure 1: Growth of Conus (Dauciconus) [/fig_ref] shows" in body_of(
        f'<p><xref ref-type="fig" rid="f1">1</xref> shows it.</p>{figure}'
    )


def test_entities_beside_blocks_stay() -> None:
    listed = "<list><list-item><p>&alpha; 5</p></list-item></list>"

    assert body_of(f"<p>Give 5 &mu;g of {listed}&beta;2</p>") == (
        "Give 5 μg of\n- \N{GREEK SMALL LETTER ALPHA} 5\nβ2"
    )


def test_sections_below_the_first_level_have_two_marks() -> None:
    deep = (
        "<sec><title>A</title><sec><title>B</title><sec><title>C</title><p>x</p></sec></sec></sec>"
    )

    assert body_of(deep).split("\n\n") == ["# A", "## B", "## C", "x"]


def test_lists_and_text_after_blocks_inside_a_paragraph_stay() -> None:
    listed = "<list><list-item><p>5 mg</p></list-item><list-item><p>10 mg</p></list-item></list>"

    assert body_of(f"<p>Give:{listed}daily, {FIGURE}and wait.</p>").splitlines() == [
        "Give:",
        "- 5 mg",
        "- 10 mg",
        "daily,",
        "",
        "[fig] Figure 1: Survival. By dose (5 mg), at [fig_ref] Figure 1: Survival [/fig_ref]; "
        f"see {BOYD}. [/fig]",
        "",
        "and wait.",
    ]


@pytest.mark.parametrize(
    ("formula", "text"),
    [
        ("<tex-math>\\begin{document}$$ x = 10^{-3} $$\\end{document}</tex-math>",
         "x = 10^{-3}"),
        ("<mml:math><mml:msup><mml:mn>10</mml:mn><mml:mn>9</mml:mn></mml:msup></mml:math>", "10^9"),
        ("<label>(1)</label><italic>a</italic>=2<italic>b</italic>", "a=2b"),
        ("x<sup>2</sup>=4", "x²=4"),
    ],
)  # fmt: skip
def test_a_formula_stands_alone(formula: str, text: str) -> None:
    body = f"<p>Before <disp-formula>{formula}</disp-formula> after.</p>"

    assert body_of(body).splitlines() == [
        "Before",
        "",
        f"[formula] {text} [/formula]",
        "",
        "after.",
    ]


def test_a_formula_inside_a_line_is_text() -> None:
    math = "<mml:math><mml:mi>n</mml:mi><mml:mo>=</mml:mo><mml:mn>3</mml:mn></mml:math>"
    inline = f"<inline-formula>{math}</inline-formula>"

    assert body_of(f"<p>With {inline} rats.</p>") == "With n = 3 rats."


def test_every_golden_value_survives_in_a_paragraph(values: list[str]) -> None:
    body = "".join(f"<p>Give {escaped(value)}.</p>" for value in values)

    assert body_of(body).splitlines() == [f"Give {value}." for value in values]


def escaped(value: str) -> str:
    return value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def test_an_article_without_a_body_has_its_names_alone() -> None:
    [found] = jats.read(ARTICLE.replace("<body>{body}</body>", "").encode())

    assert isinstance(found, Document)
    assert (found.id, found.text) == ("PMC22", "")
    assert found.names == {"pmid": "11", "pmcid": "22", "doi": "10.1/x"}


def test_an_article_without_a_pmc_id_is_not_called_as_a_citation() -> None:
    """PubMed's updates delete and replace by PMID alone, also in a source with both."""
    without = re.sub(r"<article-id[^>]*pmc.*?</article-id>", "", ARTICLE).format(body="<p>x</p>")
    nameless = re.sub(r"<article-id[^>]*pmid.*?</article-id>", "", without)

    assert [document.id for document in jats.read(without.encode())] == ["pmid:11"]
    assert [document.id for document in jats.read(nameless.encode())] == ["doi:10.1/x"]


def test_a_numbered_version_of_an_article_replaces_earlier_ones() -> None:
    number = '</article-id><article-id pub-id-type="pmcid-ver">PMC22.2</article-id>'
    content = article("<p>x</p>")

    [plain] = jats.read(content)
    [version] = jats.read(content.replace(b"</article-id>", number.encode(), 1))

    assert isinstance(plain, Document)
    assert isinstance(version, Document)
    assert (plain.is_versioned, version.is_versioned) == (False, True)
    assert (version.id, version.names) == (plain.id, plain.names)


def test_an_article_without_any_name_is_rejected() -> None:
    [found] = jats.read(article("<p>x</p>").replace(b"article-id", b"other-id"))

    assert isinstance(found, Rejected)
    assert found.problem == "an article without PMC id, PMID and DOI"


def test_elements_inside_each_other_too_deeply_are_refused() -> None:
    with pytest.raises(BadXml, match="not XML"):
        next(jats.read(article("<p>" + "<bold>" * 300 + "x" + "</bold>" * 300 + "</p>")))


def test_another_kind_of_xml_is_refused() -> None:
    with pytest.raises(BadXml, match="a <html> without an <article>"):
        next(jats.read(b"<html/>"))
