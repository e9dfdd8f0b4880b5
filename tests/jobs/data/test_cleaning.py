"""The pure half of curate: what becomes of a text."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.data import cleaning

AWKWARD = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from(" \t\n\r\x0b\x0c\x1c\x85\xa0\xad\u200b\u2028\u2029\ufeff\u0301\u0327e"),
    )
)

VALUES = (Path(__file__).parents[2] / "golden" / "values.txt").read_text().splitlines()
"""Doses, ranges, ratios, units, formulas, genes and chemical names."""

INVISIBLE = "\x00\x02\x1e\x1f\x7f\x81\x96\xad\u200b\ufeff"

NO_REPAIR = {"encoding": 0, "hyphen": 0, "space": 0}

MEDICAL = [
    "Mortality fell (HR 0.62 [95% CI 0.45\u20130.86], p<0.05; n = 1,204).",
    "Give 5 µg/kg/min; target SpO\u2082 ≥ 92 %, HbA1c < 7.0 %.",
    "# Treatment\n\n- Metformin 500 mg b.i.d.\n- Insulin, 0.2 U/kg\n\n## Follow-up\n\n1. 3 months",
    "| drug | dose |\n|---|---|\n| aspirin | 81\u00a0mg |",
    "\u03b2-blockers \u2192 \u2193 heart rate; C\u2083H\u2088O\u2083; 10\u207b\u00b3 mol",
    "See <https://example.org/a?b=c&d> and [1, 2].",
]


@pytest.mark.parametrize("text", MEDICAL)
def test_medical_text_stays_as_it_is(text: str) -> None:
    assert cleaning.normalise(text) == (text, NO_REPAIR)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("one\r\ntwo\rthree\x0bfour\x0cfive\x0csix\u2028seven\u2029eight",
         "one\ntwo\nthree\nfour\nfive\nsix\nseven\neight"),
        ("a\x00b\x07c\x1b[0m\x7f\x9d", "abc[0m"),
        ("hyper\u00adtension \ufeffzero\u200bwidth", "hypertension zerowidth"),
        ("end of line  \t\u00a0\n  indented", "end of line\n  indented"),
        ("one\n\n\n\ntwo\n \n\t\nthree\n\nfour", "one\n\ntwo\n\nthree\n\nfour"),
        ("cafe\u0301", "caf\u00e9"),
        ("e\u200b\u0301", "\u00e9"),
        ("\n\n  text\n\n", "text"),
        (" \n\x00\t\u200b ", ""),
        ("columns\tstay", "columns\tstay"),
    ],
)  # fmt: skip
def test_what_cannot_be_seen_goes(text: str, clean: str) -> None:
    assert cleaning.normalise(text) == (clean, NO_REPAIR)


@pytest.mark.parametrize(
    ("text", "clean", "repairs"),
    [
        ("5\x9610 mg", "5\u201310 mg", {"encoding": 1}),
        ("\x93p \x85\x94", "“p …”", {"encoding": 1}),
        ("5â€\u201c10 Âµg, p â‰¤ 0.05, Î²", "5\u201310 µg, p ≤ 0.05, β", {"encoding": 1}),
        ("ﬁbrin eﬀect", "fibrin effect", {"encoding": 1}),
        ("5\xad10 mg", "5-10 mg", {"hyphen": 1}),
        ("5\x1f10 mg", "5-10 mg", {"hyphen": 1}),
        ("5\x1e10 mg, non\x1ebinding", "5-10 mg, non-binding", {"hyphen": 2}),
        ("IL\xad6 and 5\xad\xadFU at \xad5 °C", "IL-6 and 5-FU at -5 °C", {"hyphen": 3}),
        ("5 \xad 10 mg", "5 - 10 mg", {"hyphen": 1}),
        ("5\x00\xad10", "5-10", {"hyphen": 1}),
        ("5\u200b10, 10\x02mg, 5\x8110", "5 10, 10 mg, 5 10", {"space": 3}),
        ("p<\x000.05, 0\x00.5", "p<0.05, 0.5", {}),
        ("Ã\u200b© of fever", "é of fever", {"encoding": 1}),
    ],
)  # fmt: skip
def test_what_was_damaged_is_repaired_before_anything_goes(
    text: str, clean: str, repairs: dict[str, int]
) -> None:
    assert cleaning.normalise(text) == (clean, NO_REPAIR | repairs)


def test_no_value_of_the_golden_list_changes() -> None:
    assert len(set(VALUES)) == len(VALUES) >= 300
    assert {value: cleaning.normalise(f"Give {value}.")[0] for value in VALUES} == {
        value: f"Give {value}." for value in VALUES
    }


def test_values_decoded_with_another_code_page_get_their_meaning_back() -> None:
    damaged = {
        value: mistaken
        for value in VALUES
        if (mistaken := decoded(value, "cp1252", "latin-1")) not in ("", value)
    }

    assert len(damaged) > 20
    assert {value: cleaning.normalise(mistaken)[0] for value, mistaken in damaged.items()} == {
        value: value for value in damaged
    }


def test_values_decoded_as_bytes_of_windows_are_restored_or_left_alone() -> None:
    damaged = {
        value: mistaken
        for value in VALUES
        if (mistaken := decoded(value, "utf-8", "cp1252")) not in ("", value)
    }

    found = {value: cleaning.normalise(mistaken)[0] for value, mistaken in damaged.items()}

    assert all(text in (value, damaged[value]) for value, text in found.items())
    restored = sum(text == value for value, text in found.items())
    assert restored / len(damaged) > 0.9  # ftfy leaves what might be meant, as in "Ã…" for "Å"


def decoded(value: str, encoding: str, mistaken: str) -> str:
    """Return a text whose bytes are decoded wrongly; empty where they cannot be."""
    try:
        return value.encode(encoding).decode(mistaken)
    except UnicodeError:
        return ""


@given(st.lists(st.integers(0, 9999), min_size=2), st.lists(st.sampled_from(INVISIBLE)))
def test_no_two_numbers_become_one(numbers: list[int], marks: list[str]) -> None:
    gaps = [*marks, *["\x96"] * len(numbers)]
    text = "".join(f"{number}{gap}" for number, gap in zip(numbers, gaps, strict=False))

    clean, _ = cleaning.normalise(text)

    assert re.findall("[0-9]+", clean) == [str(number) for number in numbers]


@given(AWKWARD)
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    once, _ = cleaning.normalise(text)

    assert cleaning.normalise(once) == (once, NO_REPAIR)


@given(AWKWARD)
def test_normalised_text_is_nfc_without_control_characters_or_trailing_space(text: str) -> None:
    clean, _ = cleaning.normalise(text)

    assert unicodedata.is_normalized("NFC", clean)
    assert not [mark for mark in clean if unicodedata.category(mark) == "Cc" and mark not in "\n\t"]
    assert all(line == line.rstrip() for line in clean.split("\n"))
    assert "\n\n\n" not in clean


@given(AWKWARD)
def test_visible_characters_survive_in_order_where_nothing_is_repaired(text: str) -> None:
    def visible(value: str) -> str:
        kept = (mark for mark in value if mark.isprintable() and not mark.isspace())
        return unicodedata.normalize("NFD", "".join(kept))

    clean, repairs = cleaning.normalise(text)

    if not any(repairs.values()):
        assert visible(clean) == visible(text)


def test_a_long_run_of_spaces_costs_no_more_than_other_text() -> None:
    text = "a" + " " * 2_000_000 + "b"

    assert cleaning.normalise(text) == (text, NO_REPAIR)


@pytest.mark.parametrize(
    ("value", "identity"),
    [
        ("PMC1", "PMC1"),
        (17, "17"),
        ("", "6162" * 8),
        (None, "6162" * 8),
        (True, "6162" * 8),
        (1.5, "6162" * 8),
        (["PMC1"], "6162" * 8),
    ],
)
def test_a_record_without_a_usable_id_is_known_by_its_digest(value: object, identity: str) -> None:
    assert cleaning.document_id(value, b"ab" * 8) == identity
