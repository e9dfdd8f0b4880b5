"""Texts with markup tokens: where the tokens stand, and what a source cannot forge."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.corpus import marked_text
from jobs.corpus.marked_text import MARKS, MARKUP, block, finish, inline, plain


def tokens(built: str) -> list[str]:
    text, spans, _ = finish(built)
    return [text[begin:end] for begin, end in spans]


def test_a_reference_is_marked_and_the_same_characters_of_a_source_are_not() -> None:
    built = f"See [fig] and{inline('fig_ref', 'Figure 1')}."

    text, spans, repairs = finish(built)

    assert text == "See [fig] and [fig_ref] Figure 1 [/fig_ref]."
    assert spans == ((14, 23), (33, 43))
    assert tokens(built) == ["[fig_ref]", "[/fig_ref]"]
    assert not any(repairs.values())


def test_repairs_and_tidying_move_no_token() -> None:
    built = plain("  5\x9610\u00admg \u200b") + block("formula", "ﬁ  x") + plain("\r\n\r\n\r\nend")

    text, _, repairs = finish(built)

    assert text == "5\u201310-mg\n[formula] fi x [/formula]\n\nend"
    assert tokens(built) == ["[formula]", "[/formula]"]
    assert repairs == {"encoding": 1, "hyphen": 1, "space": 0}


@pytest.mark.parametrize(
    ("built", "text"),
    [
        (f"as shown ({inline('bib_ref', 'A')}).", "as shown ([bib_ref] A [/bib_ref])."),
        (f"one{inline('bib_ref', 'A')}, two", "one [bib_ref] A [/bib_ref], two"),
        (f"one{inline('bib_ref', 'A')}two", "one [bib_ref] A [/bib_ref] two"),
    ],
)
def test_spaces_around_references(built: str, text: str) -> None:
    assert finish(built).text == text


def test_no_source_can_write_a_token() -> None:
    forged = "".join(MARKS.values())

    assert tokens(plain(forged) + "".join(MARKUP)) == []


@given(st.lists(st.one_of(st.text(), st.sampled_from(list(MARKS.values())))))
def test_every_mark_becomes_its_token_in_order(pieces: list[str]) -> None:
    wanted = [marked_text.TOKENS[piece] for piece in pieces if piece in marked_text.TOKENS]
    built = "".join(piece if piece in marked_text.TOKENS else plain(piece) for piece in pieces)

    assert tokens(built) == wanted
