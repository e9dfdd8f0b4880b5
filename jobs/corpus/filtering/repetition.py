"""Runs of words that occur more than once in a text, for Gopher's rules of repetition."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate


class Runs:
    """The runs of a text's words that occur more than once. They are looked for among those that do
    with one word less, so that long ones cost nothing in most texts.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._words = words
        self._found: dict[int, tuple[list[int], list[int]]] = {}

    def _several(self, count: int) -> tuple[list[int], list[int]]:
        """Return where runs of so many words begin that occur more than once, ascending, and the
        number of each one's run.
        """
        if count not in self._found:
            begins, keys = self._candidates(count)
            times = Counter(keys)
            numbers: dict[tuple[int | str, str], int] = {}
            places = [place for place, key in enumerate(keys) if times[key] > 1]
            self._found[count] = (
                [begins[place] for place in places],
                [numbers.setdefault(keys[place], len(numbers)) for place in places],
            )
        return self._found[count]

    def _candidates(self, count: int) -> tuple[Sequence[int], list[tuple[int | str, str]]]:
        """Return where such runs may begin, and of each what no other run has: the number of the
        run without its last word, and that word.
        """
        if count == 2:
            return range(len(self._words)), list(zip(self._words, self._words[1:], strict=False))
        last = len(self._words) - count
        begins, numbers = self._several(count - 1)
        if begins and begins[-1] > last:
            begins, numbers = begins[:-1], numbers[:-1]
        following = (self._words[begin + count - 1] for begin in begins)
        return begins, list(zip(numbers, following, strict=True))

    @cached_property
    def _ends(self) -> list[int]:
        """Return the characters of the words before each word, and of all."""
        return list(accumulate(map(len, self._words), initial=0))

    def top(self, count: int) -> int:
        """Return the characters in the most frequent run of so many words, with the spaces between
        them; of several the longest, and 0 where no run occurs twice.
        """
        begins, numbers = self._several(count)
        times = Counter(numbers)
        most = max(times.values(), default=0)
        lengths = (
            self._ends[begin + count] - self._ends[begin]
            for begin, number in zip(begins, numbers, strict=True)
            if times[number] == most
        )
        return most * (max(lengths, default=0) + count - 1)

    def repeated(self, count: int) -> int:
        """Return the characters of words in runs that occurred before, each counted once."""
        seen: set[int] = set()
        total = done = 0
        for begin, number in zip(*self._several(count), strict=True):
            if number in seen:
                total += self._ends[begin + count] - self._ends[max(begin, done)]
                done = begin + count
            seen.add(number)
        return total
