"""Find the questions of benchmarks in documents, by the n-grams of words they share.

A document contains a question if it has at least a given share of the question's distinct n-grams,
in any order. The rule is that of MEDITRON, Appendix B.5 (8 words, 80 %), with one difference: there
it is the share of a training item's n-grams, while a document here may be much longer than what it
leaks. N-grams do not reach across the lines of a question, so a context of several paragraphs is
found whatever headings a document has between them. A question shorter than an n-gram must be in
the document as a whole; one of fewer than ``FEWEST_WORDS`` words is not checked, and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from jobs.contract.corpus.rules import CorpusRules, DecontaminationSpec
from jobs.corpus.words import Hashes, Rows, ngrams, word_hashes

FEWEST_WORDS = 4
"""A run of fewer words occurs in texts that have nothing to do with a question."""
SLOTS_PER_NGRAM = 16
"""Of a bit table that passes by most n-grams of a document; a power of two."""


class Match(NamedTuple):
    """A question that a document contains."""

    benchmark: str
    item: str
    share: float
    """Of the question's n-grams."""


class Index:
    """The n-grams of all questions, to look documents up in.

    Memory is some 50 bytes per distinct n-gram.
    """

    def __init__(
        self, questions: Iterable[tuple[str, str, str]], spec: DecontaminationSpec
    ) -> None:
        """Take benchmark, item and text of each question."""
        self.checked: Counter[str] = Counter()
        """Questions per benchmark that are looked for."""
        self.too_short: Counter[str] = Counter()
        """Questions per benchmark that are not, having too few words."""
        self._share = spec.share
        self._items: list[tuple[str, str]] = []
        found: list[Hashes] = []
        lengths = set()
        for benchmark, item, text in questions:
            if wanted := _wanted(text, spec.ngram):
                length, grams = wanted
                lengths.add(length)
                found.append(grams)
                self._items.append((benchmark, item))
                self.checked[benchmark] += 1
            else:
                self.too_short[benchmark] += 1
        self._lengths = sorted(lengths)
        self._sizes = np.array([len(grams) for grams in found], np.int64)
        owners = np.repeat(np.arange(len(found)), self._sizes)
        hashes = np.concatenate([np.empty(0, np.uint64), *found])
        self._hashes, places = np.unique(hashes, return_inverse=True)
        self._owners = owners[np.argsort(places, kind="stable")]
        """The questions of each n-gram, side by side."""
        self._counts = np.bincount(places, minlength=len(self._hashes))
        self._begins = np.cumsum(self._counts) - self._counts
        bits = max(len(self._hashes) * SLOTS_PER_NGRAM, 1).bit_length()
        self._shift = np.uint64(64 - bits)
        self._slots = np.zeros(1 << bits, np.bool_)
        self._slots[self._hashes >> self._shift] = True

    def matches(self, text: str) -> list[Match]:
        """Return the questions that a document contains, in their order."""
        return self.matches_in([text])[0]

    def matches_in(self, texts: Sequence[str]) -> list[list[Match]]:
        """Return the questions that each document contains; many short ones are faster together."""
        words, counts = word_hashes(texts)
        ends = np.cumsum(counts)
        found: list[list[Match]] = [[] for _ in texts]
        known = [self._known(words, ends, length) for length in self._lengths]
        keys = np.unique(np.concatenate([np.empty(0, np.int64), *known]))
        if not len(keys):
            return found
        documents, places = np.divmod(keys, len(self._hashes))
        sizes = self._counts[places]
        begins = np.repeat(self._begins[places] + sizes - np.cumsum(sizes), sizes)
        owners = self._owners[begins + np.arange(len(begins))]
        pairs = np.repeat(documents, sizes) * len(self._items) + owners
        pairs, times = np.unique(pairs, return_counts=True)
        shares = times / self._sizes[pairs % len(self._items)]
        leaked = shares >= self._share
        for pair, share in zip(pairs[leaked].tolist(), shares[leaked].tolist(), strict=True):
            document, owner = divmod(pair, len(self._items))
            benchmark, item = self._items[owner]
            found[document].append(Match(benchmark, item, share))
        return found

    def covered(self, texts: Sequence[str], ngram: int) -> list[float]:
        """Return the share of the n-grams of each text that questions have; 0 of a shorter text."""
        words, counts = word_hashes(texts)
        found = np.zeros(len(texts), np.int64)
        if ngram in self._lengths and len(self._hashes):
            documents = self._known(words, np.cumsum(counts), ngram) // len(self._hashes)
            found = np.bincount(documents, minlength=len(texts))
        shares: list[float] = (found / np.maximum(counts - ngram + 1, 1)).tolist()
        return shares

    def _known(self, words: Hashes, ends: Rows, length: int) -> Rows:
        """Return the known n-grams of a length: document times their number, plus the place."""
        grams = ngrams(words, length)
        at = np.flatnonzero(self._slots[grams >> self._shift])
        places = np.searchsorted(self._hashes, grams[at])
        documents = np.searchsorted(ends, at, side="right")
        within = np.minimum(places, len(self._hashes) - 1)
        known = (self._hashes[within] == grams[at]) & (at + length <= ends[documents])
        return np.asarray((documents * len(self._hashes) + places)[known])


def _wanted(text: str, ngram: int) -> tuple[int, Hashes] | None:
    """Return the distinct n-grams of a question and their length, None if it is too short."""
    words, counts = word_hashes(text.splitlines())
    parts = np.split(words, np.cumsum(counts)[:-1]) if len(counts) else []
    grams = np.unique(np.concatenate([words[:0], *(ngrams(part, ngram) for part in parts)]))
    if len(grams):
        return ngram, grams
    length = min(ngram, len(words))
    return (length, np.unique(ngrams(words, length))) if length >= FEWEST_WORDS else None


def index_of(
    rules: CorpusRules,
    questions: Callable[[DecontaminationSpec], Iterable[tuple[str, str, str]]],
) -> Index | None:
    """Return the questions that the rules name, to look documents up in; None without any.

    Args:
        questions: reads benchmark, item and text of each question.

    Raises:
        TaskError: a benchmark cannot be read.
    """
    spec = rules.decontamination
    return Index(questions(spec), spec) if spec else None
