"""The pieces of a corpus: each record once, whatever the sizes; tasks share them out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contract.corpus.rules import CorpusRules
from jobs.contract.errors import TaskError
from jobs.corpus import pieces
from jobs.corpus.formats import read
from jobs.corpus.pieces import MIN_PIECE_BYTES, Part

from ...corpus_specs import corpus_rules, source_spec


def rules(*paths: Path) -> CorpusRules:
    return corpus_rules(*paths, shards=2)


@given(size=st.integers(0, 10_000), limit=st.integers(1, 3_000))
def test_the_ranges_of_a_file_cover_it_once(size: int, limit: int) -> None:
    ranges = pieces.cut(Part("docs.jsonl", size, 0, 0, size), limit)

    ends = [0, *(part.end for part in ranges)]
    assert [part.begin for part in ranges] == ends[:-1]
    assert ends[-1] == size
    assert all(part.end - part.begin <= limit for part in ranges)


@pytest.mark.parametrize("name", ["d.jsonl.gz", "d.json", "d.parquet", "d.nxml", "d.csv"])
def test_other_files_are_not_cut(name: str) -> None:
    whole = Part(name, 10_000, 0, 0, 10_000)

    assert pieces.cut(whole, 100) == [whole]


def test_a_large_file_is_cut_and_small_ones_are_put_together(tmp_path: Path) -> None:
    documents = [{"id": str(n), "text": "word " * (n % 700)} for n in range(2_000)]
    large = tmp_path / "large.jsonl"
    large.write_text("".join(json.dumps(document) + "\n" for document in documents))
    small = tmp_path / "small"
    small.mkdir()
    for number in range(30):
        (small / f"{number:02d}.jsonl").write_text('{"id": "x", "text": "one"}\n')
    assert large.stat().st_size > 3 * MIN_PIECE_BYTES

    found = pieces.find_pieces(rules(large, small))

    assert [piece.number for piece in found.pieces] == list(range(len(found.pieces)))
    ranges = -(-large.stat().st_size // MIN_PIECE_BYTES)
    assert [piece.source for piece in found.pieces] == [0] * ranges + [1]
    assert len(found.pieces[-1].parts) == 30
    texts = [
        record.item.text  # type: ignore[union-attr]
        for piece in found.pieces[:-1]
        for part in piece.parts
        for record in read.read(Path(part.path), source_spec(large), part.begin, part.end)
    ]
    assert texts == [document["text"] for document in documents]


@given(parts=st.integers(1, 9))
def test_tasks_share_out_every_piece(parts: int) -> None:
    all_pieces = [pieces.Piece(number, 0, ()) for number in range(7)]
    files = pieces.SourceFiles(all_pieces, [])

    shared = [piece for part in range(parts) for piece in files.of_task(part, parts)]

    assert sorted(piece.number for piece in shared) == list(range(7))


def test_a_file_that_two_sources_name_belongs_to_the_first(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n')
    (tmp_path / "b.jsonl").write_text('{"text": "two"}\n')
    (tmp_path / "notes.md").write_text("no document")

    found = pieces.find_pieces(rules(tmp_path / "b.jsonl", tmp_path))

    assert [[Path(part.path).name for part in piece.parts] for piece in found.pieces] == [
        ["b.jsonl"],
        ["a.jsonl"],
    ]
    assert found.ignored == [str(tmp_path / "notes.md")]


def test_a_file_that_has_changed_since_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n')
    before = pieces.find_pieces(rules(path)).pieces[0].described()
    path.write_text('{"text": "one and more"}\n')

    with pytest.raises(TaskError, match="have changed while it was curated"):
        pieces.require_same(pieces.find_pieces(rules(path)).pieces[0], before)
