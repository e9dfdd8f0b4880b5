"""The texts that every verification compares."""

from __future__ import annotations

import unicodedata

from jobs.verification import texts


def test_the_texts_are_short_and_of_several_scripts() -> None:
    found = texts.texts()
    names = {
        unicodedata.name(letter).split()[0]
        for text in found.values()
        for letter in text
        if letter.isalpha()
    }

    assert {"LATIN", "GREEK", "CYRILLIC", "ARABIC", "DEVANAGARI", "CJK", "HIRAGANA"} <= names
    assert all(0 < len(text) < 600 for text in found.values())


def test_three_prompts_are_continued() -> None:
    assert len(set(texts.prompts())) == 3
