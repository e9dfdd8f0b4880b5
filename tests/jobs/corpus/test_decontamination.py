"""Questions of benchmarks in documents, beside a search in plain Python."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.contract.corpus.rules import DecontaminationSpec
from jobs.corpus.decontamination import FEWEST_WORDS, Index, Match

PAPER = DecontaminationSpec((), ngram=8, share=0.8)
QUESTION = (
    "A 45-year-old man takes 5 mg of warfarin daily; which of these drugs raises his INR most?"
)
few_words = st.lists(st.sampled_from(["a", "b", "c"]), max_size=14)
lines = st.lists(few_words.map(" ".join), min_size=1, max_size=3).map("\n".join)


def runs(words: list[str], length: int) -> set[tuple[str, ...]]:
    return {tuple(words[at : at + length]) for at in range(len(words) - length + 1)}


def expected(question: str, text: str, spec: DecontaminationSpec) -> float | None:
    """Return the share of a question that a text contains, None if it is not looked for."""
    length = spec.ngram
    wanted = {run for line in question.splitlines() for run in runs(line.split(), length)}
    if not wanted:
        words = question.split()
        length = min(length, len(words))
        wanted = runs(words, length) if length >= FEWEST_WORDS else set()
    return len(wanted & runs(text.split(), length)) / len(wanted) if wanted else None


@settings(deadline=None, max_examples=80)
@given(
    st.lists(lines, max_size=4), st.lists(few_words.map(" ".join), max_size=4), st.integers(3, 8)
)
def test_the_same_is_found_as_in_plain_python(questions, texts, ngram) -> None:
    spec = DecontaminationSpec((), ngram, 0.5)
    named = [("exam", str(at), question) for at, question in enumerate(questions)]

    index = Index(named, spec)
    found = index.matches_in(texts)

    for text, matches in zip(texts, found, strict=True):
        shares = {item: expected(question, text, spec) for _, item, question in named}
        wanted = [
            Match("exam", item, share) for item, share in shares.items() if share and share >= 0.5
        ]
        assert matches == wanted
        assert index.matches(text) == wanted
    checked = sum(expected(question, "", spec) is not None for question in questions)
    assert index.checked["exam"] == checked
    assert index.too_short["exam"] == len(questions) - checked


def test_case_punctuation_and_layout_hide_no_question() -> None:
    index = Index([("exam", "7", QUESTION)], PAPER)
    leaked = QUESTION.upper().replace(" ", "\n\t").replace(";", " — ").replace("?", " …")

    assert index.matches(f"Some text before. {leaked} And behind.") == [Match("exam", "7", 1.0)]


def test_a_question_with_another_dose_is_another_question() -> None:
    """Of its 12 n-grams 7 have the number."""
    index = Index([("exam", "7", QUESTION)], PAPER)

    assert index.matches(QUESTION.replace("5 mg", "10 mg")) == []


def test_paragraphs_are_found_whatever_stands_between_them() -> None:
    first, second = (" ".join(f"{name}{at}" for at in range(9)) for name in ("one", "two"))
    index = Index([("pubmedqa", "1", f"{first}\n{second}")], PAPER)

    assert index.matches(f"BACKGROUND: {first}. METHODS: {second}.") == [
        Match("pubmedqa", "1", 1.0)
    ]
    assert index.matches(first) == []


def test_no_document_is_pieced_together_from_two() -> None:
    words = QUESTION.split()
    index = Index([("exam", "7", QUESTION)], PAPER)

    assert index.matches_in([" ".join(words[:9]), " ".join(words[9:])]) == [[], []]


def test_without_questions_nothing_matches() -> None:
    assert Index([], PAPER).matches(QUESTION) == []
    assert Index([("exam", "7", "So what?")], PAPER).matches("So what?") == []


def test_a_text_is_covered_by_the_share_of_its_own_ngrams_that_questions_have() -> None:
    spec = DecontaminationSpec((), ngram=3, share=0.8)
    index = Index(
        [("exam", "a", "one two three four five"), ("exam", "b", "six seven eight")], spec
    )

    shares = index.covered(
        ["one two three four", "zero one two three x", "six seven eight", "one two", ""], 3
    )

    assert shares == [1.0, pytest.approx(1 / 3), 1.0, 0.0, 0.0]
