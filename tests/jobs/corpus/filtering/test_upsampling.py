"""MEDITRON's score of works, and how often a document is written by it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from jobs.corpus.document import Document
from jobs.corpus.filtering.upsampling import copies, score

from ....corpus_specs import corpus_rules

RULES = corpus_rules(
    upsample=1.0,
    upsample_journals=("The Lancet. Oncology",),
    upsample_citations=(2.0, 10.0),
)
OLD = "1990-01-01"


def work(*types: str, **meta: Any) -> Document:
    return Document("1", "", "", meta={"types": list(types), **meta})


@pytest.mark.parametrize(
    ("document", "points"),
    [
        (work(), 0.0),
        (work("Case Reports", "Journal Article", date="2023-01-01"), 0.0),
        (work("Meta-Analysis", date=OLD), 1.0),
        (work("Practice Guideline", "Systematic Review", "Review", date=OLD), 2.3),
        (work("Clinical Trial, Phase III", "Randomized Controlled Trial", date=OLD), 1.1),
        (work("review-article", date=OLD), 0.5),
        (work("letter", date=OLD), 0.1),
        (work("MetaAnalysis", "JournalArticle", "LettersAndComments", date=OLD), 1.1),
        (work(journal="the lancet oncology", date=OLD), 1.0),
        (work(journal="The Lancet", date=OLD), 0.0),
        (work("Review", date="2023-07-15"), 1.5),
        (work("Review", date="2018-01-14"), 1.5),
        (work("Review", date="2018-01-13"), 0.7),
        (work("Review", date="2013-07-17"), 0.7),
        (work("Review", date="2013-07-16"), 0.5),
        (work("Review", date="2018"), 0.7),
        (work("Review", date="2018-02"), 1.5),
        (work("Review", date="soon", citations=9), 0.5),
        (work("Review", date=OLD, citations=2 * 34), 0.5),
        (work("Review", date=OLD, citations=3 * 34), 1.0),
        (work("Review", date=OLD, citations=11 * 34), 1.5),
        (work(date="2023-01-01", citations=999), 0.0),
    ],
)
def test_points_are_those_of_the_paper(document: Document, points: float) -> None:
    assert score(document, RULES) == pytest.approx(points)


def test_age_counts_from_the_day_of_the_rules() -> None:
    document = work("Review", date="2018-05-01")

    assert score(document, replace(RULES, upsample_date="2028-01-01")) == pytest.approx(0.7)


def test_citations_have_no_points_without_the_quarters() -> None:
    document = work("Review", date=OLD, citations=999)

    assert score(document, replace(RULES, upsample_citations=())) == 0.5


def test_a_document_is_written_once_without_upsampling_and_without_points() -> None:
    assert copies(work("Review"), "1", replace(RULES, upsample=0.0)) == 1
    assert copies(work(), "1", RULES) == 1


def test_copies_are_the_score_on_average_and_depend_on_seed_and_id_alone() -> None:
    document = work("Review", date="2023-01-01")
    names = [str(number) for number in range(2000)]
    found = [copies(document, name, RULES) for name in names]
    again = [copies(document, name, RULES) for name in reversed(names)]
    other = [copies(document, name, replace(RULES, seed=2)) for name in names]

    assert set(found) == {2, 3}
    assert 900 < found.count(3) < 1100
    assert found == again[::-1] != other
