"""The order of samples, beside a plain computation of every token."""

from __future__ import annotations

import random
from collections import Counter

import numpy
import pytest

from jobs.data.mixture import Interleaving, MixedPhase, Mixture
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
    order = CorpusOrder(numpy.array(lengths, dtype=numpy.int32), length, seed)
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
    assert order.first_sample(EPOCHS) == len(expected)
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
    mixture = Mixture([MixedPhase(0, 0, {}, Interleaving({"a": 0.9, "b": 0.1}))])
    short, long = (
        TrainingOrder(mixture, {name: CorpusOrder(found, 16, 3) for name, found in lengths.items()})
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
    orders = [CorpusOrder(lengths, 20, seed) for seed in (1, 2)]
    epochs = [
        [order.stretches(sample) for sample in range(first, first + 19)]
        for order in orders
        for first in (order.first_sample(0), order.first_sample(1))
    ]

    assert len({str(found) for found in epochs}) == 4
