"""E-mail addresses and phone numbers are masked, and nothing that looks similar."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.corpus import marked_text
from jobs.corpus.filtering.masking import PLACEHOLDERS, mask

KINDS = ("email", "phone")
EMAIL, PHONE = (PLACEHOLDERS[kind] for kind in KINDS)
DIGITS = "0123456789"
VALUES = (Path(__file__).parents[3] / "golden" / "values.txt").read_text().splitlines()
"""Doses, ranges, ratios, units, formulas, genes and chemical names."""


@pytest.mark.parametrize(
    "address",
    [
        "jane.doe@uni-basel.ch",
        "o'brien+trial@mail.example.co.uk",
        "5HT2A_group@lab2.example.org",
        "müller@klinik-köln.de",
    ],
)
def test_an_address_is_masked_and_what_stands_around_it_stays(address: str) -> None:
    found, counts = mask(f"Write to <{address}>, or ({address}). 5 mg @ 3.5 h.", KINDS)

    assert found == f"Write to <{EMAIL}>, or ({EMAIL}). 5 mg @ 3.5 h."
    assert counts == {"email": 2, "phone": 0}


@pytest.mark.parametrize(
    "number",
    [
        "+41 21 693 11 11",
        "+33 1 23 45 67 89",
        "+44 (0)20 7946 0958",
        "+1-301-496-4000",
        "+1.301.496.4000",
        "+351 912 345 678",
        "(301) 496-4000",
        "(301)496-4000",
        "301-496-4000",
        "1-800-232-4636",
        "301.496.4000",
    ],
)
def test_a_phone_number_is_masked_and_what_stands_around_it_stays(number: str) -> None:
    assert mask(f"Call {number}, or\n{number}. 5 mg", KINDS) == (
        f"Call {PHONE}, or\n{PHONE}. 5 mg",
        {"email": 0, "phone": 2},
    )


@pytest.mark.parametrize("label", ["Tel: ", "Phone:", "tel. ", "FAX: ", "Telephone no.: ", "TTY: "])
@pytest.mark.parametrize("number", ["021 693 11 11", "7315545282", "(044) 255 1111", "693-1111"])
def test_a_number_after_a_label_is_masked_and_the_label_stays(label: str, number: str) -> None:
    assert mask(f"{label}{number}; 5 mg", KINDS)[0] == f"{label}{PHONE}; 5 mg"
    assert mask(f"about {number}; 5 mg", KINDS)[1]["phone"] == 0


@pytest.mark.parametrize("run", ["a.", "..", "a@", "@a", "+1 ", "1-", "(301)", "Tel: ", "a@b-"])
def test_a_long_run_of_signs_takes_no_longer_than_a_text(run: str) -> None:
    """With the square of the length it would exceed the time limit of a test."""
    text = run * 200_000 + "@"

    assert mask(text, KINDS)[0] == text


def test_only_the_kinds_that_are_asked_for_are_masked() -> None:
    text = "a@b.org, 301-496-4000"

    assert mask(text, ()) == (text, {})
    assert mask(text, ("email",)) == (f"{EMAIL}, 301-496-4000", {"email": 1})
    assert mask(text, ("phone",)) == (f"a@b.org, {PHONE}", {"phone": 1})
    assert mask(mask(text, KINDS)[0], KINDS) == (
        f"{EMAIL}, {PHONE}",
        dict.fromkeys(KINDS, 0),
    )


def test_the_places_of_markup_tokens_follow_the_placeholders() -> None:
    text = f"Mail a@b.org.{marked_text.inline('bib_ref', 'Care, Ames c@d.org')} Tel: 693-1111."
    finished = marked_text.finish(mask(text, KINDS)[0])

    assert finished.text == (f"Mail {EMAIL}. [bib_ref] Care, Ames {EMAIL} [/bib_ref] Tel: {PHONE}.")
    assert [finished.text[begin:end] for begin, end in finished.spans] == [
        "[bib_ref]",
        "[/bib_ref]",
    ]


def written(form: str) -> st.SearchStrategy[str]:
    """Return texts of a form: ``9`` is any digit, other characters are themselves."""
    return st.tuples(
        *(st.sampled_from(DIGITS) if sign == "9" else st.just(sign) for sign in form)
    ).map("".join)


IDENTIFIERS = [
    "10.9999/s99999-999-9999-9",
    "10.9999/jama.9999.99999",
    "https://doi.org/10.9999/999-999-9999",
    "PMID: 99999999",
    "PMID 99999999",
    "PMC9999999",
    "NCT99999999",
    "ISRCTN99999999",
    "ACTRN99999999999999",
    "EudraCT 9999-999999-99",
    "U1111-9999-9999",
    "ISBN 978-9-999-99999-9",
    "ISBN 9-999-99999-9",
    "ISSN 9999-9999",
    "9999-9999-9999-9999",
    "9999-9999-9999-999X",
    "CAS 99999-99-9",
    "2019-99-99",
    "99/99/2019",
    "99.99.2019",
    "p = 0.99999999",
    "P<0.999",
    "(95% CI 9.99-99.99)",
    "(999-9999)",
    "[999, 9999]",
    "999-999 mg",
    "+99.9 to +999",
    "999 999 999 IU",
    "9,999,999",
    "9.9 x 10^9/L",
    "n = 999/9999",
    "9999999999",
    "999.999.999",
    "version 9.99.999",
    "Lot 999999-99",
    "999 9999 99 999",
]


@settings(max_examples=400)
@given(found=st.sampled_from(IDENTIFIERS).flatmap(written))
def test_identifiers_dates_and_results_are_never_masked(found: str) -> None:
    text = f"We saw {found} here, {found}; ({found})."

    assert mask(text, KINDS) == (text, {"email": 0, "phone": 0})


@given(
    values=st.lists(st.sampled_from(VALUES), min_size=1, max_size=8),
    between=st.sampled_from([" ", ", ", "; ", "\n", " to ", " (", "/", " @ "]),
)
def test_golden_values_are_never_masked_in_whatever_order(values: list[str], between: str) -> None:
    text = between.join(values)

    assert mask(text, KINDS) == (text, {"email": 0, "phone": 0})


def test_no_golden_value_is_masked_beside_an_address() -> None:
    for value in VALUES:
        assert mask(f"{value} a@b.org {value} 301-496-4000, {value}", KINDS)[0] == (
            f"{value} {EMAIL} {value} {PHONE}, {value}"
        )
