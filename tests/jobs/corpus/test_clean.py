"""The split and the shard of a document, and later versions of it."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contract.corpus.rules import CorpusRules, DecontaminationSpec
from jobs.contract.errors import TaskError
from jobs.corpus import clean, pieces
from jobs.corpus.decontamination import Index
from jobs.corpus.document import Document, Record
from jobs.corpus.duplicates.find import REASONS, find
from jobs.corpus.piece_files import FinishedPiece
from jobs.corpus.pieces import Part, Piece
from jobs.corpus.progress import Progress
from tests.corpus_specs import source_spec

MANY = "Give five to ten milligrams of it to every adult with a fever, then wait for two hours."
INDEX = Index([("benchmark", "1", MANY)], DecontaminationSpec((), 8, 0.8))


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_document_held_out_stays_held_out_when_the_fraction_grows(
    identity: str, one: float, other: float
) -> None:
    low, high = sorted((one, other))

    assert clean.is_validation(identity, low) <= clean.is_validation(identity, high)
    assert not clean.is_validation(identity, 0.0)
    assert clean.is_validation(identity, 1.0)


def test_the_split_is_as_large_as_requested_and_never_changes() -> None:
    held_out = [n for n in range(20_000) if clean.is_validation(f"doc-{n}", 0.03)]

    assert 480 < len(held_out) < 720  # 600 expected, five standard deviations either way
    assert held_out[:5] == [13, 22, 68, 84, 91]  # other numbers would move documents of old runs


@given(st.binary(min_size=16, max_size=16), st.integers(1, 10_000))
def test_a_text_has_one_shard(digest: bytes, shards: int) -> None:
    assert 0 <= clean.shard_of(digest, shards) < shards


def test_a_later_version_that_is_dropped_takes_the_earlier_one_with_it(tmp_path: Path) -> None:
    """A citation whose update has the retraction would otherwise stay as it was before."""
    source = source_spec(tmp_path / "pubmed", min_chars=5)
    rules = CorpusRules((source,), "fail", 1, 0, drop=("retracted",))
    cleaner = clean.Cleaner(tmp_path, Piece(0, 0, ()), rules, INDEX)
    retracted = {"types": ["Retracted Publication"]}
    records = [
        *(Document(name, "", f"text {name}", is_versioned=True) for name in "abcde"),
        Document("a", "", "text a", meta=retracted, is_versioned=True),
        Document("b", "no abstract", "", is_versioned=True),
        Document("c", "", "text c, again", is_versioned=True),
        Document("d", "", MANY, is_versioned=True),
    ]

    for number, item in enumerate(records, 1):
        cleaner.take(Part("file", 1, 0, 0, 1), Record(item, number, 0, b""))
    cleaner.settle()
    cleaner.writer.publish("key")

    piece = FinishedPiece(tmp_path, 0)
    dropped = find(piece.keys(), rules, tmp_path / "scratch")[0]
    assert [(piece.id_of(int(row["number"])), REASONS[row["reason"]]) for row in dropped] == [
        ("a", "removed"),
        ("b", "removed"),
        ("c", "replaced"),
        ("d", "removed"),
    ]


@pytest.mark.parametrize(
    ("text", "fields", "reason"),
    [
        (MANY, {"min_chars": 200}, "length"),
        (MANY, {"languages": ("fr",)}, "language"),
        ("One two.", {"quality": "abstracts"}, "abstracts: words"),
        (MANY, {"sample": 1e-9}, "not_sampled"),
        (MANY, {}, "contaminated"),
        ("", {}, "empty"),
    ],
)
def test_a_record_that_is_dropped_joins_the_abstract_and_the_full_text(
    text: str, fields: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    sources = (source_spec("citations", **fields), source_spec("texts"))
    rules = CorpusRules(sources, "fail", 1, 0)
    citation = Document(
        "c", "", text, {"pmid": "1", "doi": "10.1/x", "pmcid": "2"}, is_marked=False
    )
    items = [
        [citation],
        [
            Document("a", "", "The abstract.", {"pmid": "1"}, is_abstract=True),
            Document("b", "", "The full text.", {"pmcid": "2"}),
        ],
    ]

    found = cleaned_pieces(tmp_path, rules, items)

    assert found[0].record["counts"] == {"in": 1, reason: 1}
    parts = chain.from_iterable(piece.keys() for piece in found)
    dropped = find(parts, rules, tmp_path / "scratch")
    assert [REASONS[row["reason"]] for row in dropped[1]] == ["abstract_of_full_text"]


@pytest.mark.parametrize("fields", [{}, {"sample": 1e-9}, {"min_chars": 200}])
@pytest.mark.parametrize("text", [MANY, ""])
def test_a_retraction_drops_its_work_though_its_record_would_be_dropped_anyway(
    text: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    sources = (source_spec("citations", **fields), source_spec("texts"))
    rules = CorpusRules(sources, "fail", 1, 0, drop=("retracted",))
    meta = {"types": ["Retracted Publication"]}
    citation = Document("c", "", text, {"pmid": "1"}, meta)
    full = Document("b", "", "The full text.", {"pmid": "1"})

    found = cleaned_pieces(tmp_path, rules, [[citation], [full]])

    parts = chain.from_iterable(piece.keys() for piece in found)
    dropped = find(parts, rules, tmp_path / "scratch")
    assert [REASONS[row["reason"]] for row in dropped[1]] == ["dropped_work"]


def test_copies_of_texts_do_not_make_the_validation_split_larger(tmp_path: Path) -> None:
    """Which of them is kept has nothing to do with which of them would be held out."""
    rules = CorpusRules((source_spec("texts", validation_fraction=0.1),), "fail", 1, 0)
    copies = [Document(f"{at}", "", f"text {at % 200}") for at in range(2_000)]

    [piece] = cleaned_pieces(tmp_path, rules, [copies])

    dropped = find(piece.keys(), rules, tmp_path / "scratch")[0]["number"]
    [(numbers, _)] = piece.of_shard(rules.shards)
    assert len(dropped) == 1_800
    held_out = len(set(numbers) - set(dropped))
    assert 0 < held_out < 45  # 20 expected, and 130 if the smaller id were held out


def cleaned_pieces(
    folder: Path, rules: CorpusRules, sources: list[list[Document]]
) -> list[FinishedPiece]:
    """Clean the documents of each source as a piece."""
    found = []
    for number, documents in enumerate(sources):
        cleaner = clean.Cleaner(folder, Piece(number, number, ()), rules, INDEX)
        for document in documents:
            cleaner.take(Part("file", 1, 0, 0, 1), Record(document, 1, 0))
        cleaner.settle()
        cleaner.writer.publish("key")
        found.append(FinishedPiece(folder, number))
    return found


class Silent(Progress):
    """Progress that nobody reads."""

    def __init__(self) -> None:
        pass

    def at(self, more: int, documents: int = 0) -> None:
        """Do nothing."""


@pytest.mark.parametrize("added", ['{"text": "another"}\n', '{"text": "cut'])
def test_a_file_that_grows_while_it_is_read_is_refused(added: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n')
    rules = CorpusRules((source_spec(path),), "fail", 1, 0)
    (piece,) = pieces.find_pieces(rules).pieces
    with path.open("a") as file:
        file.write(added)

    cleaner = clean.Cleaner(tmp_path, piece, rules, None)
    with pytest.raises(TaskError, match="the files of the corpus have changed while"):
        cleaner.clean(Silent())
    cleaner.writer.discard()
