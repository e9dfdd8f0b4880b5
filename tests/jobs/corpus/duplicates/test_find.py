"""Duplicates among the keys of a corpus, beside a search that compares all documents in pairs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.contract.corpus.rules import CorpusRules, NearDuplicatesSpec
from jobs.corpus.duplicates.find import REASONS, find
from jobs.corpus.duplicates.keys import (
    ABSTRACT,
    KEY,
    LINK,
    NAME,
    NO_DOCUMENT,
    REMOVAL,
    VERSIONED,
    PieceKeys,
)
from jobs.corpus.duplicates.minhash import SKETCH_WORDS

RULES = CorpusRules((), "fail", 1, 0, near_duplicates=NearDuplicatesSpec(0.65, 5))


def hashed(number: int) -> int:
    """Return a hash: its high bits, which choose the bucket, depend on the whole number."""
    return number * 0x9E3779B97F4A7C15 % 2**64


@dataclass(frozen=True, order=True)
class Doc:
    """A document, or a removal; names and bands are numbers that stand for hashes."""

    rank: int
    id: int
    digest: tuple[int, int] = (0, 0)
    is_abstract: bool = field(default=False, compare=False)
    names: frozenset[int] = field(default=frozenset(), compare=False)
    bands: tuple[int, int] = field(default=(0, 0), compare=False)
    sketch: tuple[int, int, int] = field(default=(0, 0, 0), compare=False)
    """The bytes of each third of the sketch: two documents are alike if two of them are equal."""
    is_versioned: bool = field(default=False, compare=False)
    is_removal: bool = field(default=False, compare=False)
    is_unwanted: bool = field(default=False, compare=False)
    """Only its names are known: its work is of a kind that is dropped."""
    is_filtered: bool = field(default=False, compare=False)
    """Only its names are known: a filter has dropped it."""

    @property
    def is_document(self) -> bool:
        return not (self.is_removal or self.is_unwanted or self.is_filtered)

    @property
    def flags(self) -> int:
        return (
            ABSTRACT * self.is_abstract + VERSIONED * self.is_versioned + REMOVAL * self.is_removal
        )


def hashed_names(record: Doc) -> list[int]:
    return [hashed(name) for name in record.names]


def piece_keys(number: int, records: list[Doc]) -> PieceKeys:
    """Return the keys of a piece; a removal has the number of the next document."""
    keys, names, bands = [], [], []
    links = [pair for one in records if one.is_filtered for pair in pairwise(hashed_names(one))]
    document = 0
    for record in records:
        if record.is_unwanted:
            names += [(NO_DOCUMENT, name) for name in hashed_names(record)]
        if not record.is_document and not record.is_removal:
            continue
        keys.append((record.rank, record.flags, record.id, record.digest, document))
        if not record.is_removal:
            names += [(document, name) for name in hashed_names(record)]
            # different bands never have the same value
            values = [band and hashed(band) + at for at, band in enumerate(record.bands)]
            sketch = np.repeat(np.array(record.sketch, "u1"), (38, 37, 37)).view("<u8")
            bands.append([*values, *sketch.tolist()])
            document += 1
    return PieceKeys(
        number,
        np.array(keys, KEY),
        np.array(names, NAME),
        np.array(links, LINK),
        np.array(bands, np.uint64).reshape(len(bands), 2 + SKETCH_WORDS),
    )


Place = tuple[int, int]
Found = dict[Place, tuple[str, Place | None]]


def in_parts(whole: PieceKeys, rows: int) -> Iterator[PieceKeys]:
    """Yield the keys of a piece some rows at a time, all names and links with the first."""
    assert whole.bands is not None
    for begin in range(0, max(len(whole.keys), 1), rows):
        keys = whole.keys[begin : begin + rows]
        bands = whole.bands[keys["number"][keys["flags"] & REMOVAL == 0]]
        rest = slice(None if begin == 0 else 0)
        yield PieceKeys(whole.piece, keys, whole.names[rest], whole.links[rest], bands)


def searched(pieces: list[list[Doc]], buckets: int = 3, rows: int = 9) -> Found:
    """Return reason and kept document of each dropped one, by piece and number."""
    with TemporaryDirectory() as folder:
        scratch = Path(folder, "scratch")
        keys = (piece_keys(number, records) for number, records in enumerate(pieces))
        found = find(
            (part for whole in keys for part in in_parts(whole, rows)), RULES, scratch, buckets
        )
        assert not scratch.exists()
    dropped: Found = {}
    for piece, rows in found.items():
        assert list(rows["number"]) == sorted(set(rows["number"]))
        for number, reason, *kept in rows.tolist():
            place = None if kept[0] == NO_DOCUMENT else (kept[0], kept[1])
            dropped[piece, number] = (REASONS[reason], place)
    return dropped


class PlainSearch:
    """The search in plain loops."""

    def __init__(self, pieces: list[list[Doc]]) -> None:
        self.documents: dict[Place, Doc] = {}
        self.events: dict[tuple[int, int], list[Place | None]] = {}
        """Documents, and None for removals, of each rank and id in order."""
        self.dropped: Found = {}
        self.unwanted: set[int] = set()
        self.links: list[frozenset[int]] = []
        for piece, records in enumerate(pieces):
            number = 0
            for record in records:
                if record.is_unwanted:
                    self.unwanted |= record.names
                    continue
                if record.is_filtered:
                    self.links.append(record.names)
                    continue
                place = None if record.is_removal else (piece, number)
                if record.is_versioned:
                    self.events.setdefault((record.rank, record.id), []).append(place)
                if place:
                    self.documents[place] = record
                    number += 1
        self.order = sorted(self.documents, key=lambda place: (self.documents[place], place))

    def living(self) -> Iterator[tuple[Place, Doc]]:
        yield from ((at, self.documents[at]) for at in self.order if at not in self.dropped)

    def drop_versions(self) -> None:
        for events in self.events.values():
            for place in events[:-1]:
                if place is not None:
                    self.dropped[place] = ("replaced" if events[-1] else "removed", events[-1])

    def drop_ids(self) -> None:
        firsts: dict[tuple[int, int], Place] = {}
        for place, document in self.living():
            first = firsts.setdefault((document.rank, document.id), place)
            if first != place:
                equal = document.digest == self.documents[first].digest
                self.dropped[place] = ("duplicate" if equal else "duplicate_id", first)

    def drop_texts(self) -> None:
        firsts: dict[tuple[int, int], Place] = {}
        for place, document in self.living():
            first = firsts.setdefault(document.digest, place)
            if first != place:
                self.dropped[place] = ("duplicate", first)

    def drop_works(self) -> None:
        names = {place: set(document.names) for place, document in self.living()}
        abstracts = {place for place, document in self.documents.items() if document.is_abstract}
        for place, (reason, first) in list(self.dropped.items()):
            kept = last_kept(self.dropped, first)
            if reason == "duplicate" and kept:
                names[kept] |= self.documents[place].names
                if place in abstracts:
                    abstracts.add(kept)
        linked = {(-1, at): link for at, link in enumerate(self.links)}
        for nodes in groups(names | linked):
            group = [place for place in nodes if place not in linked]
            if any((names | linked)[at] & self.unwanted for at in nodes):
                self.dropped |= dict.fromkeys(group, ("dropped_work", None))
                continue
            best = next((at for at in group if at not in abstracts), group[0] if group else None)
            for place in group:
                weaker = place in abstracts and best not in abstracts
                if place != best:
                    reason = "abstract_of_full_text" if weaker else "same_work"
                    self.dropped[place] = (reason, best)

    def drop_near(self) -> None:
        kept: list[tuple[Place, Doc]] = []
        for place, document in self.living():
            near = [first for first, other in kept if is_near(document, other)]
            if near:
                self.dropped[place] = ("near_duplicate", near[0])
            else:
                kept.append((place, document))


def is_near(document: Doc, other: Doc) -> bool:
    bands = zip(document.bands, other.bands, strict=True)
    sketches = zip(document.sketch, other.sketch, strict=True)
    return any(one == two != 0 for one, two in bands) and sum(a == b for a, b in sketches) >= 2


def expected(pieces: list[list[Doc]]) -> Found:
    plain = PlainSearch(pieces)
    plain.drop_versions()
    plain.drop_ids()
    plain.drop_texts()
    plain.drop_works()
    plain.drop_near()
    return {
        place: (reason, last_kept(plain.dropped, kept))
        for place, (reason, kept) in plain.dropped.items()
    }


def last_kept(dropped: Found, place: Place | None) -> Place | None:
    while place is not None and place in dropped:
        place = dropped[place][1]
    return place


def groups(hashes: Mapping[Place, Collection[object]]) -> list[list[Place]]:
    """Return the sets of documents that are linked by common hashes, in their order."""
    found: list[tuple[set[object], list[Place]]] = []
    for place, own in hashes.items():
        linked, members = set(own), [place]
        apart = []
        for other, others in found:
            if other.isdisjoint(linked):
                apart.append((other, others))
            else:
                linked, members = linked | other, others + members
        found = [*apart, (linked, members)]
    order = list(hashes)
    return [sorted(members, key=order.index) for _, members in found]


VERSIONED_RANK = 2
hashes = st.integers(1, 5).map(hashed)
documents = st.builds(
    lambda rank, is_update, **other: Doc(
        rank, is_versioned=rank == VERSIONED_RANK and is_update, **other
    ),
    rank=st.integers(0, 2),
    is_update=st.booleans(),
    id=hashes,
    digest=st.tuples(hashes, st.integers(1, 2)),
    is_abstract=st.booleans(),
    names=st.frozensets(st.integers(1, 7), max_size=2),
    bands=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    sketch=st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 1)),
)
removals = st.builds(
    lambda id: Doc(VERSIONED_RANK, id, is_versioned=True, is_removal=True),
    id=hashes,
)
unwanted = st.builds(
    lambda names: Doc(0, 0, names=names, is_unwanted=True),
    names=st.frozensets(st.integers(1, 7), max_size=2),
)
filtered = st.builds(
    lambda names: Doc(0, 0, names=names, is_filtered=True),
    names=st.frozensets(st.integers(1, 7), max_size=3),
)
corpora = st.lists(
    st.lists(st.one_of(documents, documents, removals, unwanted, filtered), max_size=6), max_size=5
)


@settings(max_examples=150, deadline=None)
@given(corpora, st.integers(1, 5), st.integers(1, 6))
def test_the_same_is_dropped_as_by_plain_loops(
    pieces: list[list[Doc]], buckets: int, rows: int
) -> None:
    assert searched(pieces, buckets, rows) == expected(pieces)


@settings(max_examples=40, deadline=None)
@given(corpora, st.data())
def test_the_pieces_in_which_documents_lie_do_not_matter(pieces, data) -> None:
    records = [record for piece in pieces for record in piece]
    cuts = data.draw(st.lists(st.integers(0, len(records)), max_size=4).map(sorted))
    again = [records[begin:end] for begin, end in pairwise([0, *cuts, len(records)])]

    assert in_order(again, searched(again)) == in_order(pieces, searched(pieces))


@settings(max_examples=40, deadline=None)
@given(st.lists(documents, max_size=12), st.randoms())
def test_the_order_of_reading_decides_between_equal_keys_alone(records, random) -> None:
    records = [record for record in records if record.rank != VERSIONED_RANK]
    unique = list(dict.fromkeys(records))
    shuffled = random.sample(unique, len(unique))

    assert by_document(shuffled, searched([shuffled])) == by_document(unique, searched([unique]))


def in_order(pieces: list[list[Doc]], found: Found) -> list:
    """Return what was found by the numbers of documents in the whole corpus."""
    counts = [sum(record.is_document for record in records) for records in pieces]
    begins = np.cumsum([0, *counts])

    def place(piece: int, number: int) -> int:
        return int(begins[piece]) + number

    return sorted(
        (place(*dropped), reason, kept and place(*kept))
        for dropped, (reason, kept) in found.items()
    )


def by_document(records: list[Doc], found: Found) -> dict:
    return {
        records[number]: (reason, records[kept[1]]) for (_, number), (reason, kept) in found.items()
    }


def test_a_dropped_document_keeps_no_other() -> None:
    """A near duplicate of an abstract whose full text is present stays."""
    abstract = Doc(0, 1, (1, 0), True, frozenset({1}), (1, 1))
    full = Doc(1, 2, (2, 0), False, frozenset({1}), (2, 2))
    near = Doc(2, 3, (3, 0), True, frozenset(), (1, 3))

    found = searched([[abstract, full, near]])

    assert found == {(0, 0): ("abstract_of_full_text", (0, 1))}


def test_what_is_kept_over_several_steps_is_in_the_corpus() -> None:
    """The copy of an abstract names the full text that the abstract was dropped for."""
    full = Doc(1, 2, (2, 0), False, frozenset({1}))
    abstract = Doc(0, 1, (1, 0), True, frozenset({1}))
    copy = Doc(1, 3, (1, 0), True)

    found = searched([[full], [], [abstract, copy]])

    assert found == {
        (2, 0): ("abstract_of_full_text", (0, 0)),
        (2, 1): ("duplicate", (0, 0)),
    }


def test_names_of_an_equal_text_are_those_of_the_one_that_is_kept() -> None:
    """So no abstract stays beside its full text because a copy of it named the work."""
    unnamed = Doc(0, 1, (1, 0))
    copy = Doc(1, 2, (1, 0), True, frozenset({1}))
    full = Doc(2, 3, (2, 0), False, frozenset({1}))

    assert searched([[unnamed, copy], [full]]) == {
        (0, 0): ("abstract_of_full_text", (1, 0)),
        (0, 1): ("duplicate", (1, 0)),
    }


def test_copies_of_one_text_do_not_make_a_name_that_of_many_works() -> None:
    copies = [Doc(0, at, (1, 0), names=frozenset({1})) for at in range(40)]
    other = Doc(1, 50, (2, 0), names=frozenset({1}))

    assert searched([[*copies, other]])[0, 40] == ("same_work", (0, 0))


def test_a_text_of_very_many_works_joins_none_of_them() -> None:
    """As a placeholder, of which each record has a full text of its own."""
    stock = [Doc(0, at, (1, 0), True, frozenset({at})) for at in range(1, 34)]
    full = [Doc(1, at, (at, at), False, frozenset({at})) for at in range(1, 34)]

    found = searched([stock, full])

    assert [reason for reason, _ in found.values()].count("duplicate") == 32
    assert not any(piece for piece, _ in found)
    assert len([piece for piece, _ in searched([stock[1:], full]) if piece]) == 31


def test_all_of_a_work_goes_whose_citation_is_of_a_kind_that_is_dropped() -> None:
    citation = Doc(0, 0, names=frozenset({1, 2}), is_unwanted=True)
    full = Doc(1, 2, (2, 0), False, frozenset({2, 3}))
    other = Doc(1, 3, (3, 0), False, frozenset({3}))
    copy = Doc(1, 4, (3, 0))
    apart = Doc(1, 5, (5, 0), False, frozenset({4}))

    assert searched([[citation, full, other], [copy, apart]]) == {
        (0, 0): ("dropped_work", None),
        (0, 1): ("dropped_work", None),
        (1, 0): ("duplicate", None),
    }


def test_a_record_that_a_filter_dropped_still_joins_its_work() -> None:
    """Otherwise the abstract stays beside its full text, and may be in the other split."""
    abstract = Doc(0, 1, (1, 0), True, frozenset({1}))
    full = Doc(1, 2, (2, 0), False, frozenset({2}))
    citation = Doc(0, 0, names=frozenset({1, 2}), is_filtered=True)

    assert searched([[abstract, full]]) == {}
    assert searched([[citation, abstract], [full], [citation]]) == {
        (0, 0): ("abstract_of_full_text", (1, 0))
    }


def test_a_journal_of_dropped_records_does_not_join_their_works() -> None:
    full = [Doc(1, at, (at, at), names=frozenset({at})) for at in range(1, 40)]
    citations = [Doc(0, 0, names=frozenset({at, 99}), is_filtered=True) for at in range(1, 40)]

    assert searched([full, citations]) == {}
    assert len(searched([full, citations[:10]])) == 9
    assert len(searched([full[:1], [Doc(1, 50, names=frozenset({99}))], citations[:1] * 40])) == 1


def test_a_journal_does_not_go_with_one_of_its_works() -> None:
    journal = [Doc(1, at, (at, at), names=frozenset({1})) for at in range(33)]

    assert searched([[Doc(0, 0, names=frozenset({1}), is_unwanted=True), *journal]]) == {}


def test_a_source_may_bring_a_removed_document_back() -> None:
    first, second = (Doc(2, 1, (text, 0), is_versioned=True) for text in (1, 2))
    removal = Doc(2, 1, is_versioned=True, is_removal=True)

    assert searched([[first], [removal], [second]]) == {(0, 0): ("replaced", (2, 0))}
    assert searched([[first, second], [removal]]) == {
        (0, 0): ("removed", None),
        (0, 1): ("removed", None),
    }


def test_updates_concern_no_other_records_of_their_source() -> None:
    """A folder may hold files of PubMed beside others, whose numbers are no PMIDs."""
    other = Doc(2, 1, (1, 0))
    removal = Doc(2, 1, is_versioned=True, is_removal=True)

    assert searched([[other], [removal]]) == {}


def test_a_chain_of_works_that_share_names_is_one_work() -> None:
    chain = [Doc(0, hashed(at), (at, at), names=frozenset({at, at + 1})) for at in range(1, 301)]
    first = min(chain)

    found = searched([chain], buckets=5)

    assert set(found.values()) == {("same_work", (0, chain.index(first)))}
    assert len(found) == len(chain) - 1


def test_a_name_of_very_many_documents_names_no_work() -> None:
    journal = [Doc(0, at, (at, at), names=frozenset({1})) for at in range(33)]

    assert searched([journal]) == {}
    assert len(searched([journal[1:]])) == 31


def test_of_a_chain_of_near_duplicates_no_two_neighbours_stay_and_no_three_go() -> None:
    """What is dropped is like what is kept for it, not only like something like it."""
    chain = [
        Doc(0, hashed(at), (at, at), bands=((at + 1) // 2, at // 2 + 1)) for at in range(1, 301)
    ]

    found = searched([chain], buckets=5)

    assert all(abs(number - kept[1]) == 1 for (_, number), (_, kept) in found.items())
    stays = [(0, number) not in found for number in range(len(chain))]
    assert not any(one and other for one, other in pairwise(stays))


def test_a_phrase_that_many_documents_share_hides_no_pair() -> None:
    """Documents are compared with the first of a band alone, but in every band."""
    many = [Doc(0, at, (at, at), bands=(1, at), sketch=(at, at, at)) for at in range(1, 61)]
    pair = [Doc(0, at, (at, at), bands=(1, 99), sketch=(99, 99, at)) for at in (70, 71)]

    assert searched([[*many, *pair]]) == {(0, 61): ("near_duplicate", (0, 60))}


def test_leftovers_of_a_killed_search_are_no_rows(tmp_path: Path) -> None:
    (tmp_path / "id-00000").write_bytes(bytes(1000))

    assert find([piece_keys(0, [Doc(0, 1)])], RULES, tmp_path)[0].size == 0
    assert not tmp_path.exists()


def test_an_error_of_the_storage_removes_the_rows(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"

    def pieces():
        yield piece_keys(0, [Doc(0, 1)])
        (scratch / "id-00000").mkdir()  # in the place of a file
        yield piece_keys(1, [Doc(0, 1)])

    with pytest.raises(IsADirectoryError, match="id-00000"):
        find(pieces(), RULES, scratch, buckets=1)
    assert not scratch.exists()


def test_pieces_come_in_order(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="piece 1 behind piece 2"):
        find([piece_keys(2, []), piece_keys(1, [])], RULES, tmp_path / "scratch")


def test_there_may_be_many_sources() -> None:
    records = [Doc(rank, hashed(rank), (7, 7)) for rank in (3000, 2, 700)]

    assert searched([records]) == {
        (0, 0): ("duplicate", (0, 1)),
        (0, 2): ("duplicate", (0, 1)),
    }
