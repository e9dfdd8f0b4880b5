"""The keys of documents by which duplicates are found, as each piece of a corpus keeps them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

ABSTRACT = 1
"""Flag of the abstract of a work alone."""
REMOVAL = 2
"""Flag of a record by which its source deletes the documents of its id before it, or of a later
version that is not kept; it is no document.
"""
VERSIONED = 4
"""Flag of a source in which a later document replaces earlier ones of its id."""
HELD_OUT = 8
"""Flag of a document of the validation split."""

KEY = np.dtype(
    [("rank", "u2"), ("flags", "u1"), ("id", "u8"), ("digest", "u8", (2,)), ("number", "u4")]
)
"""Of a document or a removal: rank of its source, hash of its id, digest of its text, and its
number in the piece. Numbers follow the order of reading; a removal has that of the next document.
"""
NAME = np.dtype([("number", "u4"), ("name", "u8")])
"""A name of the work, hashed with its kind, such as ``pmid:123``; several per document. With the
number NO_DOCUMENT it names a work of which a record was dropped for the kind of the work.
"""
LINK = np.dtype([("left", "u8"), ("right", "u8")])
"""Two names of a record that was dropped: it still shows that they are of one work."""
DROPPED = np.dtype(
    [("number", "u4"), ("reason", "u1"), ("kept_piece", "u4"), ("kept_number", "u4")]
)
"""A dropped document, the index of its reason, and the document that is kept for it."""
NO_DOCUMENT = 0xFFFFFFFF
"""Piece and number of what is kept for a removed document, and the number of no document."""


class PieceKeys(NamedTuple):
    """The keys of one piece, or of its next documents."""

    piece: int
    keys: np.ndarray[Any, np.dtype[np.void]]
    """KEY rows in the order of reading."""
    names: np.ndarray[Any, np.dtype[np.void]]
    """NAME rows."""
    links: np.ndarray[Any, np.dtype[np.void]]
    """LINK rows."""
    bands: np.ndarray[Any, np.dtype[np.uint64]] | None
    """A row of ``signatures`` per document, in the order of ``keys``; removals have none."""
