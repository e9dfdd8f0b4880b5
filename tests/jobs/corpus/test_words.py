"""Hashes of words, beside plain Python."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobs.corpus.words import BLOCK, ngrams, word_hashes

texts = st.text(st.one_of(st.characters(), st.sampled_from("aB1 .-\n\u0301é")))


def words(text: str) -> list[str]:
    """Return the words of a text."""
    normal = unicodedata.normalize("NFKC", text).lower()
    letters = (
        character if character.isalnum() or unicodedata.category(character)[0] == "M" else " "
        for character in normal
    )
    return "".join(letters).split(" ")


def hash_of(word: str) -> int:
    (found,), _ = word_hashes([word])
    return int(found)


@given(st.lists(texts, max_size=4))
@example(["", "a", "", "b c"])
def test_each_word_is_found_in_its_text(several: list[str]) -> None:
    wanted = [[word for word in words(text) if word] for text in several]

    hashes, counts = word_hashes(several)

    assert counts.tolist() == [len(found) for found in wanted]
    assert hashes.tolist() == [hash_of(word) for found in wanted for word in found]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Give 3.5 mg/kg (p<0.05).", "give 3 5 mg kg p 0 05"),
        ("β-Blockers, H₂O; ﬁbrosis\u00a0II", "β blockers h2o fibrosis ii"),
        ("naïve cafe\u0301", "naïve caf\u00e9"),
        ("हिन्दी भाषा", "हिन्दी भाषा"),
    ],
)
def test_what_is_a_word(text: str, found: str) -> None:
    assert word_hashes([text])[0].tolist() == [hash_of(word) for word in found.split()]


def test_hashes_are_the_same_on_every_machine() -> None:
    hashes, _ = word_hashes(["Give 5 mg"])

    assert [f"{value:016x}" for value in hashes.tolist()] == GOLDEN


GOLDEN = ["1eada4d47ae873eb", "f95d76a430c5bb5c", "c1555268b43f31f5"]


def test_a_long_text_has_the_words_of_its_parts() -> None:
    """Texts are hashed in blocks, which end between words."""
    parts = [f"word{number} of\n{number}." for number in range(BLOCK // 8)]

    hashes, counts = word_hashes([" ".join(parts)])

    apart, _ = word_hashes(parts)
    assert counts.tolist() == [3 * len(parts)]
    assert np.array_equal(hashes, apart)


def test_a_run_of_letters_longer_than_a_block_is_cut_the_same_everywhere() -> None:
    run = "acgt" * BLOCK

    hashes, counts = word_hashes(["some text", run])

    assert np.array_equal(hashes[2:], word_hashes([run])[0])
    assert counts.tolist() == [2, 8]


def test_ngrams_are_told_apart_by_order() -> None:
    hashes, _ = word_hashes(["a b c a b d b a c"])

    found = ngrams(hashes, 2).tolist()

    assert len(found) == 8
    assert found[0] == found[3]  # a b
    assert len(set(found)) == 7
    assert ngrams(hashes, 10).tolist() == []
