"""Signatures of texts, beside the exact similarity of their shingles."""

from __future__ import annotations

import random

import numpy as np
import pytest

from jobs.contract.corpus.rules import NearDuplicatesSpec
from jobs.corpus.duplicates.minhash import SKETCH_WORDS, bands_and_rows, signatures

SPEC = NearDuplicatesSpec(similarity=0.7, words=5)
WORDS = [f"word{number}" for number in range(2000)]


@pytest.mark.parametrize(
    ("similarity", "bands"),
    [(0.5, (28, 4)), (0.7, (18, 6)), (0.75, (16, 7)), (0.8, (14, 8)), (0.9, (10, 11))],
)
def test_bands_follow_from_the_similarity(similarity: float, bands: tuple[int, int]) -> None:
    assert bands_and_rows(similarity) == bands


def edited(words: list[str], edits: int, chance: random.Random) -> list[str]:
    words = list(words)
    for _ in range(edits):
        words[chance.randrange(len(words))] = chance.choice(WORDS)
    return words


def similarity(left: list[str], right: list[str]) -> float:
    sets = [{tuple(words[at : at + 5]) for at in range(len(words) - 4)} for words in (left, right)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


@pytest.mark.parametrize("length", [60, 300])
def test_pairs_are_found_with_the_probability_of_their_similarity(length: int) -> None:
    chance = random.Random(length)
    left = [chance.choices(WORDS, k=length) for _ in range(600)]
    right = [edited(words, chance.randint(1, length // 14), chance) for words in left]
    exact = np.array([similarity(*pair) for pair in zip(left, right, strict=True)])
    bands, rows = bands_and_rows(SPEC.similarity)
    expected = 1 - (1 - exact**rows) ** bands

    signed = [signatures([" ".join(words) for words in side], SPEC) for side in (left, right)]
    found = (signed[0][:, :bands] == signed[1][:, :bands]).any(axis=1)

    tolerance = 3 * np.sqrt((expected * (1 - expected)).sum()) / len(found)
    assert abs(found.mean() - expected.mean()) < tolerance
    assert found[exact > 0.9].all()
    unrelated = signed[0] == np.roll(signed[1], 1, axis=0)
    assert not unrelated.any()
    sketches = [side[:, bands:].copy().view(np.uint8) for side in signed]
    estimated = (sketches[0] == sketches[1]).mean(axis=1)
    assert abs((estimated - exact).mean()) < 0.01
    assert np.std(estimated - exact) < 0.05


def test_a_signature_does_not_depend_on_the_texts_beside_it() -> None:
    chance = random.Random(1)
    texts = [" ".join(chance.choices(WORDS, k=size)) for size in (3, 40, 0, 5, 4, 200, 6)]

    together = signatures(texts, SPEC)

    assert np.array_equal(together, np.concatenate([signatures([text], SPEC) for text in texts]))
    has_bands = (together[:, :18] != 0).all(axis=1)
    assert has_bands.tolist() == [False, True, False, True, False, True, True]
    assert (together[~has_bands] == 0).all()


def test_case_punctuation_and_line_ends_do_not_count() -> None:
    text = "Take 5 mg of the drug, twice daily; see (below)."
    again = "take 5 mg\nof the DRUG twice-daily. See below"

    assert np.array_equal(*signatures([text, again], SPEC))


def test_leaflets_that_differ_in_a_dose_alone_are_near_duplicates() -> None:
    """As documented, a number is one word of many."""
    chance = random.Random(2)
    leaflet = chance.choices(WORDS, k=300)
    other = [*leaflet[:150], "20", "mg", *leaflet[152:]]
    leaflet[150:152] = ["10", "mg"]

    first, second = signatures([" ".join(leaflet), " ".join(other)], SPEC)

    assert (first[:18] == second[:18]).any()


def test_signatures_are_the_same_on_every_machine() -> None:
    (found,) = signatures(["Take 5 mg of the drug, twice daily"], SPEC)

    assert [f"{value:016x}" for value in found[:2].tolist()] == GOLDEN
    assert f"{found[-1]:016x}" == "cf2052312ae8010b"
    assert len(set(found.tolist())) == len(found)


GOLDEN = ["d962be6497444bf6", "a6498fbf28ef6be9"]


def test_texts_of_several_batches_keep_their_places() -> None:
    long = " ".join(WORDS) + " "
    texts = [long * 40, "one two three four five", long * 80, "six seven", long * 90]

    found = signatures(texts, SPEC)

    assert np.array_equal(found[1], signatures(texts[1:2], SPEC)[0])
    assert not found[3].any()
    assert np.array_equal(found[2], found[4])
    assert found.shape == (5, 18 + SKETCH_WORDS)


def test_no_text_has_no_signature() -> None:
    assert signatures([], SPEC).shape == (0, 18 + SKETCH_WORDS)
