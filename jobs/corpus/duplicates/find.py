"""Find the documents that a corpus drops as duplicates, from the keys of all of them.

What is dropped is a function of the set of keys: not of the pieces in which they lie, nor of the
order of time. Of equal documents the smallest is kept, by rank of the source, id and digest; the
place in the pieces decides only between documents that are equal in all three.

A near duplicate is dropped only for a smaller document that is kept, shares a band with it and is
like it by their sketches too. Documents made from one template are alike in chains whose ends have
little in common, and so many that a shared band alone is often chance.

Memory holds some 14 bytes per document, 13 more per dropped one, 4 per link, and one bucket: rows
go to files in ``scratch`` by the high bits of their hash, and the files are merged one by one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np

from jobs.contract.corpus.rules import CorpusRules, NearDuplicatesSpec
from jobs.contract.files import make_folder, naming
from jobs.corpus.duplicates.buckets import Buckets
from jobs.corpus.duplicates.groups import chunks, group_starts, repeated, roots_of, sizes, unite
from jobs.corpus.duplicates.keys import (
    ABSTRACT,
    DROPPED,
    LINK,
    NO_DOCUMENT,
    REMOVAL,
    VERSIONED,
    PieceKeys,
)
from jobs.corpus.duplicates.minhash import ORDERS, SKETCH_WORDS
from jobs.corpus.words import Rows, mix

REASONS = (
    "replaced",
    "removed",
    "duplicate",
    "duplicate_id",
    "dropped_work",
    "abstract_of_full_text",
    "same_work",
    "near_duplicate",
)
"""A document dropped for one of them takes no part in the search for those behind it, but that its
names are those of its copy.
"""
KEPT = len(REASONS)
(
    REPLACED,
    REMOVED,
    DUPLICATE,
    DUPLICATE_ID,
    DROPPED_WORK,
    ABSTRACT_OF_FULL_TEXT,
    SAME_WORK,
    NEAR,
) = range(KEPT)
BUCKETS = 64
SIGNED = 1 << 16
"""Documents of a piece whose bands are put into buckets at a time."""
SHARED = 32
"""A name that more documents and links have is not that of a work, as the DOI of a journal; and a
text that more documents have is not that of one work, as ``No abstract available``."""
FIRST = 32
"""Each document is compared with so many smaller ones of a band; more share one by a phrase."""
COMPARED = 1 << 15
"""Sketches that are compared at once."""

BY_ID = np.dtype(
    [("id", "u8"), ("digest", "u8", (2,)), ("index", "u4"), ("rank", "u2"), ("flags", "u1")]
)
BY_DIGEST = np.dtype([("digest", "u8", (2,)), ("index", "u4")])
BY_HASH = np.dtype([("hash", "u8"), ("index", "u4")])
PAIR = np.dtype([("position", "u4"), ("smaller", "u4")])
"""The positions of two documents that are alike."""


def find(
    pieces: Iterable[PieceKeys],
    rules: CorpusRules,
    scratch: Path,
    buckets: int = BUCKETS,
    report: Callable[[], None] = lambda: None,
) -> dict[int, Rows]:
    """Return the dropped documents of each piece as DROPPED rows, sorted by number.

    Args:
        pieces: in ascending order, each whole or in parts one behind the other; a removal or a
            later version concerns documents of its source before it.
        rules: ``near_duplicates`` decides whether bands are read.
        scratch: folder for about 60 bytes per document, 40 per link and 12 per band; it is emptied
            first and removed at the end.
        buckets: more of them take less memory each, and more files.
        report: called before each part and each bucket, so that a caller can stop the search.

    Raises:
        OSError: a file in ``scratch`` cannot be written; the error names it.
    """
    if scratch.exists():
        shutil.rmtree(scratch)
    make_folder(scratch)
    try:
        search = _Search(scratch, buckets, rules.near_duplicates, report)
        for piece in pieces:
            report()
            search.add(piece)
        return search.dropped()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class _Search:
    """The search over all documents.

    A document has an index, by piece and number; and a position, by rank, id, digest and index, so
    that of several documents the one with the smallest position is kept.
    """

    def __init__(
        self,
        scratch: Path,
        buckets: int,
        near: NearDuplicatesSpec | None,
        report: Callable[[], None],
    ) -> None:
        self.begins: dict[int, int] = {}
        """Index of the first document of each piece."""
        self.total = 0
        self.ids = Buckets(scratch, "id", BY_ID, buckets, report)
        self.digests = Buckets(scratch, "digest", BY_DIGEST, buckets, report)
        self.names = Buckets(scratch, "name", BY_HASH, buckets, report)
        self.links = Buckets(scratch, "link", LINK, buckets, report)
        self.linked = 0
        """Links of all pieces, at most."""
        self.bands = Buckets(scratch, "band", BY_HASH, buckets, report)
        self.pairs = Buckets(scratch, "pair", PAIR, buckets, report)
        self.sketches = scratch / "sketches"
        """A row per index."""
        self.near = near

    def add(self, piece: PieceKeys) -> None:
        """Put the keys of a piece, or of its next documents, into buckets."""
        last = next(reversed(self.begins), -1)
        if piece.piece < last:
            raise ValueError(f"piece {piece.piece} behind piece {last}")
        keys = np.asarray(piece.keys)
        begin = self.begins.setdefault(piece.piece, self.total)
        known = self.total
        numbers = keys["number"][keys["flags"] & REMOVAL == 0]
        if len(numbers):
            self.total = begin + int(numbers.max()) + 1
        self.linked += len(piece.links)
        if self.total + self.linked >= NO_DOCUMENT:
            raise ValueError(f"more than {NO_DOCUMENT} documents and links")
        rows = np.empty(len(keys), BY_ID)
        for name in ("id", "digest", "rank", "flags"):
            rows[name] = keys[name]
        rows["index"] = keys["number"] + np.uint32(begin)
        self.ids.add(rows, rows["id"], rows["rank"])
        documents = rows[rows["flags"] & REMOVAL == 0]
        by_digest = np.empty(len(documents), BY_DIGEST)
        by_digest["digest"], by_digest["index"] = documents["digest"], documents["index"]
        self.digests.add(by_digest, by_digest["digest"][:, 0])
        numbers = piece.names["number"]
        owners = np.where(numbers == NO_DOCUMENT, numbers, numbers + np.uint32(begin))
        names = by_hash(piece.names["name"], owners)
        self.names.add(names, names["hash"])
        self.links.add(piece.links, piece.links["left"])
        if self.near:
            self._add_bands(piece, known, documents["index"])

    def _add_bands(self, piece: PieceKeys, known: int, indexes: Rows) -> None:
        sketches = np.zeros((self.total - known, SKETCH_WORDS), np.uint64)
        if len(indexes):
            sketches[indexes - np.uint32(known)] = self._bands_of(piece, indexes)
        with naming(self.sketches), self.sketches.open("ab") as file:
            file.write(sketches.tobytes())

    def _bands_of(self, piece: PieceKeys, indexes: Rows) -> Rows:
        """Put a piece's bands into buckets; return its sketches."""
        if piece.bands is None or len(piece.bands) != len(indexes):
            found = "no bands" if piece.bands is None else f"bands of {len(piece.bands)}"
            raise ValueError(f"piece {piece.piece}: {found} for {len(indexes)} documents")
        bands, sketches = np.split(np.asarray(piece.bands), [-SKETCH_WORDS], axis=1)
        for begin, end in chunks(len(indexes), SIGNED):
            owners = np.repeat(indexes[begin:end], bands.shape[1])
            rows = by_hash(bands[begin:end].ravel(), owners)
            rows = rows[rows["hash"] != 0]  # of documents too short for a signature
            self.bands.add(rows, rows["hash"])
        return sketches

    def dropped(self) -> dict[int, Rows]:
        """Search step by step, and return what is dropped per piece."""
        self.positions = np.full(self.total, NO_DOCUMENT, np.uint32)
        """Per index; NO_DOCUMENT where no document has the number."""
        self.kept = np.arange(self.total + self._number_links(), dtype=np.uint32)
        """Per position: the position of what is kept for it, perhaps over several steps. Links are
        behind all documents, so that they are kept for none.
        """
        self.reasons = np.full(self.total, KEPT, np.uint8)
        self.abstracts = np.zeros(self.total, np.bool_)
        self.placeholders = [np.empty(0, np.uint32)]
        """Copies of texts that more than SHARED documents have."""
        self._order_by_id()
        self._drop_equal_texts()
        self.unwanted = [np.empty(0, np.uint32)]
        self._unite_works()
        self._drop_unwanted()
        self._drop_works()
        del self.abstracts
        if self.near and self.total:
            self._compare(self.near.similarity)
            self._drop_near()
        return self._by_piece()

    # --- ids ---------------------------------------------------------------------------------

    def _order_by_id(self) -> None:
        """Give every document its position, and drop all but one of an id."""
        position = 0
        for rows in self.ids.take():
            documents = rows[rows["flags"] & REMOVAL == 0]
            digest = documents["digest"]
            keys = (documents["index"], digest[:, 1], digest[:, 0], documents["id"])
            documents = documents[np.lexsort(keys)]
            positions = np.arange(position, position + len(documents), dtype=np.uint32)
            position += len(documents)
            self.positions[documents["index"]] = positions
            self.abstracts[positions] = documents["flags"] & ABSTRACT != 0
            self._drop_old_versions(rows[rows["flags"] & (VERSIONED | REMOVAL) != 0])
            self._drop_equal_ids(documents, positions)

    def _drop_old_versions(self, rows: Rows) -> None:
        """Keep the last document of an id, or none if a removal is the last record of it."""
        removal = rows["flags"] & REMOVAL != 0
        rows = rows[np.lexsort((~removal, rows["index"], rows["id"]))]
        removal = rows["flags"] & REMOVAL != 0
        begins = group_starts(rows["id"])
        counts = sizes(begins, len(rows))
        last = np.repeat(begins + counts - 1, counts)
        gone = ~removal & removal[last]
        positions = self.positions[rows["index"][gone]]
        self._drop(positions, positions, REMOVED)
        old = ~removal & ~removal[last] & (np.arange(len(rows)) != last)
        newest = self.positions[rows["index"][last[old]]]
        self._drop(self.positions[rows["index"][old]], newest, REPLACED)

    def _drop_equal_ids(self, documents: Rows, positions: Rows) -> None:
        live = self.reasons[positions] == KEPT
        documents, positions = documents[live], positions[live]
        begins = group_starts(documents["id"])
        first = np.repeat(begins, sizes(begins, len(documents)))
        other = first != np.arange(len(documents))
        equal = (documents["digest"] == documents["digest"][first]).all(axis=1)
        for chosen, reason in ((other & equal, DUPLICATE), (other & ~equal, DUPLICATE_ID)):
            self._drop(positions[chosen], positions[first[chosen]], reason)

    # --- texts, works, near duplicates ---------------------------------------------------------

    def _drop_equal_texts(self) -> None:
        for rows in self.digests.take():
            positions, rows = self._remaining(rows)
            again = repeated(rows["digest"][:, 0])
            positions, digests = positions[again], rows["digest"][again]
            order = np.lexsort((positions, digests[:, 1], digests[:, 0]))
            positions, digests = positions[order], digests[order]
            changes = (digests[1:] != digests[:-1]).any(axis=1)
            group = np.concatenate([np.zeros(min(len(order), 1), np.intp), np.cumsum(changes)])
            begins = group_starts(group)
            counts = sizes(begins, len(group))
            first = positions[np.repeat(begins, counts)]
            other = first != positions
            self.placeholders.append(positions[other & np.repeat(counts > SHARED, counts)])
            self.abstracts[first[self.abstracts[positions]]] = True
            self._drop(positions[other], first[other], DUPLICATE)

    def _number_links(self) -> int:
        """Put the two names of each link into their buckets, with an index behind those of the
        documents; return the number of links.
        """
        count = 0
        for rows in self.links.take():
            _, places = np.unique(mix(rows["left"]) ^ rows["right"], return_index=True)
            begin = self.total + count
            count += len(places)
            indexes = np.arange(begin, self.total + count, dtype=np.uint32)
            for name in ("left", "right"):
                names = by_hash(rows[name][places], indexes)
                self.names.add(names, names["hash"])
        return count

    def _unite_works(self) -> None:
        """Join the remaining documents and the links that share a name into sets, as ``kept``
        points. The names of a copy are those of the document that is kept for it, unless very many
        have its text. Note the documents of unwanted works.
        """
        placeholders = np.concatenate(self.placeholders)
        for rows in self.names.take():
            is_owned = rows["index"] != NO_DOCUMENT
            rows, unwanted = rows[is_owned], rows["hash"][~is_owned]
            rows = rows[repeated(rows["hash"]) | np.isin(rows["hash"], unwanted)]
            rows = rows[np.argsort(rows["hash"])]
            positions, hashes = rows["index"].copy(), rows["hash"]
            reasons = np.full(len(rows), KEPT, np.uint8)
            is_document = positions < self.total
            positions[is_document] = self.positions[positions[is_document]]
            reasons[is_document] = self.reasons[positions[is_document]]
            named = np.isin(reasons, (KEPT, DUPLICATE)) & ~np.isin(positions, placeholders)
            positions, hashes, reasons = positions[named], hashes[named], reasons[named]
            begins = group_starts(hashes)
            counts = sizes(begins, len(hashes))
            if len(begins):
                first = np.repeat(np.minimum.reduceat(positions, begins), counts)
                remaining = np.add.reduceat(reasons == KEPT, begins, dtype=np.intp)
                is_work = np.repeat(remaining <= SHARED, counts)
                unite(self.kept, positions[is_work], first[is_work])
                self.unwanted.append(positions[is_work & np.isin(hashes, unwanted)])

    def _drop_unwanted(self) -> None:
        """Drop every document of a work whose citation is of a kind that is dropped."""
        unwanted = np.unique(roots_of(self.kept, np.concatenate(self.unwanted)))
        unwanted = unwanted[unwanted < self.total]
        if unwanted.size:
            positions, roots = self._members()
            positions = np.concatenate([unwanted, positions[np.isin(roots, unwanted)]])
            self._drop(positions, positions, DROPPED_WORK)

    def _drop_works(self) -> None:
        """Keep one document of each work: the smallest full text, or the smallest abstract."""
        positions, roots = self._members()
        heads = np.unique(roots)
        positions, roots = np.concatenate([positions, heads]), np.concatenate([roots, heads])
        order = np.lexsort((positions, self.abstracts[positions], roots))
        positions, roots = positions[order], roots[order]
        begins = group_starts(roots)
        best = positions[np.repeat(begins, sizes(begins, len(roots)))]
        self.kept[best] = best
        other = positions != best
        positions, best = positions[other], best[other]
        weaker = self.abstracts[positions] & ~self.abstracts[best]
        self._drop(positions[weaker], best[weaker], ABSTRACT_OF_FULL_TEXT)
        self._drop(positions[~weaker], best[~weaker], SAME_WORK)

    def _compare(self, similarity: float) -> None:
        """Find the remaining documents that share a band and are alike by their sketches."""
        sketches = np.memmap(self.sketches, np.uint8, "r").reshape(self.total, ORDERS)
        for rows in self.bands.take():
            positions, rows = self._remaining(rows)
            again = repeated(rows["hash"])
            positions, rows = positions[again], rows[again]
            order = np.lexsort((positions, rows["hash"]))
            positions, rows = positions[order], rows[order]
            begins = group_starts(rows["hash"])
            first = np.repeat(begins, sizes(begins, len(rows)))
            for place in range(FIRST):
                larger = np.flatnonzero(np.arange(len(rows)) - first > place)
                smaller = first[larger] + place
                for begin, end in chunks(len(larger), COMPARED):
                    one, other = larger[begin:end], smaller[begin:end]
                    common = sketches[rows["index"][one]] == sketches[rows["index"][other]]
                    alike = common.sum(axis=1) >= similarity * ORDERS
                    self._add_pairs(positions[one[alike]], positions[other[alike]])

    def _add_pairs(self, positions: Rows, smaller: Rows) -> None:
        rows = np.empty(len(positions), PAIR)
        rows["position"], rows["smaller"] = positions, smaller
        self.pairs.add(rows, mix(rows["position"].astype(np.uint64)))

    def _drop_near(self) -> None:
        """Keep each document that is like no smaller one that is kept: in rounds, those that are
        like no smaller undecided one.
        """
        undecided = np.zeros(self.total, np.bool_)
        for pairs in self.pairs.read():
            undecided[pairs["position"]] = undecided[pairs["smaller"]] = True
        while undecided.any():
            behind = np.zeros(self.total, np.bool_)
            for pairs in self.pairs.read():
                behind[pairs["position"][undecided[pairs["smaller"]]]] = True
            chosen = undecided & ~behind
            undecided &= behind
            for pairs in self.pairs.read():
                near = pairs[undecided[pairs["position"]] & chosen[pairs["smaller"]]]
                np.minimum.at(self.kept, near["position"], near["smaller"])
                self.reasons[near["position"]] = NEAR
            undecided &= self.reasons == KEPT

    def _members(self) -> tuple[Rows, Rows]:
        """Return the remaining documents that are not the smallest of their set, and the smallest
        of each.
        """
        found = []
        for begin, end in chunks(self.total):
            self.kept[begin:end] = roots_of(self.kept, self.kept[begin:end])
            others = self.kept[begin:end] != np.arange(begin, end, dtype=np.uint32)
            found.append(begin + np.flatnonzero(others & (self.reasons[begin:end] == KEPT)))
        positions = np.concatenate([np.empty(0, np.intp), *found]).astype(np.uint32)
        return positions, self.kept[positions]

    def _remaining(self, rows: Rows) -> tuple[Rows, Rows]:
        positions = self.positions[rows["index"]]
        is_kept = self.reasons[positions] == KEPT
        return positions[is_kept], rows[is_kept]

    def _drop(self, positions: Rows, kept: Rows, reason: int) -> None:
        self.reasons[positions] = reason
        self.kept[positions] = kept

    # --- the result ----------------------------------------------------------------------------

    def _by_piece(self) -> dict[int, Rows]:
        indexes = np.empty(self.total, np.uint32)  # per position
        for begin, end in chunks(self.total):
            positions = self.positions[begin:end]
            is_document = positions != NO_DOCUMENT
            indexes[positions[is_document]] = begin + np.flatnonzero(is_document)
        numbers = np.array(list(self.begins), np.uint32)
        begins = np.array(list(self.begins.values()), np.uint32)
        found = {}
        bounds = pairwise([*begins, self.total])
        for piece, (begin, end) in zip(self.begins, bounds, strict=True):
            positions = self.positions[begin:end]
            chosen = np.flatnonzero(positions != NO_DOCUMENT)
            chosen = chosen[self.reasons[positions[chosen]] != KEPT]
            positions = positions[chosen]
            rows = found[piece] = np.empty(len(chosen), DROPPED)
            rows["number"], rows["reason"] = chosen, self.reasons[positions]
            roots = roots_of(self.kept, positions)
            kept = indexes[roots]
            place = np.searchsorted(begins, kept, side="right") - 1
            rows["kept_piece"], rows["kept_number"] = numbers[place], kept - begins[place]
            is_gone = self.reasons[roots] != KEPT
            rows["kept_piece"][is_gone] = rows["kept_number"][is_gone] = NO_DOCUMENT
        return found


def by_hash(hashes: Rows, indexes: Rows) -> Rows:
    """Return BY_HASH rows."""
    rows = np.empty(len(indexes), BY_HASH)
    rows["hash"], rows["index"] = hashes, indexes
    return rows
