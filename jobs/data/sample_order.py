"""Compute which tokens each sample of a training has, from token counts and the seed alone.

The documents of a corpus are shuffled anew for each epoch, the epochs put one behind the other and
cut into windows of ``seq_length`` tokens and one more, with which the next window begins; then the
windows that end in the same epoch are shuffled. So an epoch reads each token once, a document that
begins in one epoch's last window ends in the next one, and nothing depends on the length of the
training. megatron.core 0.16.1 lays samples out alike (datasets/gpt_dataset.py), but shuffles all
epochs together, so that another number of steps gives another order. No torch, so that a login node
can trace a step to its documents.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from jobs.data.mixture import Drawn, Mixture

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray

KEPT_EPOCHS = 2
"""Epochs of a corpus that are kept laid out; one has 12 bytes per document, 8 per window."""

SAMPLE_HASH = struct.Struct("<2I")
"""Two words of 32 bits."""


class Stretch(NamedTuple):
    """Consecutive tokens of one document in a sample."""

    document: int
    """Its number in the corpus, from 0."""
    offset: int
    """Of the first token, in tokens of the document."""
    tokens: int


class Use(NamedTuple):
    """A stretch of a document in a sample."""

    sample: int
    offset: int
    tokens: int


class Epoch(NamedTuple):
    """The layout of one epoch."""

    documents: Array
    """int32 ``[documents]``, in their order."""
    ends: Array
    """int64 ``[documents]``: tokens up to the end of each."""
    windows: Array
    """int64 ``[samples]``: the window of each sample, from the epoch's first."""


class CorpusOrder:
    """The samples of one corpus, in the order in which training takes them, without an end."""

    def __init__(
        self,
        lengths: Array,
        seq_length: int,
        seed: int,
        stored: Callable[[int], Epoch] | None = None,
    ) -> None:
        """Take the documents.

        Args:
            lengths: [documents], int32, tokens of each; at least one token in all.
            seq_length: tokens of a sample, without the one that is only predicted.
            seed: of the training.
            stored: returns an epoch that was laid out before; None to lay each out when needed.
        """
        import numpy

        self._lengths = lengths
        self._seq_length = seq_length
        self._seed = seed
        self.tokens = int(lengths.sum(dtype=numpy.int64))
        self._stored = stored or self.lay_out
        self._epochs: dict[int, Epoch] = {}

    def first_sample(self, epoch: int) -> int:
        """Return the samples before an epoch, which is that of their first windows too."""
        return max(0, (epoch * self.tokens - 1) // self._seq_length)

    def epoch_of(self, sample: int) -> int:
        """Return the epoch of a sample, or of a window."""
        return (sample + 1) * self._seq_length // self.tokens

    def stretches(self, sample: int) -> list[Stretch]:
        """Return the stretches that make up a sample: ``seq_length`` tokens, and the one that is
        only predicted, which the next window begins with.
        """
        epoch = self.epoch_of(sample)
        first = self.first_sample(epoch)
        window = first + int(self._epoch(epoch).windows[sample - first])
        start = window * self._seq_length
        return list(self._between(start, start + self._seq_length + 1))

    def uses(self, document: int, samples: int) -> list[Use]:
        """Return where the first samples use a document, by sample."""
        import numpy

        length, size = self._seq_length, int(self._lengths[document])
        if not size or not samples:
            return []
        found: list[tuple[int, int, int]] = []
        for epoch in range(self.epoch_of(samples - 1) + 1):
            layout = self._epoch(epoch)
            place = int(numpy.flatnonzero(layout.documents == document)[0])
            end = epoch * self.tokens + int(layout.ends[place])
            begin = end - size
            first = max(0, -(-begin // length) - 1)  # the token that it only predicts counts
            for window in range(first, -(-end // length)):
                start, stop = max(begin, window * length), min(end, (window + 1) * length + 1)
                if start < stop and self.epoch_of(window) <= self.epoch_of(samples - 1):
                    found.append((window, start - begin, stop - start))
        numbers = self._numbers([window for window, _, _ in found])
        uses = (Use(numbers[window], *stretch) for window, *stretch in found)
        return sorted(use for use in uses if use.sample < samples)

    def _between(self, start: int, stop: int) -> Iterator[Stretch]:
        """Yield the stretches of some tokens, which count from the first epoch's first one."""
        while start < stop:
            epoch, within = divmod(start, self.tokens)
            documents, ends, _ = self._epoch(epoch)
            last = min(self.tokens, within + stop - start)
            start += last - within
            place = int(ends.searchsorted(within, side="right"))
            while within < last:
                document, end = int(documents[place]), int(ends[place])
                if within < end:  # an empty document has no tokens
                    begin = end - int(self._lengths[document])
                    yield Stretch(document, within - begin, min(end, last) - within)
                    within = min(end, last)
                place += 1

    def _numbers(self, windows: Sequence[int]) -> dict[int, int]:
        """Return which sample each of some windows is."""
        import numpy

        numbers = {}
        for epoch in sorted({self.epoch_of(window) for window in windows}):
            first, order = self.first_sample(epoch), self._epoch(epoch).windows
            inner = [window - first for window in windows if self.epoch_of(window) == epoch]
            wanted = numpy.array(inner, dtype=order.dtype)
            for sample in numpy.flatnonzero(numpy.isin(order, wanted)):
                numbers[first + int(order[sample])] = first + int(sample)
        return numbers

    def _epoch(self, number: int) -> Epoch:
        if number not in self._epochs:
            while len(self._epochs) >= KEPT_EPOCHS:
                del self._epochs[min(self._epochs)]
            self._epochs[number] = self._stored(number)
        return self._epochs[number]

    def lay_out(self, number: int) -> Epoch:
        """Return the layout of an epoch, which depends on seed and number alone."""
        import numpy

        # A generator whose numbers no release of numpy changes (NEP 19).
        state = numpy.random.RandomState([self._seed, number])
        documents = numpy.arange(len(self._lengths), dtype=numpy.int32)
        state.shuffle(documents)
        ends = numpy.cumsum(self._lengths[documents], dtype=numpy.int64)
        samples = self.first_sample(number + 1) - self.first_sample(number)
        windows = numpy.arange(samples, dtype=numpy.int64)
        state.shuffle(windows)
        return Epoch(documents, ends, windows)


@dataclass(frozen=True)
class TrainingOrder:
    """The samples of a whole training, which takes them in the order of their numbers."""

    mixture: Mixture
    corpora: Mapping[str, CorpusOrder]

    def take(self, first: int, count: int) -> list[Drawn]:
        """Return which sample of which corpus some consecutive samples are."""
        return self.mixture.take(first, count)

    def stretches(self, drawn: Drawn) -> list[Stretch]:
        """Return the stretches of documents that make up a sample."""
        return self.corpora[drawn.corpus].stretches(drawn.number)

    def uses(self, corpus: str, document: int, trained: int) -> list[Use]:
        """Return where the first ``trained`` samples of the training use a document of a corpus."""
        consumed = self.mixture.consumed(trained).get(corpus, 0)
        found = []
        for use in self.corpora[corpus].uses(document, consumed):
            place = self.mixture.place(Drawn(corpus, use.sample))
            assert place is not None
            found.append(use._replace(sample=place))
        return sorted(found)


def fingerprint(tokens: Array, position: int) -> list[int]:
    """Return a fingerprint of samples and their order, by which two readings are compared.

    It is two sums, over the samples, of 32 bits of a hash of a sample's tokens, salted with its
    position in the global batch. Sums of all ranks can be added in any order, also as float64: they
    are exact up to two million samples. A sample of 8192 tokens takes about 40 microseconds.

    Args:
        tokens: int32 ``[samples, seq_length]``.
        position: of the first sample in the global batch.
    """
    sums = [0, 0]
    for number, sample in enumerate(tokens, position):
        salt = number.to_bytes(8, "little")
        digest = hashlib.blake2b(sample, digest_size=8, salt=salt).digest()
        sums = add_fingerprints(sums, SAMPLE_HASH.unpack(digest))
    return sums


def add_fingerprints(one: Sequence[int], other: Sequence[int]) -> list[int]:
    """Return the sum of two fingerprints."""
    return [left + right for left, right in zip(one, other, strict=True)]


def fingerprint_text(sums: Sequence[float]) -> str:
    """Return a fingerprint as metric lines have it, 16 hexadecimal digits."""
    return "".join(f"{int(part) % (1 << 32):08x}" for part in sums)
