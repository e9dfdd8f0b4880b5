"""Documents that filters drop, the order of the filters, and the reasons."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.corpus.document import Document
from jobs.corpus.filtering.filters import REASONS, Drop, Filters, is_sampled
from jobs.corpus.filtering.quality import RULES

from ....corpus_specs import corpus_rules

TEXT = "Patients were asked to take the drug with a meal, and to return after two weeks.\n"


def judged(document: Document, drop: tuple[str, ...] = (), **given: Any) -> Drop | None:
    rules = corpus_rules("/data", drop=drop, **{"min_chars": 0, **given})
    return Filters(rules.sources[0], rules).judge(document, document.text)


def work(title: str = "Asthma", **meta: Any) -> Document:
    return Document("1", title, TEXT, meta=meta)


def test_a_document_is_kept_where_nothing_is_asked_for() -> None:
    work_of_every_kind = work(types=["Preprint", "Retracted Publication"], mesh=["Animals"])

    assert judged(work_of_every_kind) is None


@pytest.mark.parametrize(
    ("kind", "document", "matched"),
    [
        ("retracted", work(types=["Retracted Publication"]), "type Retracted Publication"),
        ("retracted", work(types=["retraction"]), "type retraction"),
        ("retracted", work(types=["Retraction Notice"]), "type Retraction Notice"),
        ("retracted", work(related=["retraction-forward"]), "related article retraction-forward"),
        ("retracted", work("RETRACTED: Asthma"), "title RETRACTED: Asthma"),
        ("preprint", work(types=["Journal Article", "Preprint"]), "type Preprint"),
        ("animals", work(mesh=["Humans", "Animals"]), "MeSH Animals"),
        (
            "veterinary",
            work(types=["Observational Study, Veterinary"]),
            "type Observational Study, Veterinary",
        ),
    ],
)
def test_kinds_of_works_are_dropped_where_they_are_named(
    kind: str, document: Document, matched: str
) -> None:
    others = tuple({"retracted", "preprint", "animals", "veterinary"} - {kind})

    assert judged(document, (kind,)) == Drop(kind, matched)
    assert judged(document, others) is None


@pytest.mark.parametrize(
    "document",
    [
        work("Retraction of the lung during surgery", types=["Journal Article"]),
        work(related=["corrected-article", "companion"]),
        work(mesh=["Animals, Newborn", "Disease Models, Animal"]),
        work(types="Preprint", mesh=None),
    ],
)
def test_other_works_are_kept(document: Document) -> None:
    assert judged(document, ("retracted", "preprint", "animals", "veterinary")) is None


def test_a_short_text_is_dropped_with_its_length() -> None:
    assert judged(work(), min_chars=100) == Drop("length", f"{len(TEXT)} of 100 characters")
    assert judged(work(), min_chars=len(TEXT)) is None


def test_a_declared_language_comes_before_a_detected_one() -> None:
    assert judged(work(languages=["fre"]), languages=("en",)) == Drop("language", "fr declared")
    assert judged(work(languages=["fre", "eng"]), languages=("en",)) is None
    assert judged(work(), languages=("de",)) == Drop("language", "en 1.00")
    assert judged(work(languages=["und"]), languages=("en",)) is None


def test_the_language_of_an_article_is_not_that_of_its_abstract() -> None:
    abstract = Document("1", "", TEXT, meta={"languages": ["fre"]}, is_abstract=True)

    assert judged(abstract, languages=("en",)) is None


def test_the_first_reason_in_the_order_of_reasons_counts() -> None:
    document = work(types=["Preprint"], languages=["fre"])
    found = []
    for dropped, shortest in (("preprint",), 999), ((), 999), ((), 0):
        drop = judged(document, dropped, min_chars=shortest, languages=("en",))
        assert drop is not None
        found.append(drop.reason)

    assert found == sorted(found, key=REASONS.index) == ["preprint", "length", "language"]


def test_a_rule_of_quality_is_a_reason_with_its_value() -> None:
    assert judged(work(), quality="none") is None
    assert judged(work(), quality="gopher") == Drop("gopher: words", "16 of 50 to 100,000")
    assert set(RULES) < set(REASONS)


def test_a_sample_is_inside_every_larger_one() -> None:
    names = [str(number) for number in range(4000)]
    small, large, other = (
        {name for name in names if is_sampled(name, share, seed)}
        for share, seed in ((0.1, 1), (0.5, 1), (0.5, 2))
    )

    assert small < large
    assert 300 < len(small) < 500
    assert 1850 < len(large) < 2150
    assert len(large & other) < 1150
    assert all(is_sampled(name, 1.0, 1) for name in names)
    assert not any(is_sampled(name, 0.0, 1) for name in names)
