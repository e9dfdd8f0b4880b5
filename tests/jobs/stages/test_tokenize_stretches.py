"""Tokenization that is killed, stopped or given other settings: finished stretches stay, and only
those that are right.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import shutil
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from jobs.contract import done_markers, specs
from jobs.contract.errors import Stopped, TaskError
from jobs.contract.files import read_json, sha256
from jobs.contract.stage_specs import TokenizeSpec
from jobs.data import tokenized
from jobs.runtime.context import Context, context_from
from jobs.stages import tokenize_corpus
from jobs.stages.tokenize_corpus import Tools, tokenize_or_again
from jobs.tokenization import stretch_records

from .conftest import TEXTS, train
from .test_tokenize_corpus import DIFFERENCE, FailsLater

SHARDS = ("corpus/train/00000.jsonl", "corpus/train/00001.jsonl", "corpus/validation/00000.jsonl")
STRETCHES = {"train": 7, "validation": 1}
"""Of all shards of a split."""
SETTINGS: dict[str, Any] = {
    "inputs": SHARDS,
    "output_prefixes": tuple(
        name.replace("corpus", "tokens").removesuffix(".jsonl") for name in SHARDS
    ),
    "shard_tokens": 2_000,
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train().save(str(path))
    return path


def write_corpus(bench: Any, last: str = "the last") -> None:
    """Write the shards and their record, as curate does."""
    for name, count in zip(SHARDS, (40, 25, 4), strict=True):
        texts = [f"{number} {text}" for number in range(count) for text in TEXTS] + [last]
        path = bench.run.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = ({"id": str(n), "source": "papers", "text": text} for n, text in enumerate(texts))
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done_markers.write_done(
        bench.run, "curate", 0, spec_digest="", inputs=[], summary={}, seconds=0.0,
        outputs=[done_markers.describe_file(bench.run, name) for name in SHARDS],
    )  # fmt: skip


def plan(bench: Any, tokenizer: Path, tasks: int = 1, **changes: Any) -> list[int]:
    """Write the specs of the tasks, each with every n-th stretch; return their indices."""
    shutil.rmtree(bench.run.path("stages/tokenize/spec"), ignore_errors=True)
    values = {**SETTINGS, **changes}
    for part in range(tasks):
        spec = bench.tokenize(SHARDS[0], tokenizer, **values, part=part, parts=tasks).spec
        bench.task("tokenize", spec, part)
    bench.tokenize(SHARDS[0], tokenizer, **values, part=0, parts=tasks)
    return list(range(tasks))


@pytest.fixture(scope="module")
def undisturbed(module_forked: Any, tokenizer: Path) -> dict[str, bytes]:
    """Return the tokens of one task."""
    write_corpus(module_forked)
    plan(module_forked, tokenizer)
    result = module_forked.start("tokenize")
    assert (result.returncode, result.stderr) == (0, "")
    return dict(module_forked.files("tokens"))


@pytest.fixture
def bench(forked: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("RAYON_NUM_THREADS", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "")  # a task sets them
    write_corpus(forked)
    return forked


def recorded(bench: Any) -> dict[str, dict[str, Any]]:
    """Return the records of the finished stretches, by split and name."""
    folder = bench.run.path("stages/tokenize/stretches")
    return {
        str(path.relative_to(folder).with_suffix("")): read_json(path)
        for path in sorted(folder.glob("*/[0-9]*.json"))
    }


def written(bench: Any, names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Return what shows whether files of finished stretches were written again."""
    records = recorded(bench)
    files = [bench.run.path(item["path"]) for name in names for item in records[name]["files"]]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def test_the_corpus_has_several_stretches(undisturbed: dict[str, bytes]) -> None:
    found = [name.split("/")[0] for name in undisturbed if name.endswith(".bin")]

    assert {split: found.count(split) for split in STRETCHES} == STRETCHES


@pytest.mark.parametrize("seed", [1, 3])
def test_killed_at_random_it_keeps_finished_stretches_and_writes_the_same_bytes(
    seed: int, bench: Any, tokenizer: Path, undisturbed: dict[str, bytes]
) -> None:
    """Each attempt may have another number of tasks."""
    chance = random.Random(seed)
    kept: dict[str, tuple[int, int]] = {}
    kills = 0
    for _ in range(30):
        tasks = plan(bench, tokenizer, chance.choice([1, 2, 3]))
        moments = {index: chance.randint(4, 20) for index in tasks}
        ends = [
            bench.start_and_signal(
                "tokenize", "os.rename", moment, signal.SIGKILL, index
            ).returncode
            for index, moment in moments.items()
        ]
        assert set(ends) <= {0, -signal.SIGKILL}
        kills += ends.count(-signal.SIGKILL)
        now = written(bench, recorded(bench))
        assert kept.items() <= now.items()
        kept = now
        if len(recorded(bench)) == sum(STRETCHES.values()):
            break
        assert not bench.run.path(tokenized.MANIFEST_PATH).exists()
    for index in tasks:
        assert bench.start("tokenize", index=index).returncode == 0

    assert kills > 2
    assert written(bench, recorded(bench)) == kept
    assert bench.files("tokens") == undisturbed
    assert len(tokenized.prefixes(bench.run, ["."], "train")) == STRETCHES["train"]


def test_a_real_process_that_is_killed_continues_behind_its_stretches(
    bench: Any, tokenizer: Path, undisturbed: dict[str, bytes]
) -> None:
    bench = dataclasses.replace(bench, server=None)
    plan(bench, tokenizer)

    killed = bench.start_and_signal("tokenize", "os.rename", 16, signal.SIGKILL)
    before = written(bench, recorded(bench))
    result = bench.start("tokenize")

    assert (killed.returncode, result.returncode, result.stderr) == (-signal.SIGKILL, 0, "")
    assert len(before) > 3
    assert before.items() <= written(bench, recorded(bench)).items()
    assert bench.files("tokens") == undisturbed


def test_a_stop_request_keeps_finished_stretches(
    bench: Any, tokenizer: Path, undisturbed: dict[str, bytes]
) -> None:
    plan(bench, tokenizer)

    result = bench.start_and_signal("tokenize", "os.rename", 14, signal.SIGTERM)

    assert result.returncode == 130
    assert "the next attempt continues behind the finished stretches" in result.stderr
    before = written(bench, recorded(bench))
    assert 0 < len(before) < 3 * sum(STRETCHES.values())
    assert bench.start("tokenize").returncode == 0
    assert before.items() <= written(bench, recorded(bench)).items()
    assert bench.files("tokens") == undisturbed


class Shown(Context):
    """A context that keeps what it reports."""

    def progress(self, done: float, total: float, unit: str, **more: Any) -> None:
        self.logged.add(f"{done} of {total} {unit}, {more['documents']} documents")


def test_finished_stretches_count_in_the_progress(bench: Any, tokenizer: Path) -> None:
    plan(bench, tokenizer)
    assert bench.start("tokenize").returncode == 0
    context = Shown(**vars(context_from(bench.run.root, "tokenize", 0, {})))

    tokenize_corpus.run(context)

    size = sum(bench.run.path(name).stat().st_size for name in SHARDS)
    documents = bench.done("tokenize")["summary"]["documents"]
    first = recorded(bench)["train/00000"]
    assert f"{size} of {size} bytes, {documents} documents" in context.logged
    begun = f"{first['files'][0]['end']} of {size} bytes, {first['counts']['documents']} documents"
    assert begun in context.logged
    assert len(context.logged) == sum(STRETCHES.values())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


@pytest.mark.parametrize(
    ("suffix", "change"), [(".bin", Path.unlink), (".idx", cut), (".docs", Path.unlink)]
)
def test_a_stretch_without_its_files_is_made_again_alone(
    suffix: str, change: Any, bench: Any, tokenizer: Path, undisturbed: dict[str, bytes]
) -> None:
    plan(bench, tokenizer)
    tokenize_corpus.run(context_from(bench.run.root, "tokenize", 0, {}))
    name = "train/00000-0001"
    others = written(bench, recorded(bench).keys() - {name})
    change(bench.run.path(f"tokens/{name}{suffix}"))

    tokenize_corpus.run(context_from(bench.run.root, "tokenize", 0, {}))

    assert written(bench, recorded(bench).keys() - {name}) == others
    assert bench.files("tokens") == undisturbed


def test_a_record_that_is_damaged_or_of_another_program_does_not_count(
    bench: Any, tokenizer: Path, undisturbed: dict[str, bytes]
) -> None:
    plan(bench, tokenizer)
    tokenize_corpus.run(context_from(bench.run.root, "tokenize", 0, {}))
    folder = bench.run.path("stages/tokenize/stretches/train")
    (folder / "00000.json").write_text("{")
    (folder / "00000-0001.json").write_text('{"format": 2}')
    (folder / "00000-0002.json").write_text('{"format": 3, "made_of": 1}')

    tokenize_corpus.run(context_from(bench.run.root, "tokenize", 0, {}))

    assert bench.files("tokens") == undisturbed
    assert all(record["files"] for record in recorded(bench).values())


def digests(bench: Any, spec: TokenizeSpec, sha: str = "") -> set[str]:
    """Return what all stretches of a task are made of."""
    shards = {
        name: {"bytes": bench.run.path(name).stat().st_size, "sha256": sha} for name in SHARDS
    }
    outputs = zip(spec.inputs, spec.output_prefixes, strict=True)
    return {item.made_of for item in stretch_records.plan(bench.run, spec, outputs, shards)}


def test_a_record_counts_with_the_same_tokenizer_lines_and_settings_alone(
    bench: Any, tokenizer: Path
) -> None:
    plan(bench, tokenizer)
    spec = specs.load_task(bench.run, "tokenize", 0).spec
    assert isinstance(spec, TokenizeSpec)
    reference = spec.tokenizer
    registry = dataclasses.replace(reference.vocabulary, bos_token="<s>")
    others = [
        digests(bench, spec, "another shard"),
        *(
            digests(bench, dataclasses.replace(spec, **{name: value}))
            for name, value in {
                "shard_tokens": 2_001,
                "text_key": "content",
                "special_tokens_in_text": True,
            }.items()
        ),
        *(
            digests(bench, dataclasses.replace(spec, tokenizer=changed))
            for changed in (
                dataclasses.replace(reference, sha256="another"),
                dataclasses.replace(reference, vocabulary=registry),
            )
        ),
    ]
    same = dataclasses.replace(spec, engine="tokenizers", part=1, parts=3, model_vocab_size=2_000)

    assert len(digests(bench, spec)) == sum(STRETCHES.values())
    assert digests(bench, same) == digests(bench, spec)
    assert all(other.isdisjoint(digests(bench, spec)) for other in others)


def test_other_settings_leave_no_dataset_and_no_record_of_the_old_ones(
    bench: Any, tokenizer: Path, undisturbed: dict[str, bytes]
) -> None:
    """Not even while tasks are missing does training take one for a part of the corpus."""
    plan(bench, tokenizer, shard_tokens=300)
    tokenize_corpus.run(context_from(bench.run.root, "tokenize", 0, {}))
    assert len(bench.files("tokens/train")) > 3 * STRETCHES["train"]
    (bench.run.path("tokens/train") / ".00000-0007.bin.0123abcd").touch()
    (bench.run.path("tokens/train") / "mine.bin").write_text("of a person")
    plan(bench, tokenizer, tasks=2)

    tokenize_corpus.run(context_from(bench.run.root, "tokenize", 1, {}))
    done_markers.forget_done(bench.run, "tokenize", 0)  # as a submission does
    with pytest.raises(tokenized.NotTokenized, match=r"tokenize has not finished corpus/train"):
        tokenized.prefixes(bench.run, ["."], "train")
    assert not bench.run.path(tokenized.MANIFEST_PATH).exists()
    tokenize_corpus.run(context_from(bench.run.root, "tokenize", 0, {}))

    assert bench.files("tokens") == {**undisturbed, "train/mine.bin": b"of a person"}
    assert len(recorded(bench)) == sum(STRETCHES.values())


def test_a_shard_that_has_changed_is_made_again_alone(bench: Any, tokenizer: Path) -> None:
    plan(bench, tokenizer)
    tokenize_corpus.run(context_from(bench.run.root, "tokenize", 0, {}))
    others = written(bench, [name for name in recorded(bench) if "00000" not in name])
    before = written(bench, ["train/00000", "train/00000-0001"])
    path = bench.run.path(SHARDS[0])
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-3]))

    tokenize_corpus.run(context_from(bench.run.root, "tokenize", 0, {}))

    now = written(bench, recorded(bench))
    assert len(others) == 9
    assert others.items() <= now.items()
    assert set(before.items()).isdisjoint(now.items())
    manifest = read_json(bench.run.path(tokenized.MANIFEST_PATH))
    assert manifest["shards"][0]["sha256"] == sha256(path)


def test_what_gigatoken_made_before_it_differs_is_made_again_in_whatever_attempt(
    bench: Any, tokenizer: Path
) -> None:
    """The first attempt is stopped, the second one finds the difference and is stopped too."""
    write_corpus(bench, last="differs")
    plan(bench, tokenizer)
    spec = specs.load_task(bench.run, "tokenize", 0).spec
    assert isinstance(spec, TokenizeSpec)
    bench.start_and_signal("tokenize", "os.rename", 10, signal.SIGTERM)
    first = set(written(bench, recorded(bench)).items())
    assert {record["engine"] for record in recorded(bench).values()} == {"gigatoken"}
    context = context_from(bench.run.root, "tokenize", 0, {})
    tools = Tools.load(spec)
    stops = FailsLater(tools.engine, lambda: context.stop.received.append(signal.SIGTERM))
    shards = {name: done_markers.describe_file(bench.run, name) for name in SHARDS}
    with pytest.raises(Stopped):
        tokenize_or_again(context, dataclasses.replace(tools, engine=stops), shards)
    assert first & set(written(bench, recorded(bench)).items())

    assert bench.start("tokenize").returncode == 0

    assert first.isdisjoint(written(bench, recorded(bench)).items())
    assert {record["engine"] for record in recorded(bench).values()} == {"tokenizers"}
    assert bench.done("tokenize")["summary"]["engine_reason"] == DIFFERENCE
    manifest = read_json(bench.run.path(tokenized.MANIFEST_PATH))
    datasets = [item for shard in manifest["shards"] for item in shard["datasets"]]
    assert {(item["engine"], item["engine_reason"]) for item in datasets} == {
        ("tokenizers", DIFFERENCE)
    }


def test_where_gigatoken_is_required_the_difference_is_known_to_later_attempts(
    bench: Any, tokenizer: Path
) -> None:
    plan(bench, tokenizer, engine="gigatoken")
    write_corpus(bench, last="differs")
    context = context_from(bench.run.root, "tokenize", 0, {})
    assert isinstance(context.task.spec, TokenizeSpec)
    tools = Tools.load(context.task.spec)
    shards = {name: done_markers.describe_file(bench.run, name) for name in SHARDS}
    differs = dataclasses.replace(tools, engine=FailsLater(tools.engine))
    with pytest.raises(TaskError, match="gigatoken differs"):
        tokenize_or_again(context, differs, shards)

    result = bench.start("tokenize")

    hint = "set tokenize.engine to auto, which takes tokenizers then"
    assert result.stderr == f"tokenize: {DIFFERENCE}\nhint: {hint}\n"
    plan(bench, tokenizer)
    assert bench.start("tokenize").returncode == 0
    assert {record["engine"] for record in recorded(bench).values()} == {"tokenizers"}


def test_the_manifest_has_what_the_done_markers_have(bench: Any, tokenizer: Path) -> None:
    for index in plan(bench, tokenizer, tasks=3):
        assert not bench.run.path(tokenized.MANIFEST_PATH).exists()
        tokenize_corpus.run(context_from(bench.run.root, "tokenize", index, {}))

    markers = [done_markers.load(bench.run.done("tokenize", index)) for index in range(3)]
    found = read_json(bench.run.path(tokenized.MANIFEST_PATH))
    shards = {shard["path"]: shard for shard in found["shards"]}
    assert {name: shard["sha256"] for name, shard in shards.items()} == {
        name: sha256(bench.run.path(name)) for name in SHARDS
    }
    assert (found["tokenizer"], found["dtype"]) == (sha256(tokenizer), "uint16")
    assert found["vocabulary"] == markers[0].summary["vocabulary"]
    datasets = [item for shard in found["shards"] for item in shard["datasets"]]
    files = {item["path"]: item for dataset in datasets for item in dataset["files"]}
    outputs = {item["path"]: item for marker in markers for item in marker.outputs}
    keys = ("bytes", "sha256")
    assert {name: [item[key] for key in keys] for name, item in files.items()} == {
        name: [item[key] for key in keys] for name, item in outputs.items()
    }
    for name, item in files.items():
        content = bench.run.path(name).read_bytes()
        assert item["sha256"] == hashlib.sha256(content).hexdigest()
    for dataset in datasets:
        binary = outputs[f"{dataset['prefix']}.bin"]
        facts = ("begin", "end", "documents", "tokens")
        assert [dataset[fact] for fact in facts] == [binary[fact] for fact in facts]
    for key in ("documents", "tokens", "words", "skipped", "read"):
        assert found["counts"][key] == sum(marker.summary[key] for marker in markers)
        assert found["counts"][key] == sum(shard["counts"][key] for shard in shards.values())
    assert found["counts"]["sources"] == {"papers": found["counts"]["tokens"]}
    prefixes = [item["prefix"] for item in datasets]
    read = [
        p for split in ("train", "validation") for p in tokenized.prefixes(bench.run, ["."], split)
    ]
    assert prefixes == read
