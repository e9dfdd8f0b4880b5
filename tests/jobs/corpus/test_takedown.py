"""Documents of shards by their ids."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from jobs.contract.rundir import RunDir
from jobs.corpus import takedown

ODD = ['say "5 mg"', "a\\b", "Straße\u2028\x7f", "line\nbreak\t\x01", "10.1000/x,y", "\U0001d518"]


@pytest.mark.parametrize("name", ODD)
def test_a_line_is_found_by_any_id_as_shards_write_it(name: str, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    other = {"id": f"{name} ", "source": "s", "text": name}
    lines = [orjson.dumps(record) + b"\n" for record in (other, {"id": name, "text": "x"})]
    run.path("shard").write_bytes(b"".join(lines))

    (match,) = takedown.in_shard(run, "shard", [name])

    assert (match.id, match.bytes) == (name, len(lines[1]))


def test_copies_of_a_document_are_one_document(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    line = b'{"id":"a","source":"papers","work_id":"pmid:1","title":"T","text":"x"}\n'
    other = b'{"id":"a","source":"web","text":"y"}\n'
    run.path("train").mkdir()
    run.path("train/0.jsonl").write_bytes(line * 3 + other)

    first, second = takedown.in_shard(run, "train/0.jsonl", ["a"])

    assert first == takedown.Match(
        "a", "papers", "pmid:1", "T", "train/0.jsonl", documents=3, bytes=3 * len(line)
    )
    assert (second.source, second.documents) == ("web", 1)
    counts = {"kept": 2, "documents": 4, "train": 4, "bytes": 400, "in": 9}
    assert takedown.fewer_counts(counts, [first]) == {
        "kept": 1,
        "documents": 1,
        "train": 1,
        "bytes": 400 - 3 * len(line),
        "in": 9,
        "taken_down": 1,
    }


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("pmid:1", ["a", "b"]),
        ("pmcid:PMC1", ["b"]),
        ("pmcid:1", ["b"]),
        ("doi:10.1000/X", ["c"]),
        ("doi:https://doi.org/10.1000/x", ["c"]),
        ("pmid:10", []),
        ("1", ["1"]),
    ],
)
def test_documents_are_found_by_names_of_their_work(
    name: str, found: list[str], tmp_path: Path
) -> None:
    metas = {
        "a": {"pmid": "1"},
        "b": {"pmid": "1", "pmcid": "1"},
        "c": {"doi": "10.1000/x"},
        "1": {},
    }
    records = [{"id": one, "source": "s", "text": "1", "meta": metas[one]} for one in metas]
    (tmp_path / "shard").write_bytes(b"".join(orjson.dumps(one) + b"\n" for one in records))

    matches = takedown.in_shard(RunDir(tmp_path), "shard", [name])

    assert [match.id for match in matches] == found
    assert all(match.is_called(name) for match in matches)
