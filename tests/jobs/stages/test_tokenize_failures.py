"""Tokenize as a task: its refusals, and the state after a kill."""

from __future__ import annotations

import json
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from jobs.contract.files import sha256
from jobs.data.cleaning import MAX_DOCUMENT_BYTES
from jobs.tokenization.engine import GigatokenEngine

from .conftest import TEXTS, train


@pytest.fixture
def bench(forked: Any) -> Any:
    return forked


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"oops", "not JSON (unexpected character, expected a JSON value, at character 1)"),
        (b'{"id": "x"}', "no key 'text' (keys: 'id')"),
        (b'{"text": null}', "'text' is null, not a string"),
        (b'{"text": 1}', "'text' is a number, not a string"),
        (b'{"text": "\xff"}', "not UTF-8 (byte 11 is 0xff)"),
    ],
)
def test_a_shard_that_curate_did_not_write_so_is_refused(
    line: bytes, problem: str, bench: Any, shard: Any, tokenizer_file: Path
) -> None:
    name = shard("good")
    path = bench.run.path(name)
    path.write_bytes(path.read_bytes() + line)
    bench.tokenize(name, tokenizer_file)

    hint = f"the shard was changed after curate wrote it; `rm {path}`, then {{meditron resume}}"
    check_refused(bench, f"{path}:2: {problem}", hint)


def test_a_document_too_long_for_the_planned_memory_is_refused(
    bench: Any, shard: Any, tokenizer_file: Path
) -> None:
    name = shard("good", "heart " * (MAX_DOCUMENT_BYTES // 6 + 1))
    bench.tokenize(name, tokenizer_file)

    message = (
        "the text has 16,777,218 bytes, a document may have 16,777,216; "
        "split it into shorter documents"
    )
    path = bench.run.path(name)
    hint = f"the shard was changed after curate wrote it; `rm {path}`, then {{meditron resume}}"
    check_refused(bench, f"{path}:2: {message}", hint)


@pytest.mark.full
def test_the_longest_document_is_tokenized_in_the_planned_memory(
    bench: Any, tmp_path: Path
) -> None:
    """A token per byte is the most a byte-level tokenizer makes; 4 GB is planned per core."""
    tokenizer = Tokenizer(models.BPE(vocab=byte_vocabulary(), merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(tmp_path / "bytes.json"))
    path = bench.run.path("corpus/train/00000.jsonl")
    path.parent.mkdir(parents=True)
    longest = "\U0001f9ec" * (MAX_DOCUMENT_BYTES // 4)
    before = "\U0001f9ec" * (GigatokenEngine.characters - 1)
    lines = (json.dumps({"text": text}, ensure_ascii=False) for text in (before, longest))
    path.write_text("\n".join(lines))
    bench.tokenize("corpus/train/00000.jsonl", tmp_path / "bytes.json")

    result = bench.start("tokenize")

    assert (result.returncode, result.stderr) == (0, "")
    tokens = MAX_DOCUMENT_BYTES + 4 * (GigatokenEngine.characters - 1) + 2
    assert bench.done("tokenize")["summary"]["tokens"] == tokens
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < 4e9


def byte_vocabulary() -> dict[str, int]:
    """Ids of the characters that stand for bytes, and of the end token."""
    return {
        name: number for number, name in enumerate([*pre_tokenizers.ByteLevel.alphabet(), "<EOD>"])
    }


def check_refused(bench: Any, message: str, hint: str) -> None:
    result = bench.start("tokenize")

    assert result.stderr == f"tokenize: {message}\nhint: {bench.run.hint(hint)}\n"
    assert result.returncode == 2
    assert bench.files("tokens") == {}
    assert not bench.run.done("tokenize", 0).exists()


SET_TOKENIZER = "set tokenize.tokenizer to a tokenizer.json"


def test_a_missing_shard_is_named(bench: Any, tokenizer_file: Path) -> None:
    bench.tokenize("corpus/train/00000.jsonl", tokenizer_file)
    path = bench.run.path("corpus/train/00000.jsonl")

    message = f"{path}: the shard cannot be read (No such file or directory)"
    check_refused(bench, message, "{meditron resume} writes the shards again")


def test_a_missing_tokenizer_is_named(bench: Any, shard: Any, tmp_path: Path) -> None:
    bench.tokenize(shard(*TEXTS), tmp_path / "gone.json")

    message = f"{tmp_path / 'gone.json'}: the tokenizer cannot be read (No such file or directory)"
    check_refused(bench, message, SET_TOKENIZER)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "Expecting value: line 1 column 1 (char 0)"),
        ("{}", "it has no model with a vocabulary"),
        (
            '{"model": {"vocab": {"a": 0, "<EOD>": 1}}}',
            "Cannot instantiate Tokenizer from buffer: data did not match any variant of untagged "
            "enum ModelUntagged at line 1 column 36",
        ),
    ],
)
def test_a_file_that_is_no_tokenizer_is_refused(
    content: str, why: str, bench: Any, shard: Any, tmp_path: Path
) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    bench.tokenize(shard(*TEXTS), path)

    message = f"{path}: not a tokenizer.json of Hugging Face tokenizers ({why})"
    check_refused(bench, message, SET_TOKENIZER)


def test_an_end_token_not_in_the_vocabulary_is_refused(
    bench: Any, shard: Any, tokenizer_file: Path
) -> None:
    bench.tokenize(shard(*TEXTS), tokenizer_file, eod_token="</s>")

    hint = "set vocabulary.eod_token to one it has (its added tokens: <s>, <EOD>)"
    check_refused(bench, f"{tokenizer_file}: no token '</s>' in the vocabulary", hint)


def test_a_vocabulary_larger_than_the_models_is_refused(
    bench: Any, shard: Any, tokenizer_file: Path
) -> None:
    bench.tokenize(shard(*TEXTS), tokenizer_file, model_vocab_size=300)
    size = Tokenizer.from_file(str(tokenizer_file)).get_vocab_size()

    message = f"{tokenizer_file}: its vocabulary of {size} does not fit the model's of 300"
    hint = "raise model.vocab_size, or use the tokenizer made for the model"
    check_refused(bench, message, hint)


def test_a_tokenizer_changed_since_the_run_was_made_is_refused(
    bench: Any, shard: Any, tokenizer_file: Path
) -> None:
    old = sha256(tokenizer_file)
    bench.tokenize(shard(*TEXTS), tokenizer_file)
    train(vocabulary=300).save(str(tokenizer_file))
    new = sha256(tokenizer_file)

    message = (
        f"{tokenizer_file}: the tokenizer has changed since the run was made "
        f"(SHA-256 {new[:12]}, was {old[:12]})"
    )
    hint = "put the old file back, then {meditron resume}"
    check_refused(bench, message, hint)


def test_killed_before_any_rename_nothing_false_stands_and_a_rerun_ends_it(
    bench: Any, shard: Any, tokenizer_file: Path
) -> None:
    task = bench.tokenize(shard(*TEXTS), tokenizer_file)
    assert bench.start("tokenize").returncode == 0
    undisturbed = bench.files("tokens")
    record = bench.run.path("stages/tokenize/stretches/train/00000.json")
    moments = 0

    while True:
        record.unlink(missing_ok=True)  # or nothing would be made
        result = bench.start_and_signal("tokenize", "os.rename", moments + 1, signal.SIGKILL)
        if not result.returncode:
            break
        moments += 1
        assert result.returncode == -signal.SIGKILL
        assert not bench.is_done(task)
        named = [name for name in bench.files("tokens/train") if not name.startswith(".")]
        whole = ["00000.bin", "00000.docs", "00000.idx"]
        assert named in (whole, whole[:2])
        assert not record.exists() or named == whole

    assert moments == 8  # progress; .docs, .bin, .idx, record; progress, manifest, marker
    assert bench.is_done(task)
    assert bench.files("tokens") == undisturbed


def test_killed_on_a_fresh_run_no_file_stands_under_its_name(
    bench: Any, shard: Any, tokenizer_file: Path
) -> None:
    bench.tokenize(shard(*TEXTS), tokenizer_file)

    assert bench.start_and_signal("tokenize", "os.rename", 2, signal.SIGKILL).returncode

    assert [name for name in bench.files("tokens/train") if not name.startswith(".")] == []
    assert len(bench.files("tokens/train")) == 3
    assert bench.start("tokenize").returncode == 0
    assert sorted(bench.files("tokens/train")) == ["00000.bin", "00000.docs", "00000.idx"]


def test_a_stop_request_ends_it_without_outputs(
    bench: Any, shard: Any, tokenizer_file: Path
) -> None:
    many = [TEXTS[number % 5] for number in range(3000)]
    bench.tokenize(shard(*many), tokenizer_file)

    result = bench.start_and_signal("tokenize", "os.rename", 1, signal.SIGTERM)

    assert result.returncode == 130
    message = "tokenize: stop requested; the next attempt continues behind the finished stretches\n"
    assert result.stderr == message
    assert bench.files("tokens") == {}


def test_a_refused_write_names_the_file_and_nothing_remains(
    bench: Any, shard: Any, tokenizer_file: Path
) -> None:
    many = [TEXTS[number % 5] * 9 for number in range(3000)]
    bench.tokenize(shard(*many), tokenizer_file)

    result = bench.start("tokenize", file_limit=100_000)

    assert result.returncode == 2  # the same limit would meet the next attempt
    path = bench.run.path("tokens/train/00000.bin")
    assert f"tokenize: {path}: File too large\n" in result.stderr
    assert bench.files("tokens") == {}
