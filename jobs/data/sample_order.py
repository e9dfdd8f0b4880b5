"""Compute which tokens each sample of a training has, from token counts and the seed alone.

The documents of a corpus are shuffled anew for each epoch, the epochs put one behind the other and
cut into windows of ``sequence_length`` tokens and one more, with which the next window begins; then
the windows that end in the same epoch are shuffled. So an epoch reads each token once, a document
that begins in one epoch's last window ends in the next one, and nothing depends on the length of
the training. megatron.core 0.16.1 lays samples out alike (datasets/gpt_dataset.py), but shuffles
all epochs together, so that another number of steps gives another order.

Where the sequence length changes, a section of samples ends. The next one cuts what is unread, in
its order, into windows of its own length: first the windows of the epoch that were not read, one
behind the other, then all later tokens. So it repeats no token and skips none. No torch, so that a
login node can trace a step to its documents.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from jobs.data.mixture import Drawn, Mixture, Section

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
    """The documents of one epoch."""

    documents: Array
    """int32 ``[documents]``, in their order."""
    ends: Array
    """int64 ``[documents]``: tokens up to the end of each."""


class Unread(NamedTuple):
    """The tokens of a corpus that are unread where a section begins. They count from the first
    epoch's first one: some runs, then all from a position on.
    """

    starts: Array
    """int64 ``[runs]``: the first token of each."""
    ends: Array
    """int64 ``[runs]``: unread tokens up to the end of each."""
    position: int
    epoch: int
    """In which the section's first sample ends; ``position`` is not behind it."""

    @property
    def in_runs(self) -> int:
        """Return the tokens of all runs."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def places(self, unread: Array) -> Array:
        """Return which tokens some unread ones are."""
        import numpy

        runs = self.ends.searchsorted(unread, side="right")
        found: Array = self.position + unread - self.in_runs
        within = runs < len(self.ends)
        at = runs[within]
        before = numpy.where(at > 0, self.ends[at - 1], 0)  # unread before each one's run
        found[within] = self.starts[at] + unread[within] - before
        return found


@dataclass(frozen=True)
class Windows:
    """The windows of a section: of what is unread of a corpus, cut into one length."""

    tokens: int
    """Of an epoch."""
    length: int
    unread: Unread

    def _end(self, epoch: int) -> int:
        """Return the unread tokens up to the end of an epoch, which counts from the section's
        first.
        """
        rest = (self.unread.epoch + 1) * self.tokens - self.unread.position
        return self.unread.in_runs + rest + epoch * self.tokens

    def first(self, epoch: int) -> int:
        """Return the windows before those that end in an epoch, as many as samples before it."""
        return max(0, (self._end(epoch - 1) - 1) // self.length) if epoch else 0

    def epoch_of(self, window: int) -> int:
        """Return the epoch that a window ends in, from the section's first."""
        return max(0, ((window + 1) * self.length - self._end(0)) // self.tokens + 1)

    def pieces(self, window: int) -> Iterator[tuple[int, int]]:
        """Yield first and last token, exclusive, of the pieces of a window and of the token after
        it.
        """
        import numpy

        start = window * self.length
        stop = start + self.length + 1
        runs = self.unread.ends
        inner = runs[runs.searchsorted(start, "right") : runs.searchsorted(stop, "left")]
        cuts = numpy.concatenate([[start], inner, [stop]]).astype(numpy.int64)
        for begin, size in zip(self.unread.places(cuts[:-1]), numpy.diff(cuts), strict=True):
            yield int(begin), int(begin + size)

    def parts(self, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield the unread parts of some consecutive tokens: first token, first unread token and
        number.
        """
        starts, ends = self.unread.starts, self.unread.ends
        before = 0
        for run in range(max(0, int(starts.searchsorted(begin, "right")) - 1), len(starts)):
            if starts[run] >= end:
                return
            before = int(ends[run - 1]) if run else 0
            start = int(starts[run])
            first, last = max(begin, start), min(end, start + int(ends[run]) - before)
            if first < last:
                yield first, before + first - start, last - first
        first = max(begin, self.unread.position)
        if first < end:
            yield first, self.unread.in_runs + first - self.unread.position, end - first

    def rest(self, epoch: int, unread_windows: Array) -> Unread:
        """Return what is unread behind this section.

        Args:
            epoch: in which its next sample would end.
            unread_windows: those of the epoch that are left, int64 ``[windows]``, ascending.
        """
        import numpy

        begins = unread_windows * self.length
        ends = begins + self.length
        last, runs = self.first(epoch + 1) * self.length, self.unread.in_runs
        if last < runs:  # what is behind the epoch's last window begins within the runs
            begins, ends = numpy.append(begins, last), numpy.append(ends, runs)
        cuts = numpy.unique(numpy.concatenate([begins, ends, self.unread.ends]))
        pieces, sizes = cuts[:-1], numpy.diff(cuts)
        spans = begins.searchsorted(pieces, side="right") - 1
        left = (spans >= 0) & (pieces < numpy.append(ends, 0)[spans])
        starts, sizes = self.unread.places(pieces[left]), sizes[left]
        position = self.unread.position + max(last, runs) - runs
        begins_run = numpy.ones(len(starts), dtype=bool)
        begins_run[1:] = starts[1:] != starts[:-1] + sizes[:-1]
        ends = numpy.cumsum(sizes)[numpy.append(begins_run, True)[1:]]
        starts = starts[begins_run]
        if len(starts):
            size = int(ends[-1]) - (int(ends[-2]) if len(ends) > 1 else 0)
            if starts[-1] + size == position:  # the last run goes over into what follows
                position, starts, ends = int(starts[-1]), starts[:-1], ends[:-1]
        return Unread(starts, ends, int(position), self.unread.epoch + epoch)


class StoredOrder(Protocol):
    """The layout of a corpus's samples, stored or computed."""

    def epoch(self, number: int) -> Epoch:
        """Return the documents of an epoch."""

    def windows(self, section: int, epoch: int) -> Array:
        """Return the window of each sample of a section that ends in an epoch, both counted from
        the first; int64, from the first window of these.
        """

    def unread(self, section: int) -> Unread:
        """Return what is unread where a section begins."""


class CorpusOrder:
    """The samples of one corpus, in the order in which training takes them, without an end."""

    def __init__(
        self,
        lengths: Array,
        sections: Sequence[Section],
        seed: int,
        stored: StoredOrder | None = None,
    ) -> None:
        """Take the documents.

        Args:
            lengths: [documents], int32, tokens of each; at least one token in all.
            sections: at least one, the first from sample 0 on.
            seed: of the training.
            stored: what was laid out before; None to lay it out when needed.
        """
        import numpy

        self.sections = sections
        self._lengths = lengths
        self._seed = seed
        self.tokens = int(lengths.sum(dtype=numpy.int64))
        self._layout = stored or self
        self._epochs: dict[int, Epoch] = {}
        self._sections: dict[int, Windows] = {}
        self._orders: dict[tuple[int, int], Array] = {}

    def section(self, number: int) -> Windows:
        """Return the windows of a section."""
        if number not in self._sections:
            length, unread = self.sections[number].sequence_length, self._layout.unread(number)
            self._sections[number] = Windows(self.tokens, length, unread)
        return self._sections[number]

    def samples_in(self, section: int, samples: int) -> int:
        """Return how many of the first samples a section has."""
        ends = [*(found.first for found in self.sections[1:]), samples]
        return max(0, min(samples, ends[section]) - self.sections[section].first)

    def epochs_in(self, section: int, samples: int) -> int:
        """Return the epochs in which samples of a section end, of the first samples."""
        count = self.samples_in(section, samples)
        return self.section(section).epoch_of(count - 1) + 1 if count else 0

    def stretches(self, sample: int) -> list[Stretch]:
        """Return the stretches that make up a sample: the tokens of its window, and the one that is
        only predicted, which the next window begins with.
        """
        number = max(n for n, section in enumerate(self.sections) if section.first <= sample)
        inner, section = sample - self.sections[number].first, self.section(number)
        epoch = section.epoch_of(inner)
        first = section.first(epoch)
        window = first + int(self._order(number, epoch)[inner - first])
        return [stretch for piece in section.pieces(window) for stretch in self._between(*piece)]

    def uses(self, document: int, samples: int) -> list[Use]:
        """Return where the first samples use a document, by sample."""
        found = [
            use
            for number in range(len(self.sections))
            for use in self._uses_in(number, document, self.samples_in(number, samples))
        ]
        return sorted(found)

    def _uses_in(self, number: int, document: int, samples: int) -> Iterator[Use]:
        """Yield where the first samples of a section use a document."""
        import numpy

        size = int(self._lengths[document])
        if not size or not samples:
            return
        section, before = self.section(number), self.sections[number].first
        length, last = section.length, section.epoch_of(samples - 1)
        begins = int(section.unread.places(numpy.array([0]))[0])
        found: list[tuple[int, int, int]] = []
        for epoch in range(begins // self.tokens, section.unread.epoch + last + 1):
            layout = self._epoch(epoch)
            place = int(numpy.flatnonzero(layout.documents == document)[0])
            end = epoch * self.tokens + int(layout.ends[place])
            for token, unread, count in section.parts(end - size, end):
                first = max(0, -(-unread // length) - 1)  # the token that it only predicts counts
                for window in range(first, -(-(unread + count) // length)):
                    start = max(unread, window * length)
                    stop = min(unread + count, (window + 1) * length + 1)
                    if start < stop and section.epoch_of(window) <= last:
                        offset = token - (end - size) + start - unread
                        found.append((window, offset, stop - start))
        numbers = self._numbers(number, {window for window, _, _ in found})
        for window, offset, count in found:
            if numbers[window] < samples:
                yield Use(before + numbers[window], offset, count)

    def _between(self, start: int, stop: int) -> Iterator[Stretch]:
        """Yield the stretches of some tokens, which count from the first epoch's first one."""
        while start < stop:
            epoch, within = divmod(start, self.tokens)
            documents, ends = self._epoch(epoch)
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

    def _numbers(self, number: int, windows: Collection[int]) -> dict[int, int]:
        """Return which sample of a section each of some windows is."""
        import numpy

        section, numbers = self.section(number), {}
        for epoch in sorted({section.epoch_of(window) for window in windows}):
            first, order = section.first(epoch), self._order(number, epoch)
            inner = [window - first for window in windows if section.epoch_of(window) == epoch]
            wanted = numpy.array(inner, dtype=order.dtype)
            for sample in numpy.flatnonzero(numpy.isin(order, wanted)):
                numbers[first + int(order[sample])] = first + int(sample)
        return numbers

    def _epoch(self, number: int) -> Epoch:
        if number not in self._epochs:
            while len(self._epochs) >= KEPT_EPOCHS:
                del self._epochs[min(self._epochs)]
            self._epochs[number] = self._layout.epoch(number)
        return self._epochs[number]

    def _order(self, section: int, epoch: int) -> Array:
        if (section, epoch) not in self._orders:
            while len(self._orders) >= KEPT_EPOCHS:
                del self._orders[min(self._orders)]
            self._orders[section, epoch] = self._layout.windows(section, epoch)
        return self._orders[section, epoch]

    def epoch(self, number: int) -> Epoch:
        """Lay out the documents of an epoch, which depend on seed and number alone."""
        return self._shuffled(number)[0]

    def windows(self, section: int, epoch: int) -> Array:
        """Lay out the windows of a section that end in an epoch."""
        import numpy

        found, first = self.section(section), self.sections[section].first
        number = found.unread.epoch + epoch
        # As in megatron.core, documents and windows of a training without sections are shuffled
        # one after the other.
        state = (
            numpy.random.RandomState([self._seed, number, first])
            if section
            else self._shuffled(number)[1]
        )
        windows = numpy.arange(found.first(epoch + 1) - found.first(epoch), dtype=numpy.int64)
        state.shuffle(windows)
        return windows

    def unread(self, section: int) -> Unread:
        """Compute what is unread where a section begins."""
        import numpy

        if not section:
            none = numpy.empty(0, dtype=numpy.int64)
            return Unread(none, none, 0, 0)
        before = self.section(section - 1)
        samples = self.sections[section].first - self.sections[section - 1].first
        epoch = before.epoch_of(samples)
        first = before.first(epoch)
        left = self._order(section - 1, epoch)[samples - first :]
        return before.rest(epoch, first + numpy.sort(left))

    def _shuffled(self, number: int) -> tuple[Epoch, Any]:
        """Return the documents of an epoch, and the generator that has shuffled them."""
        import numpy

        # A generator whose numbers no release of numpy changes (NEP 19).
        state = numpy.random.RandomState([self._seed, number])
        documents = numpy.arange(len(self._lengths), dtype=numpy.int32)
        state.shuffle(documents)
        ends = numpy.cumsum(self._lengths[documents], dtype=numpy.int64)
        return Epoch(documents, ends), state


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
