"""Curation by several tasks: the same bytes as by one, whatever is killed on the way."""

from __future__ import annotations

import gzip
import hashlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.contract.corpus.rules import CorpusRules, NearDuplicatesSpec
from jobs.contract.errors import CONFIGURATION, TaskError
from jobs.contract.files import read_json, sampled_sha256
from jobs.contract.stage_specs import CleanSpec, CurateSpec, DeduplicateSpec
from jobs.corpus import clean, inputs, pieces
from jobs.runtime.context import context_from

from ...corpus_specs import corpus_rules, source_spec


@pytest.fixture
def bench(forked: Any) -> Any:
    return forked


def text_of(number: int) -> str:
    words = [f"word{(number * 7919 + place * place) % 5000}" for place in range(80)]
    return f"Finding {number}: " + " ".join(words)


def records(numbers: range, prefix: str) -> Iterator[dict[str, Any]]:
    for number in numbers:
        yield {"id": f"{prefix}{number}", "text": text_of(number)}
        if number % 10 == 0:
            yield {"id": f"{prefix}near{number}", "text": text_of(number) + " and no more"}
        if number % 25 == 0:
            yield {"id": f"{prefix}short{number}", "text": "short"}
            yield {"id": f"{prefix}bad{number}", "text": None}


def lines(values: Iterator[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> CorpusRules:
    """Return rules over sources of several pieces, with duplicates within and across them."""
    folder = tmp_path_factory.mktemp("in")
    plain, packed = folder / "papers.jsonl", folder / "replay.jsonl.gz"
    plain.write_bytes(lines(records(range(2_000), "p")))
    packed.write_bytes(gzip.compress(lines(records(range(1_600, 2_400), "r")), mtime=0))
    (folder / "more").mkdir()
    for number in range(3):
        content = lines(records(range(2_300 + 400 * number, 2_800 + 400 * number), f"m{number}"))
        (folder / "more" / f"{number}.jsonl").write_bytes(content)
    common: dict[str, Any] = {"min_chars": 10, "validation_fraction": 0.1}
    return CorpusRules(
        sources=(
            source_spec(plain, **common),
            source_spec(packed, sample=0.9, **common),
            source_spec(folder / "more", **common),
        ),
        on_bad_record="skip",
        shards=3,
        seed=7,
        near_duplicates=NearDuplicatesSpec(similarity=0.8, words=5),
    )


def write_tasks(bench: Any, rules: CorpusRules, tasks: int) -> list[tuple[str, int]]:
    """Write the specs of all tasks; return them in an order in which they can run."""
    if tasks == 1:
        bench.task("curate", CurateSpec(rules, 0, 1, True, "corpus"))
        return [("curate", 0)]
    writers = min(tasks, rules.shards + 1)
    for part in range(tasks):
        bench.task("clean", CleanSpec(rules, part, tasks, "corpus"), part)
    bench.task("deduplicate", DeduplicateSpec(rules, tasks, "corpus"))
    for part in range(writers):
        bench.task("curate", CurateSpec(rules, part, writers, False, "corpus"), part)
    cleaning = [("clean", part) for part in range(tasks)]
    return [*cleaning, ("deduplicate", 0), *(("curate", part) for part in range(writers))]


@pytest.fixture(scope="module")
def undisturbed(module_forked: Any, rules: CorpusRules) -> dict[str, bytes]:
    """Return the corpus of one task."""
    write_tasks(module_forked, rules, 1)
    result = module_forked.start("curate")
    assert (result.returncode, result.stderr) == (0, "")
    return dict(module_forked.files("corpus"))


def test_the_corpus_has_every_kind_of_drop(undisturbed: dict[str, bytes]) -> None:
    assert sorted(undisturbed) == [
        "dropped.jsonl", "manifest.json", "rejected.jsonl", "sources.jsonl", "train/00000.jsonl",
        "train/00001.jsonl", "train/00002.jsonl", "validation/00000.jsonl",
    ]  # fmt: skip
    counts = json.loads(undisturbed["manifest.json"])["counts"]
    dropped = {name: counts[name] for name in ("near_duplicate", "duplicate", "length", "bad")}
    assert all(count > 40 for count in dropped.values()), counts
    assert counts["in"] == counts["kept"] + counts["not_sampled"] + sum(dropped.values())


def test_each_source_file_is_listed_once(undisturbed: dict[str, bytes], rules: CorpusRules) -> None:
    """The first one is read in ranges."""
    listed = undisturbed["sources.jsonl"]
    plain, packed, more = (Path(source.path) for source in rules.sources)

    assert [json.loads(line) for line in listed.splitlines()] == [
        {
            "source": name,
            "path": str(path),
            "bytes": path.stat().st_size,
            "sampled_sha256": sampled_sha256(path),
        }
        for name, path in [
            ("papers", plain),
            ("replay", packed),
            *(("more", path) for path in sorted(more.iterdir())),
        ]
    ]
    assert json.loads(undisturbed["manifest.json"])["source_files"] == {
        "path": "corpus/sources.jsonl",
        "bytes": len(listed),
        "sha256": hashlib.sha256(listed).hexdigest(),
    }


@pytest.mark.parametrize("tasks", [3, 8])
def test_any_number_of_tasks_writes_the_same_bytes(
    tasks: int, bench: Any, rules: CorpusRules, undisturbed: dict[str, bytes]
) -> None:
    for stage, index in write_tasks(bench, rules, tasks):
        result = bench.start(stage, index=index)
        assert (result.returncode, result.stderr) == (0, "")

    assert bench.files("corpus") == undisturbed
    manifest = read_json(bench.run.path("corpus/manifest.json"))
    assert (
        sum(read_json(bench.run.done("curate", part))["summary"]["documents"] for part in range(3))
        <= manifest["counts"]["documents"]
    )


def test_tasks_that_are_killed_continue_and_write_the_same_bytes(
    bench: Any, rules: CorpusRules, undisturbed: dict[str, bytes]
) -> None:
    kills = 0
    for stage, index in write_tasks(bench, rules, 3):
        for moment in (1, 3, 9, 4, 2):
            result = bench.start_and_signal(stage, "os.rename", moment, signal.SIGKILL, index)
            if not result.returncode:
                break
            assert result.returncode == -signal.SIGKILL
            kills += 1
        else:
            assert bench.start(stage, index=index).returncode == 0

    assert kills > 20
    assert bench.files("corpus") == undisturbed


def test_one_task_that_is_killed_keeps_its_finished_pieces(
    bench: Any, rules: CorpusRules, undisturbed: dict[str, bytes]
) -> None:
    write_tasks(bench, rules, 1)
    finished: list[int] = []
    for moment in (4, 12, 9, 20, 33, 60):
        result = bench.start_and_signal("curate", "os.rename", moment, signal.SIGKILL)
        if not result.returncode:
            break
        finished.append(len(list(bench.run.path("corpus/pieces").glob("*[0-9].json"))))

    assert finished == sorted(finished)
    assert finished[-1] > finished[0]
    assert bench.start("curate").returncode == 0
    assert bench.files("corpus") == undisturbed


def test_a_stop_request_keeps_finished_pieces(bench: Any, rules: CorpusRules) -> None:
    write_tasks(bench, rules, 1)

    result = bench.start_and_signal("curate", "os.rename", 25, signal.SIGTERM)

    assert result.returncode == 130
    assert "the next attempt continues behind the finished parts" in result.stderr
    assert list(bench.run.path("corpus/pieces").glob("*[0-9].json"))


def test_pieces_that_a_killed_task_left_beside_a_whole_corpus_are_removed(
    bench: Any, tmp_path: Path
) -> None:
    """They may be half gone: nothing is written from them."""
    source = tmp_path / "docs.jsonl"
    source.write_bytes(lines(records(range(60), "p")))
    bench.curate(source, on_bad_record="skip")
    assert bench.start("curate").returncode == 0
    before = bench.files("corpus")
    bench.run.path("corpus/pieces/shards").mkdir(parents=True)
    bench.run.path("corpus/pieces/00000.json").write_text("{}")

    result = bench.start("curate")

    assert (result.returncode, result.stderr) == (0, "")
    assert bench.files("corpus") == before


def test_the_manifest_of_an_earlier_corpus_does_not_stay_beside_other_shards(
    bench: Any, tmp_path: Path
) -> None:
    source = tmp_path / "docs.jsonl"
    source.write_bytes(lines(records(range(60), "p")))
    bench.curate(source, on_bad_record="skip")
    assert bench.start("curate").returncode == 0
    before = bench.files("corpus/train")
    source.write_bytes(lines(records(range(70), "p")))

    result = bench.start_and_signal("curate", "os.rename", 13, signal.SIGKILL)

    assert result.returncode == -signal.SIGKILL
    assert bench.files("corpus/train") != before
    assert not bench.run.path("corpus/manifest.json").exists()


def test_a_run_that_was_moved_away_does_not_reappear(bench: Any, rules: CorpusRules) -> None:
    write_tasks(bench, rules, 3)
    context = context_from(bench.run.root, "clean", 0, {})
    files = pieces.find_pieces(rules).pieces
    bench.run.root.rename(bench.run.root.with_name("elsewhere"))

    with pytest.raises(FileNotFoundError):
        clean.clean_pieces(context, bench.run.path("corpus/pieces"), rules, files, None)

    assert not bench.run.root.exists()


def test_a_source_file_that_cannot_be_read_is_an_error_of_its_source(
    bench: Any, tmp_path: Path
) -> None:
    path = tmp_path / "docs.jsonl"
    path.write_bytes(lines(records(range(3), "p")))
    bench.curate(path)
    found = pieces.find_pieces(corpus_rules(path)).pieces
    path.unlink()

    with pytest.raises(TaskError, match="no such file") as caught:
        inputs.describe(context_from(bench.run.root, "curate", 0, {}), found)

    assert caught.value.code == CONFIGURATION


def test_a_lost_piece_is_named_with_what_to_do(bench: Any, rules: CorpusRules) -> None:
    order = write_tasks(bench, rules, 3)
    for stage, index in order[:3]:
        assert bench.start(stage, index=index).returncode == 0
    (bench.run.path("corpus/pieces") / "00001.arrays").unlink()

    result = bench.start("deduplicate")

    assert result.returncode == 2
    assert "piece 1 of the cleaned documents is missing or damaged" in result.stderr
    stages = bench.run.path("stages/clean/done")
    pieces = bench.run.path("corpus/pieces")
    assert f"hint: `rm -rf {pieces} {stages}`, then " in result.stderr


def test_a_damaged_piece_is_never_written_to_shards(bench: Any, rules: CorpusRules) -> None:
    order = write_tasks(bench, rules, 3)
    for stage, index in order[:4]:
        assert bench.start(stage, index=index).returncode == 0
    path = bench.run.path("corpus/pieces") / "00001.documents"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)

    results = [bench.start("curate", index=index) for index in range(3)]

    assert 2 in [result.returncode for result in results]
    assert not bench.run.path("corpus/manifest.json").exists()


@pytest.mark.parametrize("left", [None, 2], ids=["missing", "cut"])
def test_a_shard_that_was_damaged_before_the_corpus_was_whole_is_written_again(
    left: int | None, bench: Any, rules: CorpusRules, undisturbed: dict[str, bytes]
) -> None:
    order = write_tasks(bench, rules, 3)
    for stage, index in order[:-1]:
        assert bench.start(stage, index=index).returncode == 0
    shard = bench.run.path("corpus/train/00000.jsonl")
    whole = shard.read_bytes().splitlines(keepends=True)
    shard.unlink()
    if left is not None:
        shard.write_bytes(b"".join(whole[:left]))

    assert bench.start("curate", index=order[-1][1]).returncode == 0
    assert not bench.run.path("corpus/manifest.json").exists()

    assert bench.start("curate", index=0).returncode == 0
    assert bench.files("corpus") == undisturbed


END_MEANWHILE = """
import os, runpy, sys
aside, manifest = sys.argv.pop(1), sys.argv.pop(1)
def watch(name, arguments):
    if name == "open" and str(arguments[0]).endswith("pieces/00000.json") and os.path.exists(aside):
        os.rename(aside, manifest)
sys.addaudithook(watch)
runpy.run_module("jobs", run_name="__main__", alter_sys=True)
"""
"""Runs `jobs`, which finds a manifest as soon as it looks for the first piece."""


def test_a_restarted_task_accepts_that_another_one_ended_the_corpus(
    bench: Any, rules: CorpusRules, undisturbed: dict[str, bytes]
) -> None:
    for stage, index in write_tasks(bench, rules, 3):
        assert bench.start(stage, index=index).returncode == 0
    bench.run.done("curate", 1).unlink()
    manifest = bench.run.path("corpus/manifest.json")
    aside = manifest.rename(bench.run.root / "aside.json")

    result = bench.run_code(END_MEANWHILE, str(aside), str(manifest), "curate", index=1)

    assert (result.returncode, result.stderr) == (0, "")
    assert bench.run.done("curate", 1).exists()
    assert bench.files("corpus") == undisturbed
