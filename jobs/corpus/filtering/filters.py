"""Drop documents of a source, each with a reason and what matched.

Everything here is a function of the document, its text and the rules alone: no state, no files, no
random numbers. Filters never change a text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from jobs.contract.corpus.rules import CorpusRules, SourceSpec
from jobs.corpus.document import Document
from jobs.corpus.filtering import language, quality, works
from jobs.corpus.filtering.chance import drawn

REASONS = (*works.KINDS, "length", "language", *quality.RULES)
"""Reasons of a drop, in the order in which they are checked."""


class Drop(NamedTuple):
    """The reason why a document is dropped."""

    reason: str
    """One of REASONS."""
    matched: str
    """What the filter found, for people, such as ``12 of 100 characters``."""


class Filters:
    """The filters of one source."""

    def __init__(self, source: SourceSpec, rules: CorpusRules) -> None:
        self._source = source
        self._kinds = {name: works.KINDS[name] for name in works.KINDS if name in rules.drop}

    def judge(self, document: Document, text: str) -> Drop | None:
        """Return why a document is dropped; None for one that is kept.

        Args:
            document: as its reader yields it.
            text: cleaned, its markup tokens spelt out.
        """
        return next(self._drops(document, text), None)

    def unwanted(self, document: Document) -> Iterator[Drop]:
        """Yield the kinds for which the document's work is dropped."""
        for name, found in self._kinds.items():
            for matched in found(document.title, document.meta):
                yield Drop(name, matched)

    def _drops(self, document: Document, text: str) -> Iterator[Drop]:
        yield from self.unwanted(document)
        if len(text) < self._source.min_chars:
            yield Drop("length", f"{len(text)} of {self._source.min_chars} characters")
        if self._source.languages and (matched := self._language(document, text)):
            yield Drop("language", matched)
        if broken := quality.first_broken(self._source.quality, text):
            yield Drop(*broken)

    def _language(self, document: Document, text: str) -> str:
        """Return the language that is not wanted. What a record declares is that of the article:
        PubMed's abstracts are in English whatever it is.
        """
        wanted = self._source.languages
        known = language.declared(works.values(document.meta, "languages"))
        if known and not document.is_abstract:
            return "" if known & set(wanted) else f"{', '.join(sorted(known))} declared"
        return language.detect(text, wanted)


def is_sampled(identity: str, share: float, seed: int) -> bool:
    """Return whether a document is in a sample: its id, hashed to [0, 1), is below the share.

    A document of a sample is in every larger one with the same seed, whatever else is read.
    """
    return drawn("sample", identity, seed) < share
