"""Names of works, by which records of several sources are found to be of one."""

from __future__ import annotations

import pytest

from jobs.corpus.document import identifiers


@pytest.mark.parametrize(
    ("kind", "text", "name"),
    [
        ("pmid", " 12\n", "12"),
        ("pmcid", "PMC34", "34"),
        ("pmcid", "pmc34", "34"),
        ("doi", "https://doi.org/10.1000/X(5)", "10.1000/x(5)"),
        ("doi", "doi: 10.1000/x", "10.1000/x"),
        ("corpusid", "5", "5"),
    ],
)
def test_a_name_is_written_in_one_way(kind: str, text: str, name: str) -> None:
    assert identifiers([(kind, text)]) == {kind: name}


@pytest.mark.parametrize(
    ("kind", "text", "name"),
    [
        ("pmid", "", "7"), ("pmid", "0", "7"), ("pmid", "N/A", "7"), ("pmid", "nan", "7"),
        ("pmcid", "PMC", "7"), ("doi", "none", "10.1/7"), ("doi", "n/a", "10.1/7"),
        ("doi", "https://doi.org/", "10.1/7"), ("corpusid", "-1", "7"),
    ],
)  # fmt: skip
def test_what_stands_for_a_missing_name_is_none(kind: str, text: str, name: str) -> None:
    """Records that have it would be of one work, of which one is kept."""
    assert identifiers([(kind, text)]) == {}
    assert identifiers([(kind, text), (kind, name)]) == {kind: name}
