"""Validity of checkpoint directories and their damage: files, no ranks."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from jobs.checkpoints import manifest, parts
from jobs.contract.files import sha256, write_json

from ...model_specs import model_spec, tokenizer_ref, vocabulary_spec
from ..checkpoint_files import checkpoint_record, write_checkpoint


def change(path, **values):
    """Change a record, whatever it is then."""
    record = json.loads((path / "meditron.json").read_text())
    (path / "meditron.json").write_text(json.dumps(record | values))


def name_in_manifest(path, name):
    """Have the manifest, and the record of its digest, name another file."""
    files = json.loads((path / "manifest.json").read_text())["files"]
    files[name] = files.pop("__0_0.distcp")
    write_json(path / "manifest.json", {"files": files})
    change(path, manifest=sha256(path / "manifest.json"))


def test_the_newest_by_step_is_the_latest(tmp_path):
    for step in (0, 900, 1000):
        write_checkpoint(tmp_path, step)

    path, record = manifest.find_latest(tmp_path)

    assert path.name == "iter_0001000"
    assert (record.iteration, record.consumed_samples) == (1000, 4000)


def test_no_folder_is_no_checkpoint(tmp_path):
    assert manifest.find_latest(tmp_path / "nowhere") is None
    assert manifest.at_step(tmp_path / "nowhere", 0) is None


def unfinished(path):
    for name in ("meditron.json", "manifest.json"):
        (path / name).unlink()


def linked(path):
    (path / "__0_0.distcp").rename(path.parent / "elsewhere")
    (path / "__0_0.distcp").symlink_to(path.parent / "elsewhere")


DAMAGE = {
    "never finished": (unfinished, "meditron.json is missing: it was never finished"),
    "no record": (lambda path: (path / "meditron.json").unlink(), "meditron.json is missing"),
    "empty record": (lambda path: (path / "meditron.json").write_text(""), "not JSON"),
    "older record": (lambda path: (path / "meditron.json").write_text('{"format": 1}'), "format 1"),
    "bare record": (lambda path: (path / "meditron.json").write_text('{"format": 2}'), "missing"),
    "odd kind": (lambda path: change(path, kind="half"), "kind is 'half'"),
    "odd record": (lambda path: change(path, layout="2x2"), "layout is '2x2'"),
    "another step": (lambda path: change(path, iteration=30), "belongs to step 30"),
    "another manifest": (
        lambda path: (path / "manifest.json").write_text("{}"),
        "differs from the digest",
    ),
    "no manifest": (lambda path: (path / "manifest.json").unlink(), "manifest.json is missing"),
    "cut metadata": (lambda path: (path / "metadata.json").write_text("{"), "is not JSON"),
    "no metadata": (lambda path: (path / "metadata.json").unlink(), "metadata.json is missing"),
    "no shard": (lambda path: (path / "__0_0.distcp").unlink(), "__0_0.distcp is missing"),
    "cut shard": (
        lambda path: (path / "__0_0.distcp").write_bytes(b""),
        "has 0 bytes instead of 7",
    ),
    "linked shard": (linked, "__0_0.distcp is not a regular file"),
    "shard outside": (
        lambda path: name_in_manifest(path, "../x"),
        "'../x', which is outside the checkpoint",
    ),
    "shard at an absolute path": (
        lambda path: name_in_manifest(path, "/etc/passwd"),
        "'/etc/passwd', which is outside the checkpoint",
    ),
}


@pytest.mark.parametrize(("spoil", "words"), DAMAGE.values(), ids=list(DAMAGE))
def test_damage_is_named_and_the_one_before_is_the_latest(tmp_path, spoil, words):
    write_checkpoint(tmp_path, 10)
    damaged = write_checkpoint(tmp_path, 20)

    spoil(damaged)

    assert words in manifest.problem(damaged)
    assert manifest.find_latest(tmp_path)[0].name == "iter_0000010"
    assert manifest.at_step(tmp_path, 20) is None
    assert damaged.exists()


def test_links_files_and_other_names_are_no_checkpoints(tmp_path):
    elsewhere = write_checkpoint(tmp_path / "elsewhere", 40)
    folder = tmp_path / "checkpoints"
    write_checkpoint(folder, 10)
    (folder / "iter_0000040").symlink_to(elsewhere)
    (folder / "iter_0000050").touch()
    (folder / "iter_60").mkdir()
    (folder / "iter_0000070.bad-20260101T000000").mkdir()

    assert [path.name for path in manifest.folders(folder)] == ["iter_0000010"]
    assert manifest.at_step(folder, 40) is None


def test_a_changed_byte_of_the_right_size_is_found_only_by_reading_all(tmp_path):
    path = write_checkpoint(tmp_path, 10)
    (path / "__0_0.distcp").write_bytes(b"Weights")

    words = parts.alteration(path, manifest.manifest(path))

    assert manifest.problem(path) == ""
    assert words == "__0_0.distcp has the right size, but its content has changed"


def test_a_checkpoint_counts_as_verified_until_it_is_another_one(tmp_path):
    path = write_checkpoint(tmp_path, 10)
    counts = []
    assert parts.alteration(path, manifest.manifest(path), counts.append) == ""
    assert sorted(counts) == [2, 3, 4]
    assert manifest.verified_at(path) is None

    manifest.note_verified(path)

    assert manifest.verified_at(path) == pytest.approx(path.stat().st_mtime, abs=60)
    assert manifest.problem(path) == ""
    change(path, manifest="0" * 64)
    assert manifest.verified_at(path) is None


def test_storage_that_does_not_answer_is_no_damage(tmp_path):
    path = write_checkpoint(tmp_path, 10)
    (path / "meditron.json").unlink()
    (path / "meditron.json").symlink_to(path / "meditron.json")  # an error that is not "missing"

    with pytest.raises(OSError, match="Too many levels"):
        manifest.problem(path)
    with pytest.raises(OSError, match="Too many levels"):
        manifest.find_latest(tmp_path)


def test_parts_cover_a_file_and_the_gaps_between_its_items():
    assert parts.lengths([(7, 3), (0, 4)], 12) == [4, 3, 3, 2]
    assert parts.lengths([], 5) == [5]
    with pytest.raises(ValueError, match="share the bytes from 2 on"):
        parts.lengths([(0, 4), (2, 4)], 12)
    with pytest.raises(ValueError, match="an item ends at 14, the file at 12"):
        parts.lengths([(10, 4)], 12)


def test_a_part_is_read_and_verified_by_itself(tmp_path):
    path = write_checkpoint(tmp_path, 10) / "__0_0.distcp"
    first, second = manifest.manifest(path.parent)[path.name]
    path.write_bytes(b"weighTs")
    beats = []

    with path.open("rb") as file:
        whole, other = bytearray(first.bytes), bytearray(second.bytes)
        verdicts = [
            parts.read_part(file, first, memoryview(whole), lambda: beats.append(1)),
            parts.read_part(file, second, memoryview(other), lambda: beats.append(1)),
        ]

    assert verdicts == [True, False]
    assert (whole, other, beats) == (b"wei", b"ghTs", [1, 1])


MODEL = model_spec(
    layers=2,
    hidden_size=64,
    ffn_hidden_size=128,
    attention_heads=4,
    kv_heads=2,
    seq_length=32,
    vocab_size=96,
    padded_vocab_size=128,
)
TOKENIZER = tokenizer_ref("tokenizer.json", "t")


@pytest.mark.parametrize(
    ("model", "tokenizer", "words"),
    [
        (replace(MODEL, norm_eps=1e-6), TOKENIZER, "another architecture"),
        (replace(MODEL, vocab_size=97), TOKENIZER, "has 96 tokens, this run's has 97"),
        (MODEL, replace(TOKENIZER, sha256="u"), "another tokenizer.json"),
        (
            MODEL,
            replace(TOKENIZER, vocabulary=vocabulary_spec(0, new_rows="mean")),
            "added tokens, their roles or their first rows differ",
        ),
        (replace(MODEL, seq_length=64, init_std=0.1, padded_vocab_size=256), TOKENIZER, ""),
        (MODEL, replace(TOKENIZER, path="elsewhere"), ""),
    ],
)
def test_what_must_be_equal_is_named_and_settings_may_differ(model, tokenizer, words):
    record = checkpoint_record(0, **manifest.identity(MODEL, TOKENIZER))

    difference = manifest.difference(record, model, tokenizer)

    assert words in difference
    assert bool(words) == bool(difference)
