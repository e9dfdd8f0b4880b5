"""Guidelines: published records as they are, pages of scrapers cleaned without losing a value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.corpus import marked_text
from jobs.corpus.document import Document, Rejected
from jobs.corpus.formats import guidelines

from .specs import documents, spec

PUBLISHED = {
    "id": "a1",
    "source": "nice",
    "title": "Sepsis: recognition",
    "clean_text": "Sepsis: recognition\n\n# Care [fig]\nGive 5 mg.",
    "raw_text": "# Care\n\n\u2022 Give **5 mg** [1].",
    "url": "https://a.example/1",
    "overview": "On sepsis.",
}


def read(text_key: str = "text", **record: Any) -> Document:
    document = guidelines.item_of(record, spec(text_key=text_key))
    assert isinstance(document, Document), document
    return document


def test_a_published_record_is_its_clean_text_with_title_and_overview(tmp_path: Path) -> None:
    (tmp_path / "open_guidelines.jsonl").write_text(json.dumps(PUBLISHED) + "\n")

    [document] = documents(tmp_path / "open_guidelines.jsonl", "guidelines")

    assert (document.id, document.title, document.is_marked) == ("a1", "Sepsis: recognition", True)
    assert document.work_id == "id:a1"
    assert document.meta == {"source": "nice", "url": "https://a.example/1"}
    assert marked_text.finish(document.text) == (
        "Sepsis: recognition\n\nOn sepsis.\n\n# Care [fig]\nGive 5 mg.",
        (),
        dict.fromkeys(("encoding", "hyphen", "space"), 0),
    )


def test_the_text_key_raw_text_makes_a_published_record_again_of_its_page() -> None:
    document = read(text_key="raw_text", **PUBLISHED)

    assert document.text == "Sepsis: recognition\n\nOn sepsis.\n\n# Care\n- Give 5 mg."


@pytest.mark.parametrize(
    "record",
    [
        {"title": "T", "text": "## A\nGive 5 mg.\n## B\nNo more.", "url": "https://a.example"},
        {"name": "T", "content": "## A\nGive 5 mg.\n## B\nNo more.", "urls": ["https://a.example"]},
        {"name": "T", "text": {"A": "Give 5 mg.", "B": "No more."}, "url": "https://a.example"},
    ],
)
def test_pages_of_every_scraper_have_one_form(record: dict[str, Any]) -> None:
    document = read(**record)

    assert document.text == "T\n\n# A\nGive 5 mg.\n\n# B\nNo more."
    assert document.meta == {"url": "https://a.example"}


@pytest.mark.parametrize(
    ("record", "rejected"),
    [
        ({"id": 1, "clean_text": " "}, Rejected("1")),
        ({"id": 1, "text": None}, Rejected("1")),
        ({"id": 1, "text": "***"}, Rejected("1")),
        ({"id": 1, "text": 5}, Rejected("1", "the page is neither text nor an object of sections")),
        (
            {"title": "T"},
            Rejected("", "none of the keys 'clean_text', 'raw_text', 'text', 'content'"),
        ),
    ],
)
def test_a_record_without_text_is_rejected(record: dict[str, Any], rejected: Rejected) -> None:
    assert guidelines.item_of(record, spec()) == rejected


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("5&ndash;10 mg, p&lt;0.05 &#8804; 3 &mu;g; AT&T",
         "5\u201310 mg, p<0.05 \u2264 3 μg; AT&T"),
        # values that the released code deleted
        ("Risk p<0.05 in adults, OR>2 in others", None),
        ("Odds 2.1 [95% CI 1.2-3.4] in adults", None),
        ("of all adults\nor others\noral doses\no-toluidine", None),
        (">140/90 mmHg\n> 5 mg", None),
        ("if a <b and c> d", None),
        ("\u2265 5\n140/90\n12", None),
        ("rated 12 [10-15], range [1-5], in [3.5]", None),
        ("CYP2D6*4 and 5 * 3 and 2**3**4", None),
        ("+ 2 SD", None),
        ("[18F]FDG and [18F](2.5)", None),
        ("5\ufffd10 mg", None),
        # steps 1 to 6
        ("See https://a.example/b?c=1. Or (www.a.example).", "See. Or."),
        ("at https://a.b.example/c#d. e Or <http://a.b.example/c>, f", "at. e Or, f"),
        ("link: http://a.b.example/c=d The https://a.example\nf", "link: The\nf"),
        ("[Care](https://a.example/b_(c)) ![x](y.png) [d](#e)", "Care d"),
        ("As shown [12], then.[1,2] [3] And [3\u20135].", "As shown, then. And."),
        ("a<br>b<a href=\"x\">c</a><p>d</p><td>e</td>", "a\nbc\nd\ne"),
        ("10<sup>9</sup>/L, H<sub>2</sub>O, 5<sup>th</sup>", "10\u2079/L, H2O, 5th"),
        ("a <!-- <b>no</b> --> b", "a b"),
        ("\u2022 a\n\u2022b\no c\n* d\n+ e\ni \u2022 j", "- a\n- b\n- c\n- d\n- e\ni - j"),
        ("\uf0b7 f\n\u25a0 g", "- f\n- g"),
        ("> quoted **bold** text \u25c6 more", "quoted bold text more"),
        ("## A\nb\n#### C\n\n\n###### D\n---\n|\ne", "# A\nb\n\n### C\n\n### D\ne"),
        ("##A\nb", "# A\nb"),
        ("#3 in rank", None),
    ],
)  # fmt: skip
def test_cleaning_keeps_values_and_removes_the_rest(text: str, cleaned: str | None) -> None:
    found = marked_text.finish(guidelines.clean(text)).text

    assert found == (text if cleaned is None else cleaned)
    assert marked_text.finish(guidelines.clean(found)).text == found


@pytest.mark.parametrize("frame", ["Give {} now [3].", "- {}", "{}", "Give ({}), as (see {})."])
def test_every_golden_value_survives_cleaning(values: list[str], frame: str) -> None:
    expected = frame.replace(" [3]", "")
    for value in values:
        page = f"# Doses\n{frame.format(value, value)}\nEnd"
        found = marked_text.finish(guidelines.clean(page)).text

        assert found.split("\n")[1:2] == [expected.format(value, value)]
