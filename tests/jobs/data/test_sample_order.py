"""The order of samples, beside a plain computation of every token."""

from __future__ import annotations

import random
from collections import Counter

import numpy
import pytest

from jobs.data.mixture import Interleaving, MixedPhase, Mixture, Section
from jobs.data.sample_order import CorpusOrder, TrainingOrder, Use

EPOCHS = 4


def plain_samples(lengths: list[int], length: int, seed: int) -> list[list[tuple[int, int]]]:
    """Return document and offset of each token of the samples of ``EPOCHS`` epochs: all tokens in
    one list, cut into windows, shuffled by the epoch that they end in.
    """
    stream: list[tuple[int, int]] = []
    samples: list[list[tuple[int, int]]] = []
    for epoch in range(EPOCHS):
        state = numpy.random.RandomState([seed, epoch])
        documents = numpy.arange(len(lengths), dtype=numpy.int32)
        state.shuffle(documents)
        stream += [(int(d), offset) for d in documents for offset in range(lengths[d])]
        first = len(samples)
        order = numpy.arange((len(stream) - 1) // length - first, dtype=numpy.int64)
        state.shuffle(order)
        starts = [(first + int(window)) * length for window in order]
        samples += [stream[start : start + length + 1] for start in starts]
    return samples


def order_of(lengths: list[int], length: int, seed: int) -> CorpusOrder:
    return CorpusOrder(numpy.array(lengths, dtype=numpy.int32), [Section(0, length)], seed)


def corpora() -> list[tuple[list[int], int, int]]:
    source = random.Random(20)
    found = [([3], 8, 1), ([100], 8, 2)]  # an epoch shorter than a sample; one document
    for _ in range(12):
        length, documents = source.choice((3, 8, 31)), source.randrange(2, 30)
        longest = source.choice((5, 60))
        lengths = [source.choice((0, 1, source.randrange(longest))) for _ in range(documents)]
        found.append(([*lengths, 2], length, source.randrange(10**6)))
    return found


@pytest.mark.parametrize(("lengths", "length", "seed"), corpora())
def test_samples_are_those_of_the_plain_computation(
    lengths: list[int], length: int, seed: int
) -> None:
    order = order_of(lengths, length, seed)
    expected = plain_samples(lengths, length, seed)

    uses: dict[int, list[Use]] = {document: [] for document in range(len(lengths))}
    for sample, tokens in enumerate(expected):
        stretches = order.stretches(sample)
        assert [
            (document, offset + place)
            for document, offset, count in stretches
            for place in range(count)
        ] == tokens
        for document, offset, count in stretches:
            uses[document].append(Use(sample, offset, count))
    assert order.section(0).first(EPOCHS) == len(expected)
    for document, used in uses.items():
        for trained in (0, len(expected) // 3, len(expected)):
            found = order.uses(document, trained)
            assert found == sorted(use for use in used if use.sample < trained)


@pytest.mark.parametrize(("lengths", "length", "seed"), corpora())
def test_an_epoch_repeats_nothing_and_skips_nothing(
    lengths: list[int], length: int, seed: int
) -> None:
    samples = plain_samples(lengths, length, seed)
    read = Counter(token for sample in samples for token in sample[:-1])

    assert all(count <= EPOCHS for count in read.values())
    unread = EPOCHS * sum(lengths) - read.total()
    assert 1 <= unread <= length  # the end, which the next epoch begins with


def test_the_order_does_not_depend_on_the_length_of_the_training() -> None:
    lengths = {"a": numpy.full(50, 40, dtype=numpy.int32), "b": numpy.full(9, 7, dtype=numpy.int32)}
    mixture = Mixture([MixedPhase(0, 0, {}, Interleaving({"a": 0.9, "b": 0.1}), 16)])
    short, long = (
        TrainingOrder(
            mixture,
            {name: CorpusOrder(found, [Section(0, 16)], 3) for name, found in lengths.items()},
        )
        for _ in range(2)
    )
    late = [long.stretches(drawn) for drawn in long.take(300, 40)]

    drawn = short.take(0, 340)
    assert [short.stretches(item) for item in drawn[300:]] == late
    for corpus, document in (("a", 0), ("a", 49), ("b", 8)):
        uses = {
            Use(sample, offset, count)
            for sample, item in enumerate(drawn)
            if item.corpus == corpus
            for number, offset, count in short.stretches(item)
            if number == document
        }
        assert uses
        assert short.uses(corpus, document, 340) == sorted(uses)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    lengths = numpy.full(40, 10, dtype=numpy.int32)
    orders = [CorpusOrder(lengths, [Section(0, 20)], seed) for seed in (1, 2)]
    epochs = [
        [order.stretches(sample) for sample in range(first, first + 19)]
        for order in orders
        for first in (order.section(0).first(0), order.section(0).first(1))
    ]

    assert len({str(found) for found in epochs}) == 4


def changes() -> list[tuple[list[int], list[Section], int]]:
    """Return corpora and sections, as if phases changed the sequence length at some samples."""
    source = random.Random(8)
    found = []
    for lengths, length, seed in corpora():
        sections, first = [Section(0, length)], 0
        for _ in range(source.randrange(1, 4)):
            epoch = sum(lengths) // sections[-1].sequence_length
            first += source.choice((1, source.randrange(1, 3 * epoch + 3)))
            sections.append(Section(first, source.choice((1, 2, 5, 16, 64))))
        found.append((lengths, sections, seed))
    return found


def read_tokens(order: CorpusOrder, samples: range) -> list[list[tuple[int, int]]]:
    """Return document and offset of the tokens of some samples."""
    return [
        [(document, offset + place) for document, offset, n in parts for place in range(n)]
        for parts in map(order.stretches, samples)
    ]


@pytest.mark.parametrize(("lengths", "sections", "seed"), changes())
def test_a_change_of_the_sequence_length_repeats_nothing_and_skips_nothing(
    lengths: list[int], sections: list[Section], seed: int
) -> None:
    order = CorpusOrder(numpy.array(lengths, dtype=numpy.int32), sections, seed)
    last, length = order.section(len(sections) - 1), sections[-1].sequence_length
    epochs = 3 + length // sum(lengths)
    end = sections[-1].first + last.first(epochs)

    read: list[int] = []
    samples = read_tokens(order, range(end))
    for number in range(len(sections)):
        windows = order.section(number)
        for sample in range(order.samples_in(number, end)):
            epoch = windows.epoch_of(sample)
            place = int(order.windows(number, epoch)[sample - windows.first(epoch)])
            pieces = windows.pieces(windows.first(epoch) + place)
            read += [token for piece in pieces for token in range(*piece)][:-1]
    whole = (last.unread.epoch + epochs) * sum(lengths)
    assert len(read) == len(set(read)) == sum(len(sample) - 1 for sample in samples)
    assert whole - length <= len(read) < whole
    assert set(read) <= set(range(whole))
    counts = Counter(token for sample in samples for token in sample[:-1])
    assert max(counts.values()) <= last.unread.epoch + epochs
    for number, section in enumerate(sections):
        count = order.samples_in(number, end)
        inside = samples[section.first : section.first + count]
        assert {len(sample) for sample in inside} <= {section.sequence_length + 1}


@pytest.mark.parametrize(("lengths", "sections", "seed"), changes())
def test_a_document_is_traced_across_changes_of_the_sequence_length(
    lengths: list[int], sections: list[Section], seed: int
) -> None:
    order = CorpusOrder(numpy.array(lengths, dtype=numpy.int32), sections, seed)
    end = sections[-1].first + 9
    expected = [
        Use(sample, offset, count)
        for sample in range(end)
        for document, offset, count in order.stretches(sample)
        if document == 0
    ]

    assert order.uses(0, end) == sorted(expected)
    assert order.uses(0, end // 2) == sorted(use for use in expected if use.sample < end // 2)


@pytest.mark.parametrize(("lengths", "sections", "seed"), changes()[:12])
def test_a_later_section_leaves_the_samples_before_it_as_they_are(
    lengths: list[int], sections: list[Section], seed: int
) -> None:
    documents = numpy.array(lengths, dtype=numpy.int32)
    whole = CorpusOrder(documents, sections, seed)
    for number in range(1, len(sections)):
        before = CorpusOrder(documents, sections[:number], seed)
        samples = range(sections[number].first)
        assert read_tokens(before, samples) == read_tokens(whole, samples)
