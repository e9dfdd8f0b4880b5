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

    (match,) = takedown.in_shard(run, "shard", takedown.starts_of([name]))

    assert (match.id, match.bytes) == (name, len(lines[1]))


def test_copies_of_a_document_are_one_document(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    line = b'{"id":"a","source":"papers","work_id":"pmid:1","title":"T","text":"x"}\n'
    other = b'{"id":"a","source":"web","text":"y"}\n'
    run.path("train").mkdir()
    run.path("train/0.jsonl").write_bytes(line * 3 + other)

    first, second = takedown.in_shard(run, "train/0.jsonl", takedown.starts_of(["a"]))

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
