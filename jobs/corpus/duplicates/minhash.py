"""Sign texts so that two of them with most of their shingles in common likely share a value.

A shingle is a run of ``words`` words (see ``jobs.corpus.words``). Of each of some hundred orders of
all shingles a text has one smallest shingle; two texts have the same one with the probability of
their Jaccard similarity, the shingles they share divided by the shingles that either has. The
smallest shingles of R orders make a band, so two texts of similarity s share one of B bands with
probability 1 - (1 - s^R)^B (https://arxiv.org/abs/2107.06499). Those that do are compared again, by
all orders.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np

from jobs.contract.corpus.rules import NearDuplicatesSpec
from jobs.corpus.words import BLOCK, Hashes, Rows, mix, ngrams, word_hashes

ORDERS = 112
"""At most so many orders are used: as many as in the near-duplicate search of FineWeb."""
SKETCH_WORDS = ORDERS // 8
MARGIN = 0.1
"""Bands find pairs that are a little less similar too, and the sketches decide."""
BATCH_CHARS = 16 * BLOCK


def bands_and_rows(similarity: float) -> tuple[int, int]:
    """Return B and R, of which the threshold (1/B)^(1/R) is nearest to MARGIN below a similarity.

    B is as large as ORDERS permits. At the threshold two of three pairs share a band.
    """
    pairs = [(ORDERS // rows, rows) for rows in range(1, ORDERS // 2 + 1)]
    aim = similarity - MARGIN
    return min(pairs, key=lambda pair: (abs((1 / pair[0]) ** (1 / pair[1]) - aim), pair))


def signatures(texts: Sequence[str], spec: NearDuplicatesSpec) -> Hashes:
    """Return the bands of each text, and behind them its sketch: a row of uint64 per text.

    Texts with fewer words than a shingle have zeros, which are no bands. A band's value depends on
    its number, so that different bands never meet. A sketch has a byte of each smallest shingle:
    the share of bytes that two sketches have in common is about their similarity.
    """
    bands, _ = bands_and_rows(spec.similarity)
    found = np.zeros((len(texts), bands + SKETCH_WORDS), np.uint64)
    for begin, end in _batches(texts):
        hashes, counts = word_hashes(texts[begin:end])
        shingles, kept, begins = _shingles(hashes, counts, spec.words)
        if len(kept):
            minima = _minima(shingles, begins)
            sketches = np.ascontiguousarray(minima.astype(np.uint8).T).view("<u8")
            found[begin + kept] = np.hstack([_bands(minima, spec), sketches])
    return found


def _batches(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield ranges of texts of some BATCH_CHARS together."""
    begin = size = 0
    for end, text in enumerate(texts, 1):
        size += len(text)
        if size >= BATCH_CHARS or end == len(texts):
            yield begin, end
            begin, size = end, 0


def _shingles(hashes: Hashes, counts: Rows, words: int) -> tuple[Rows, Rows, Rows]:
    """Return the shingles of all texts, the texts that have any, and where those of each begin."""
    all_runs = ngrams(hashes, words)
    ends = np.cumsum(counts)
    # A run that begins too near the end of a text would reach into the next.
    inside = np.ones(len(hashes), np.bool_)
    for at in range(1, words):
        inside[ends[counts >= at] - at] = False
    runs = all_runs[inside[: len(all_runs)]]
    sizes = np.maximum(counts - words + 1, 0)
    kept = np.flatnonzero(sizes)
    begins = np.cumsum(sizes[kept]) - sizes[kept]
    return (runs >> np.uint64(32)).astype(np.uint32), kept, begins


def _minima(shingles: Rows, begins: Rows) -> Rows:
    """Return the smallest shingle of each text in each order, orders by texts."""
    factors, masks = _orders()
    found = np.empty((ORDERS, len(begins)), np.uint32)
    ordered = np.empty_like(shingles)
    for order in range(ORDERS):
        np.bitwise_xor(shingles, masks[order], out=ordered)
        np.multiply(ordered, factors[order], out=ordered)
        np.minimum.reduceat(ordered, begins, out=found[order])
    return found


def _bands(minima: Rows, spec: NearDuplicatesSpec) -> Hashes:
    bands, rows = bands_and_rows(spec.similarity)
    used = minima[: bands * rows].reshape(bands, rows, -1)
    factors = mix(np.arange(1, bands * rows + 1, dtype=np.uint64)).reshape(bands, rows, 1)
    totals = (used * (factors | np.uint64(1))).sum(axis=1, dtype=np.uint64)
    totals += mix(np.arange(ORDERS, ORDERS + bands, dtype=np.uint64))[:, np.newaxis]
    return np.maximum(mix(totals), np.uint64(1)).T


@functools.cache
def _orders() -> tuple[Rows, Rows]:
    """Return an odd factor and a mask of each order."""
    seeds = mix(np.arange(1, ORDERS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return (seeds.astype(np.uint32) | np.uint32(1)), (seeds >> np.uint64(32)).astype(np.uint32)
