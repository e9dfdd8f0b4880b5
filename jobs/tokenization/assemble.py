"""Put the ids of pieces, the markup tokens between them and the ends of documents together."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from jobs.tokenization.documents import Batch
from jobs.tokenization.engine import Encoded

if TYPE_CHECKING:
    import numpy


class Documents(NamedTuple):
    """The ids of the documents of a batch."""

    ids: numpy.ndarray
    """Back to back, of the stored type ``[tokens]``."""
    lengths: numpy.ndarray
    """Tokens of each document with its BOS and end, int64 ``[documents]``."""
    kept: numpy.ndarray
    """Whether a text of the batch became a document, bool ``[texts]``: one without a token did not.
    """


def documents(
    batch: Batch, encoded: Encoded, kind: numpy.dtype, bos: int | None, eod: int
) -> Documents:
    """Return the documents of a batch whose pieces are encoded.

    Args:
        kind: type of a stored token.
        bos: put before each document; None for nothing.
        eod: put after each document.
    """
    import numpy

    ends = numpy.concatenate([[0], numpy.cumsum(encoded.lengths)])  # tokens up to each piece
    until = numpy.array([0, *batch.ends], dtype="i8")  # pieces up to each text
    owner, before, number = numpy.array(batch.markup or numpy.empty((0, 3)), dtype="i8").T
    marks = numpy.bincount(owner, minlength=len(batch.texts))
    sizes = numpy.diff(ends[until]) + marks
    kept = sizes > 0
    texts = numpy.flatnonzero(kept)
    # What stands between pieces: behind how many of them, and, there, in which order.
    groups = [(texts, until[texts + 1], eod, 2), (owner, before, number, 1)]
    if bos is not None:
        groups.append((texts, until[texts], bos, 0))
    text = numpy.concatenate([group[0] for group in groups])
    behind = numpy.concatenate([group[1] for group in groups])
    token = numpy.concatenate([numpy.broadcast_to(group[2], len(group[0])) for group in groups])
    rank = numpy.concatenate([numpy.full(len(group[0]), group[3]) for group in groups])
    order = numpy.lexsort((rank, text, behind))
    places = ends[behind[order]] + numpy.arange(len(order))
    ids = numpy.empty(len(encoded.ids) + len(order), dtype=kind)
    taken = numpy.zeros(len(ids), dtype=bool)
    taken[places] = True
    ids[places] = token[order]
    ids[~taken] = encoded.ids
    return Documents(ids, sizes[kept] + 1 + (bos is not None), kept)
