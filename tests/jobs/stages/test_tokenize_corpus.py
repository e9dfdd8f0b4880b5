"""Tokenize as a task: its output."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from tokenizers import AddedToken, Tokenizer, normalizers

from jobs.contract import done_markers, specs
from jobs.contract.errors import TaskError
from jobs.contract.files import sha256
from jobs.contract.stage_specs import TokenizeSpec
from jobs.data import document_map, tokenized
from jobs.data.cleaning import text_digest
from jobs.data.survey import survey
from jobs.runtime.context import context_from
from jobs.stages import tokenize_corpus
from jobs.stages.tokenize_corpus import Tools, tokenize_or_again
from jobs.tokenization.engine import Encoded, EngineDiffers
from meditron_cli.plan.stages import shares_of_shards

from ...model_specs import corpus_spec
from .conftest import TEXTS, train


@pytest.fixture
def bench(forked: Any) -> Any:
    return forked


def read_ids(bench: Any, dtype: str = "<u2", prefix: str = "tokens/train/00000") -> list[list[int]]:
    """Token ids of each document, read by hand from .bin and .idx."""
    index = bench.run.path(f"{prefix}.idx").read_bytes()
    count = int.from_bytes(index[18:26], "little")
    lengths = numpy.frombuffer(index, "<i4", count, 34)
    ids = numpy.fromfile(bench.run.path(f"{prefix}.bin"), dtype)
    return [part.tolist() for part in numpy.split(ids, numpy.cumsum(lengths))[:-1]]


def expected_ids(path: Path, texts: list[str], special: bool = False) -> list[list[int]]:
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = not special
    eod = tokenizer.token_to_id("<EOD>")
    return [[*tokenizer.encode(text, add_special_tokens=False).ids, eod] for text in texts]


def test_ids_are_those_of_the_library_and_decode_to_the_text(
    bench: Any, shard: Any, tokenizer_file: Path
) -> None:
    bench.tokenize(shard(*TEXTS), tokenizer_file)

    result = bench.start("tokenize")

    assert (result.returncode, result.stderr) == (0, "")
    found = read_ids(bench)
    assert found == expected_ids(tokenizer_file, TEXTS)
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    assert [tokenizer.decode(ids[:-1], skip_special_tokens=False) for ids in found] == TEXTS


def test_markup_of_curated_documents_comes_from_their_spans(bench: Any, tmp_path: Path) -> None:
    made = train()
    made.add_tokens([AddedToken("[fig]", normalized=False)])
    made.save(str(tmp_path / "tokenizer.json"))
    name, text = "corpus/train/00000.jsonl", "[fig] and [fig]"
    records = [
        {"id": "a", "text": text},
        {"id": "b", "text": text, "spans": [[10, 15]]},
        {"id": "c", "text": text, "spans": []},
    ]
    bench.run.path(name).parent.mkdir(parents=True)
    bench.run.path(name).write_text("".join(f"{json.dumps(record)}\n" for record in records))
    registry = {"base_size": made.token_to_id("[fig]"), "added_tokens": ("[fig]",)}
    bench.tokenize(name, tmp_path / "tokenizer.json", **registry)

    result = bench.start("tokenize")

    assert (result.returncode, result.stderr) == (0, "")
    figure = made.token_to_id("[fig]")
    assert [ids.count(figure) for ids in read_ids(bench)] == [0, 1, 0]
    assert bench.done("tokenize")["summary"]["literals"] == 5
    assert [made.decode(ids[:-1]) for ids in read_ids(bench)] == [text] * 3


def test_the_marker_has_files_digests_and_counts(
    bench: Any, shard: Any, tokenizer_file: Path
) -> None:
    name = shard(*TEXTS, "", "the last")
    task = bench.tokenize(name, tokenizer_file)

    assert bench.start("tokenize").returncode == 0

    marker = bench.done("tokenize")
    files = bench.files("tokens/train")
    assert [item["path"] for item in marker["inputs"]] == [name, str(tokenizer_file)]
    assert [item["sha256"] for item in marker["inputs"]] == [
        sha256(bench.run.path(name)),
        sha256(tokenizer_file),
    ]
    binary = next(item for item in marker["outputs"] if item["path"].endswith(".bin"))
    lines = (binary["shard"], binary["begin"], binary["end"])
    assert lines == (name, 0, bench.run.path(name).stat().st_size)
    assert {item["path"]: (item["bytes"], item["sha256"]) for item in marker["outputs"]} == {
        f"tokens/train/{name}": (len(content), hashlib.sha256(content).hexdigest())
        for name, content in files.items()
    }
    summary = marker["summary"]
    assert summary.pop("seconds") > 0
    assert summary == {
        "documents": 6,
        "skipped": 1,
        "tokens": (tokens := len(files["00000.bin"]) // 2),
        "text_tokens": tokens - 6,
        "text_bytes": (size := sum(len(text.encode()) for text in (*TEXTS, "the last"))),
        "words": (words := sum(len(text.split()) for text in (*TEXTS, "the last"))),
        "longest": max(map(len, read_ids(bench))),
        "unknown": 0,
        "eod_in_text": 0,
        "literals": 2,
        "read": 7,
        "sources": {"": tokens},
        "fertility": (tokens - 6) / words,
        "bytes_per_token": size / (tokens - 6),
        "bytes": bench.run.path(name).stat().st_size,
        "dtype": "uint16",
        "vocabulary": specs.digest(task.spec.tokenizer.vocabulary),
        "engine": "gigatoken",
        "engine_reason": "",
        "compared": summary["compared"],
        "shards": {name: summary["shards"][name]},
    }
    whole = {key: summary[key] for key in summary["shards"][name]}
    assert summary["shards"][name] == whole
    assert bench.is_done(task)


def test_training_recognises_the_tokens_and_their_second_making(
    bench: Any, shard: Any, tokenizer_file: Path
) -> None:
    """An altered file is refused, and made again once it is removed."""
    task = bench.tokenize(shard(*TEXTS), tokenizer_file)
    assert bench.start("tokenize").returncode == 0
    training = replace(
        bench.training().spec,
        corpora=corpus_spec(task.spec.output_prefix),
        tokenizer=task.spec.tokenizer,
    )
    before = survey(bench.run, training)
    binary = bench.run.path("tokens/train/00000.bin")
    binary.write_bytes(binary.read_bytes()[::-1])

    with pytest.raises(TaskError, match=r"00000\.bin is not what tokenize wrote"):
        survey(bench.run, training)
    binary.unlink()
    assert not bench.is_done(task)
    assert bench.start("tokenize").returncode == 0

    assert survey(bench.run, training) == before


def test_a_changed_shard_or_a_lost_output_is_done_no_more(
    bench: Any, shard: Any, tokenizer_file: Path
) -> None:
    task = bench.tokenize(shard(*TEXTS), tokenizer_file)
    assert bench.start("tokenize").returncode == 0

    shard(*TEXTS, "one more")
    assert not bench.is_done(task)
    assert bench.start("tokenize").returncode == 0
    assert bench.is_done(task)
    bench.run.path("tokens/train/00000.idx").unlink()
    assert not bench.is_done(task)


def test_literal_special_tokens_become_those_tokens_only_where_configured(
    bench: Any, shard: Any, tokenizer_file: Path
) -> None:
    bench.tokenize(shard(*TEXTS), tokenizer_file, special_tokens_in_text=True)

    assert bench.start("tokenize").returncode == 0

    assert read_ids(bench) == expected_ids(tokenizer_file, TEXTS, special=True)
    assert bench.done("tokenize")["summary"]["eod_in_text"] == 1


def described(bench: Any, task: specs.TaskSpec) -> dict[str, dict[str, Any]]:
    """Return the shards of a task as it describes them."""
    assert isinstance(task.spec, TokenizeSpec)
    return {name: done_markers.describe_file(bench.run, name) for name in task.spec.inputs}


class FailsLater:
    """Gigatoken, until a text that it encodes otherwise than ``tokenizers``."""

    name, characters = "gigatoken", 100

    def __init__(self, engine: Any, then: Callable[[], Any] = lambda: None) -> None:
        self.engine = engine
        self.then = then

    def encode(self, texts: list[str]) -> Any:
        if any("differs" in text for text in texts):
            self.then()
            raise EngineDiffers("'differs' gives [1], not [2]")
        return self.engine.encode(texts)


DIFFERENCE = "gigatoken differs from tokenizers: 'differs' gives [1], not [2]"


def test_a_difference_on_the_way_starts_the_shard_again(
    bench: Any, shard: Any, tokenizer_file: Path
) -> None:
    texts = [*TEXTS * 9, "differs"]
    task = bench.tokenize(shard(*texts), tokenizer_file)
    context = context_from(bench.run.root, "tokenize", 0, {})
    tools = Tools.load(task.spec)
    differs = replace(tools, engine=FailsLater(tools.engine))

    made = tokenize_or_again(context, differs, described(bench, task))

    assert read_ids(bench) == expected_ids(tokenizer_file, texts)
    assert (made.summary["engine"], made.summary["documents"]) == ("tokenizers", len(texts))
    assert made.summary["engine_reason"] == DIFFERENCE
    required = replace(task.spec, engine="gigatoken")
    with pytest.raises(TaskError, match=re.escape(DIFFERENCE)):
        differs.without_gigatoken(required, EngineDiffers("'differs' gives [1], not [2]"))


class Loses:
    """An engine that loses the tokens of a text."""

    name, characters = "gigatoken", 100

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def encode(self, texts: list[str]) -> Encoded:
        ids, lengths = self.engine.encode(texts)
        return Encoded(ids[: -lengths[-1]], lengths[:-1])


def test_an_engine_that_loses_a_text_ends_the_task(
    bench: Any, shard: Any, tokenizer_file: Path
) -> None:
    task = bench.tokenize(shard(*TEXTS), tokenizer_file)
    context = context_from(bench.run.root, "tokenize", 0, {})
    tools = Tools.load(task.spec)
    loses = replace(tools, engine=Loses(tools.engine))

    with pytest.raises(TaskError, match=r"gigatoken encoded 4 of 5 texts"):
        tokenize_or_again(context, loses, described(bench, task))

    assert bench.files("tokens") == {}


def test_both_engines_write_the_same_bytes(bench: Any, shard: Any, tokenizer_file: Path) -> None:
    name, written = shard(*TEXTS * 50), {}
    for engine in ("gigatoken", "tokenizers"):
        task = bench.tokenize(name, tokenizer_file, engine=engine)
        assert not written or bench.is_done(task)  # the engine decides no byte
        assert bench.start("tokenize").returncode == 0
        assert bench.done("tokenize")["summary"]["engine"] == engine
        written[engine] = bench.files("tokens/train")

    assert written["gigatoken"] == written["tokenizers"]


def run_task(bench: Any, index: int) -> None:
    tokenize_corpus.run(context_from(bench.run.root, "tokenize", index, {}))


def test_any_number_of_tasks_writes_the_same_datasets_of_a_corpus(
    bench: Any, shard: Any, tokenizer_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The larger shard becomes several datasets, which training finds by the done markers."""
    for name in ("RAYON_NUM_THREADS", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "")  # a task sets them
    many = [f"{number} {text}" for number in range(30) for text in TEXTS]
    shards = [shard(*many), shard(*TEXTS, name="corpus/train/00001.jsonl")]
    outputs = [done_markers.describe_file(bench.run, name) for name in shards]
    facts = {"spec_digest": "", "inputs": [], "summary": {}, "seconds": 0.0}
    done_markers.write_done(bench.run, "curate", 0, outputs=outputs, **facts)
    written = {}
    for tasks in (1, 2, 3, 8):
        for folder in ("tokens", "stages/tokenize"):
            shutil.rmtree(bench.run.path(folder), ignore_errors=True)
        shares = shares_of_shards(["00000", "00001"], tasks)
        for index, share in reversed([*enumerate(shares)]):  # the bench writes that of task 0
            fields = {
                "inputs": tuple(f"corpus/train/{name}.jsonl" for name in share.shards),
                "output_prefixes": tuple(f"tokens/train/{name}" for name in share.shards),
                "part": share.part,
                "parts": share.parts,
                "shard_tokens": 1000,
            }
            spec = bench.tokenize(shards[0], tokenizer_file, **fields).spec
            bench.task("tokenize", spec, index)
        run_task(bench, 0)
        if tasks > 1:
            with pytest.raises(tokenized.NotTokenized, match=r"tokenize has not finished"):
                tokenized.prefixes(bench.run, ["."], "train")
        for index in range(1, tasks):
            run_task(bench, index)
        prefixes = tokenized.prefixes(bench.run, ["."], "train")
        written[tasks] = prefixes, bench.files("tokens")

    assert written == dict.fromkeys(written, written[1])
    prefixes = written[1][0]
    assert len(prefixes) > 4
    assert (prefixes[0], prefixes[-1]) == ("tokens/train/00000", "tokens/train/00001")
    rows = {prefix: read_ids(bench, prefix=prefix) for prefix in prefixes}
    assert max(sum(map(len, ids)) for ids in rows.values()) <= 1000
    whole = [ids for prefix in prefixes for ids in rows[prefix]]
    assert whole == expected_ids(tokenizer_file, [*many, *TEXTS])
    made = tokenized.written(bench.run, prefixes)
    assert [item.documents for item in made.values()] == [len(ids) for ids in rows.values()]
    assert sum(item.tokens for item in made.values()) == sum(map(len, whole))


def test_an_end_token_not_marked_special_is_still_no_end_inside_a_text(
    bench: Any, shard: Any, tmp_path: Path
) -> None:
    tokenizer = train()
    tokenizer.add_tokens([AddedToken("<END>", normalized=False, special=False)])
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    bench.tokenize(shard("An <END> in a text."), path, eod_token="<END>")

    assert bench.start("tokenize").returncode == 0

    (ids,) = read_ids(bench)
    assert ids.count(tokenizer.token_to_id("<END>")) == 1
    assert tokenizer.decode(ids[:-1]) == "An <END> in a text."


@pytest.mark.parametrize("bos", ["<s>", "<EOD>"])
def test_a_bos_token_stands_before_each_document(
    bos: str, bench: Any, shard: Any, tokenizer_file: Path
) -> None:
    bench.tokenize(shard(*TEXTS, ""), tokenizer_file, bos_token=bos)

    assert bench.start("tokenize").returncode == 0

    start = Tokenizer.from_file(str(tokenizer_file)).token_to_id(bos)
    expected = [[start, *ids] for ids in expected_ids(tokenizer_file, TEXTS)]
    assert read_ids(bench) == expected
    summary = bench.done("tokenize")["summary"]
    assert (summary["eod_in_text"], summary["skipped"]) == (0, 1)


def test_truncation_padding_and_beginnings_set_in_the_file_are_not_used(
    bench: Any, shard: Any, tmp_path: Path
) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = train()
    plain = tmp_path / "plain.json"
    tokenizer.save(str(plain))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    bench.tokenize(shard(*TEXTS), path)

    assert bench.start("tokenize").returncode == 0

    assert read_ids(bench) == expected_ids(plain, TEXTS)


@pytest.mark.parametrize(
    ("vocabulary", "dtype", "size"),
    [(65_499, "uint16", 2), (65_500, "int32", 4)],
)
def test_large_vocabularies_take_four_bytes_a_token(
    vocabulary: int, dtype: str, size: int, bench: Any, shard: Any, tmp_path: Path
) -> None:
    tokenizer = train()
    missing = vocabulary - tokenizer.get_vocab_size()
    tokenizer.add_tokens([f"word-{number}" for number in range(missing)])
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    last = f"word-{missing - 1}"
    bench.tokenize(shard(*TEXTS, last), path, model_vocab_size=vocabulary)

    assert bench.start("tokenize").returncode == 0

    found = read_ids(bench, dtype=f"<{'u' if size == 2 else 'i'}{size}")
    assert found == expected_ids(path, [*TEXTS, last])
    assert found[-1][0] == vocabulary - 1
    assert bench.done("tokenize")["summary"]["dtype"] == dtype


def test_an_empty_shard_becomes_an_empty_dataset(
    bench: Any, shard: Any, tokenizer_file: Path
) -> None:
    bench.tokenize(shard(), tokenizer_file)

    result = bench.start("tokenize")

    assert (result.returncode, result.stderr) == (0, "")
    assert bench.files("tokens/train")["00000.bin"] == b""
    assert read_ids(bench) == []
    assert bench.done("tokenize")["summary"]["tokens"] == 0


LINES = [
    b'{"text": "one"}\r\n',
    b"\n",
    b" \t\r\n",
    b'{"text": "first", "text": "of two equal keys the last"}\n',
    b'{"text": ""}\n',
    json.dumps({"text": "long " * 215_000}).encode() + b"\n",
    b'{"text": "no newline at the end"}',
]


def test_odd_but_good_lines_are_read(bench: Any, shard: Any, tokenizer_file: Path) -> None:
    name = shard()
    bench.run.path(name).write_bytes(b"".join(LINES))
    bench.tokenize(name, tokenizer_file)

    result = bench.start("tokenize")

    assert (result.returncode, result.stderr) == (0, "")
    texts = ["one", "of two equal keys the last", "long " * 215_000, "no newline at the end"]
    assert read_ids(bench) == expected_ids(tokenizer_file, texts)
    summary = bench.done("tokenize")["summary"]
    assert (summary["documents"], summary["skipped"]) == (4, 1)


def test_the_map_names_the_line_and_the_id_of_each_document(bench: Any, tmp_path: Path) -> None:
    tokenizer = train()
    tokenizer.normalizer = normalizers.Strip()
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    many = [{"id": f"doc-{number}", "text": TEXTS[number % 5]} for number in range(2000)]
    odd = [{"id": "empty", "text": ""}, {"id": "no token", "text": " "}, {"text": "no id"}]
    records = [*many[:5], *odd, {"id": "\U0001f9ec", "text": "gene"}, *many[5:]]
    shard = bench.run.path("corpus/train/00000.jsonl")
    shard.parent.mkdir(parents=True)
    lines = [json.dumps(record).encode() + b"\n" for record in records]
    shard.write_bytes(b"\n".join(lines))  # blank lines between
    bench.tokenize("corpus/train/00000.jsonl", path)

    assert bench.start("tokenize").returncode == 0

    kept = [record for record in records if record["text"].strip()]
    found = document_map.read(bench.run.path("tokens/train/00000"), len(kept))
    assert found is not None
    assert found.dtype.itemsize == 16
    for record, entry in zip(kept, found, strict=True):
        with shard.open("rb") as file:
            file.seek(int(entry["byte"]))
            line = next(line for line in file if line.strip())
        assert json.loads(line) == record
        identity = record.get("id", text_digest(record["text"]).hex())
        assert entry["id"] == document_map.hashed(identity)
    assert document_map.read(bench.run.path("tokens/train/00000"), len(kept) + 1) is None


def test_the_result_does_not_depend_on_batches(
    bench: Any, shard: Any, tokenizer_file: Path
) -> None:
    many = [f"{number} {TEXTS[number % 5]}" for number in range(3000)]
    bench.tokenize(shard(*many), tokenizer_file)

    assert bench.start("tokenize").returncode == 0

    assert read_ids(bench) == expected_ids(tokenizer_file, many)


IMPORTED_AFTER_A_RUN = """
import runpy, sys
try:
    runpy.run_module("jobs", run_name="__main__", alter_sys=True)
except SystemExit as left:
    heavy = ("torch", "megatron", "transformers", "meditron_cli")
    print(left.code, [name for name in heavy if name in sys.modules])
"""


def test_a_task_imports_neither_torch_nor_megatron(
    bench: Any, shard: Any, tokenizer_file: Path
) -> None:
    bench.tokenize(shard(*TEXTS), tokenizer_file)
    arguments = ["-c", IMPORTED_AFTER_A_RUN, "tokenize", str(bench.run.root), "0"]

    result = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=True
    )

    assert result.stdout == "0 []\n"
