"""The manifest of a corpus beside its own counts of a source."""

from __future__ import annotations

import pytest

from jobs.corpus import manifest
from jobs.corpus.pieces import SourceFiles
from tests.corpus_specs import corpus_rules


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("papers", {"train": 4_900_000, "validation": 142_000, "train_tokens": 40_700_000_000,
                    "validation_tokens": 1_230_000_000}),
        ("leaflets", None),
    ],
)  # fmt: skip
def test_a_source_of_gap_replay_has_its_published_counts(
    name: str, published: dict[str, int] | None
) -> None:
    found = manifest.described(corpus_rules(name=name), SourceFiles([], []), name, {"kept": 5})

    assert (found["name"], found["kept"], found.get("published")) == (name, 5, published)
