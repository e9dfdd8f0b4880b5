"""Statistics of tokenized documents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy


@dataclass
class Counts:
    """Documents, tokens and words that a task has read and written."""

    documents: int = 0
    """Written."""
    skipped: int = 0
    """Read, but without a text or a token."""
    tokens: int = 0
    """Written, with BOS and ends."""
    text_tokens: int = 0
    """Those of texts: without BOS and ends."""
    text_bytes: int = 0
    """UTF-8 of the texts."""
    words: int = 0
    """Runs of characters without a space, tab or line end."""
    longest: int = 0
    """Tokens of the longest document, with BOS and end."""
    unknown: int = 0
    """Unknown tokens of the vocabulary."""
    eod_in_text: int = 0
    """Ends of documents inside of a text."""
    literals: int = 0
    """Names of tokens in texts, where no token was curated."""
    read: int = 0
    """Documents read, each of which is written or skipped."""
    sources: dict[str, int] = field(default_factory=dict)
    """``tokens`` by the name of the source."""

    def add(self, other: Counts) -> None:
        """Add the counts of other documents."""
        for name, value in asdict(other).items():
            mine = getattr(self, name)
            if name == "sources":
                mine.update({key: mine.get(key, 0) + count for key, count in value.items()})
                continue
            setattr(self, name, max(mine, value) if name == "longest" else mine + value)

    @property
    def fertility(self) -> float | None:
        """Return the tokens per word."""
        return self.text_tokens / self.words if self.words else None

    @property
    def bytes_per_token(self) -> float | None:
        """Return the bytes of text per token."""
        return self.text_bytes / self.text_tokens if self.text_tokens else None

    def to_json(self) -> dict[str, Any]:
        """Return the counts and their ratios."""
        ratios = {"fertility": self.fertility, "bytes_per_token": self.bytes_per_token}
        return {**asdict(self), **ratios}


def merged(items: Iterable[Mapping[str, Any]]) -> Counts:
    """Return the sum of recorded counts; what an older program has not counted is 0."""
    whole = Counts()
    for item in items:
        whole.add(Counts(**{name: item[name] for name in asdict(whole) if name in item}))
    return whole


def words_and_bytes(texts: list[str]) -> tuple[int, int]:
    """Return the words and the UTF-8 bytes of texts."""
    import numpy

    data: numpy.ndarray = numpy.frombuffer("\n".join(["", *texts]).encode(), dtype="u1")
    visible = data > ord(" ")
    words = int(numpy.count_nonzero(visible[1:] > visible[:-1]))
    return words, len(data) - len(texts)


def tokens_of_sources(sources: Sequence[str], lengths: numpy.ndarray) -> dict[str, int]:
    """Return the tokens by source of some documents."""
    import numpy

    names = dict.fromkeys(sources)
    if len(names) == 1:  # mostly: a shard has one source after the other
        return dict.fromkeys(names, int(lengths.sum()))
    named = numpy.array(sources)
    return {name: int(lengths[named == name].sum()) for name in names}
