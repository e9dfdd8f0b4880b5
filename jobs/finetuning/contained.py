"""Training items that are questions of a test split, by the words that they share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from jobs.contract.corpus.rules import DecontaminationSpec
from jobs.corpus.decontamination import Index
from jobs.questions.benchmark_questions import questions

SEVERAL = "several"
"""Instead of a benchmark, for an item whose n-grams are those of several questions."""


class Contained(NamedTuple):
    """An item that is left out, and a question for which it is."""

    item: str
    benchmark: str
    question: str
    share: float
    """Of the question's n-grams that the item has; of ``several``, of the item's n-grams that
    questions have."""


class Comparison:
    """Compares items with the test questions of benchmarks.

    An item is left out by the rule of the paper (App. B.5, p. 26), which is about the share of its
    own n-grams that the test set has, and by that of a corpus, about the share of a question's.
    """

    def __init__(self, spec: DecontaminationSpec) -> None:
        self._spec = spec
        self._index = Index(questions(spec), spec)
        self.found: list[Contained] = []

    def left_out(self, names: Sequence[str], texts: Sequence[str]) -> list[bool]:
        """Return whether each item is left out, and record why."""
        matches = self._index.matches_in(texts)
        covered = self._index.covered(texts, self._spec.ngram)
        for name, found, share in zip(names, matches, covered, strict=True):
            self.found += [Contained(name, *match) for match in found]
            if not found and share >= self._spec.share:
                self.found.append(Contained(name, SEVERAL, "", share))
        pairs = zip(matches, covered, strict=True)
        return [bool(found) or share >= self._spec.share for found, share in pairs]

    def report(self) -> dict[str, Any]:
        """Return the rule and, of each benchmark, its questions and how many occur."""
        occurring = Counter(name for name, _ in {found[1:3] for found in self.found})
        return {
            "ngram": self._spec.ngram,
            "share": self._spec.share,
            "benchmarks": {
                benchmark.name: {
                    "path": benchmark.path,
                    "compared": self._index.checked[benchmark.name],
                    "too_short": self._index.too_short[benchmark.name],
                    "occurring": occurring[benchmark.name],
                }
                for benchmark in self._spec.benchmarks
            },
            "items_left_out": len({found.item for found in self.found}),
        }
