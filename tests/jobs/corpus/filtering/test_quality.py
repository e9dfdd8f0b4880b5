"""Presets of quality: which texts break which rule, and that good ones break none."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.corpus.filtering import measures, quality
from jobs.corpus.filtering.measures import Text
from jobs.corpus.filtering.repetition import Runs

from .quality_cases import CASES, GOOD, lines, sentences

WORDS = st.lists(st.sampled_from(["a", "bb", "ccc", "d1"]), max_size=60)
ABSTRACT = (
    "BACKGROUND: Falls are common. METHODS: 52 patients (34%) took 5-10 mg/d (p<0.05; OR 2.1, 95%"
    " CI 1.2-3.4). RESULTS: 12/26 vs. 20/26 fell (p=0.02)."
)


@pytest.mark.parametrize("name", CASES)
def test_gopher_and_fineweb_drop_what_datatrove_drops(name: str) -> None:
    text, gopher, fineweb = CASES[name]

    found = [quality.first_broken(preset, text) for preset in ("gopher", "fineweb")]

    assert [broken[0] if broken else "" for broken in found] == [gopher, gopher or fineweb]


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        (ABSTRACT, None),
        (f"Title.\n\n# Abstract\n\n{GOOD}", None),
        (f"{GOOD}\nNo abstract available (n = 4) and no full text (n = 7).", None),
        ("", ("abstracts: words", "0 of 20 up")),
        ("An example.\nNo abstract available.", ("abstracts: placeholders", "1 of at most 0")),
        (
            f"{sentences(4)}\n[This corrects the article DOI: 10.1/x.]",
            ("abstracts: placeholders", "1 of at most 0"),
        ),
        (" ".join("x1 to" for _ in range(20)), ("abstracts: mean word length", "2.0 of 3 to 12")),
        (f"the of {'12.5 (3-4) ' * 20}", ("abstracts: letters", "0.027 of 0.5 up")),
        (
            f"Title.\n{sentences(3)}\n{sentences(3)}\n{sentences(3)}",
            ("abstracts: characters in repeated lines", "0.652 of at most 0.5"),
        ),
    ],
)
def test_abstracts_are_dropped_with_what_was_measured(
    text: str, broken: tuple[str, str] | None
) -> None:
    assert quality.first_broken("abstracts", text) == broken


def test_no_preset_drops_a_good_text_for_a_value_in_it(values: list[str]) -> None:
    dropped = {
        (preset, value, broken)
        for preset in quality.PRESETS
        for value in values
        if (broken := quality.first_broken(preset, f"{GOOD}\nThe dose was {value} in all."))
    }

    assert not dropped


def test_headings_and_formulas_of_the_curator_are_no_hashes_and_brackets() -> None:
    marked = "\n\n".join(f"## Part\n\n{sentence}" for sentence in lines(30).split("\n"))
    formula = "[formula] \\frac{a}{b} [/formula]"

    assert quality.first_broken("abstracts", f"{marked} {formula}") is None
    assert quality.first_broken("fineweb", f"{GOOD} {formula}") is None
    for rule in quality.PRESETS["gopher"]:
        assert rule.name != "gopher: hashes per word" or rule.measure(Text(marked)) == 0


@pytest.mark.parametrize("run", ["- \n", "...", "\n\n", "[formula] {", ". \n"])
def test_a_long_run_of_signs_is_measured_as_fast_as_a_text(run: str) -> None:
    """With the square of the length it would exceed the time limit of a test."""
    text = Text(run * 200_000)

    assert measures.placeholders(text) == 0
    assert measures.curly_brackets(text) == 0
    assert measures.sentences(text) >= 0


def top(words: list[str], count: int) -> int:
    """Return what ``Runs.top`` does, by counting every run."""
    runs = [tuple(words[begin : begin + count]) for begin in range(len(words) - count + 1)]
    times = Counter(runs)
    most = max(times.values(), default=0)
    lengths = [len(" ".join(run)) for run in runs if times[run] == most]
    return most * max(lengths) if most > 1 else 0


def repeated(words: list[str], count: int) -> int:
    """Return what ``Runs.repeated`` does, by marking every word."""
    runs = [tuple(words[begin : begin + count]) for begin in range(len(words) - count + 1)]
    marked: set[int] = set()
    for begin, run in enumerate(runs):
        if run in runs[:begin]:
            marked.update(range(begin, begin + count))
    return sum(len(words[place]) for place in marked)


@given(words=WORDS, count=st.integers(2, 7))
def test_runs_are_found_as_by_counting_every_one(words: list[str], count: int) -> None:
    found = Runs(words)

    assert found.top(count) == top(words, count)
    assert found.repeated(count) == repeated(words, count)
