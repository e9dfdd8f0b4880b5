"""The files of dropped and rejected documents beside the shards of a corpus."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.corpus.piece_files import DROPPED, REJECTED, AsideFiles


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, Path]:
    return {kind: tmp_path / kind for kind in (DROPPED, REJECTED)}


@pytest.fixture
def aside(paths: dict[str, Path]) -> Iterator[AsideFiles]:
    files = AsideFiles(paths)
    yield files
    files.discard()


def test_a_file_of_an_earlier_attempt_does_not_stay(
    aside: AsideFiles, paths: dict[str, Path]
) -> None:
    paths[DROPPED].write_text("earlier")
    aside.add(REJECTED, {"id": "a"})

    aside.publish()

    assert not paths[DROPPED].exists()
    assert paths[REJECTED].read_text() == '{"id":"a"}\n'


def test_nothing_is_left_of_what_is_not_published(
    aside: AsideFiles, paths: dict[str, Path]
) -> None:
    aside.add(REJECTED, {"id": "a"})

    aside.discard()

    assert list(paths[REJECTED].parent.iterdir()) == []


def test_rejected_records_are_not_held_in_memory(aside: AsideFiles) -> None:
    value = {"record": "x" * 10_000}
    tracemalloc.start()
    for _ in range(2_000):
        aside.add(REJECTED, value)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 1_000_000
