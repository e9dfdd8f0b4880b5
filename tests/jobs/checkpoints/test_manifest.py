"""Validity of checkpoint directories and their damage: files, no ranks."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest

from jobs.checkpoints import manifest, parts, retention
from jobs.contract.files import FORMAT, sha256, write_json
from jobs.contract.stage_specs import RopeScaling

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
    list_in_manifest(path, files)


def list_in_manifest(path, files):
    """Have the manifest, and the record of its digest, list these files."""
    write_json(path / "manifest.json", {"files": files})
    change(path, manifest=sha256(path / "manifest.json"))


def replace_manifest(path, content):
    """Have the record name a manifest of this content."""
    (path / "manifest.json").write_bytes(content)
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


def test_kept_weights_are_read_before_a_checkpoint_and_nothing_resumes_from_them(tmp_path):
    kept = manifest.kept(tmp_path)
    for step in (0, 10):
        write_checkpoint(tmp_path, step)
    for step in (10, 20):
        write_checkpoint(kept, step, kind=manifest.WEIGHTS)

    assert manifest.saved_steps(tmp_path) == {0, 10, 20}
    assert manifest.find_latest(tmp_path)[1].iteration == 10
    path, record = retention.choose_for_resume(tmp_path, 10)
    assert (path, record.kind) == (tmp_path / "iter_0000010", manifest.TRAINING)
    retention.prune(tmp_path, 0)
    for step in (10, 20):
        assert manifest.at_step(tmp_path, step)[0] == kept / manifest.name(step)
    (kept / "iter_0000010" / "__0_0.distcp").write_bytes(b"cut")
    assert manifest.at_step(tmp_path, 10)[0] == tmp_path / "iter_0000010"


def unfinished(path):
    for name in ("meditron.json", "manifest.json"):
        (path / name).unlink()


def linked(path):
    (path / "__0_0.distcp").rename(path.parent / "elsewhere")
    (path / "__0_0.distcp").symlink_to(path.parent / "elsewhere")


LISTED_OTHERWISE = "manifest.json does not list files as this version of meditron does"
DAMAGE = {
    "never finished": (unfinished, "meditron.json is missing: it was never finished"),
    "killed before its record": (lambda path: (path / "meditron.json").unlink(), "never finished"),
    "empty record": (lambda path: (path / "meditron.json").write_text(""), "not JSON"),
    "older record": (lambda path: (path / "meditron.json").write_text('{"format": 1}'), "format 1"),
    "bare record": (lambda path: write_json(path / "meditron.json", {}), "missing"),
    "odd kind": (lambda path: change(path, kind="half"), "kind is 'half'"),
    "odd record": (lambda path: change(path, layout="2x2"), "layout is '2x2'"),
    "another step": (lambda path: change(path, iteration=30), "belongs to step 30"),
    "another manifest": (
        lambda path: (path / "manifest.json").write_text("{}"),
        "differs from the digest",
    ),
    "a manifest with other digests": (
        lambda path: list_in_manifest(path, {"metadata.json": [{"bytes": 2, "sha256": "0"}]}),
        "does not list files as this version of meditron does",
    ),
    "a manifest of names": (
        lambda path: list_in_manifest(path, ["metadata.json"]),
        "does not list files as this version of meditron does",
    ),
    "a manifest of too many brackets": (
        lambda path: replace_manifest(path, b"[" * 100_000),
        "manifest.json: not JSON",
    ),
    "a manifest of no text": (
        lambda path: replace_manifest(path, b"\xff"),
        "manifest.json: not JSON",
    ),
    "a manifest of another format": (
        lambda path: replace_manifest(path, b'{"format": 1, "files": {}}'),
        f"manifest.json: format 1, this program reads format {FORMAT}",
    ),
    "a name with a zero": (
        lambda path: name_in_manifest(path, "a\0b"),
        "'a\\x00b', which no file can be called",
    ),
    "half a character as a name": (
        lambda path: name_in_manifest(path, "a\ud800"),
        "'a\\ud800', which no file can be called",
    ),
    "a record of too many brackets": (
        lambda path: (path / "meditron.json").write_text("[" * 100_000),
        "not JSON",
    ),
    "metadata of too many brackets": (
        lambda path: (path / "metadata.json").write_text("[" * 100_000),
        "metadata.json is not JSON",
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


@pytest.mark.parametrize(
    "part",
    [
        *({"bytes": size, "xxh3": "0"} for size in (None, "7", 7.0, True, [7], float("nan"))),
        *({"bytes": 7, "xxh3": digest} for digest in (None, 7, ["0"])),
        {"bytes": 7},
        {"xxh3": "0"},
        7,
        "7",
    ],
    ids=str,
)
def test_a_part_that_is_none_makes_a_damaged_checkpoint(tmp_path, part):
    path = write_checkpoint(tmp_path, 10)

    list_in_manifest(path, {"__0_0.distcp": [part]})

    assert manifest.problem(path) == LISTED_OTHERWISE


def test_a_part_of_less_than_no_bytes_makes_a_damaged_checkpoint(tmp_path):
    path = write_checkpoint(tmp_path, 10)

    list_in_manifest(path, {"__0_0.distcp": [{"bytes": n, "xxh3": "0"} for n in (-3, 10)]})

    assert manifest.problem(path) == LISTED_OTHERWISE


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

    content = parts.read_part(path, 0, first, lambda: beats.append(1))

    assert (content.read(), beats) == (b"wei", [1])
    with pytest.raises(parts.AlteredPart, match=r"__0_0\.distcp has the right size"):
        parts.read_part(path, first.bytes, second, lambda: None)


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


SHAPES_AND_MATHEMATICS = {
    "layers": 3,
    "hidden_size": 128,
    "ffn_hidden_size": 96,
    "attention_heads": 8,
    "kv_heads": 4,
    "head_dim": 32,
    "rope_theta": 5e5,
    "rope_scaling": RopeScaling(8.0, 1.0, 4.0, 8192),
    "norm_eps": 1e-6,
    "tied_embeddings": True,
    "qkv_bias": True,
    "qk_norm": True,
    "post_norm": True,
}
SETTINGS = {"seq_length": 64, "init_std": 0.1, "vocab_size": 97, "padded_vocab_size": 256}


def architecture_of(model):
    return manifest.identity(model, TOKENIZER)["architecture"]


def test_every_field_of_a_model_is_of_its_architecture_or_a_setting():
    assert SHAPES_AND_MATHEMATICS.keys() | SETTINGS.keys() == {f.name for f in fields(MODEL)}


@pytest.mark.parametrize("field", SHAPES_AND_MATHEMATICS)
def test_what_determines_shapes_or_mathematics_makes_another_architecture(field):
    other = replace(MODEL, **{field: SHAPES_AND_MATHEMATICS[field]})

    assert architecture_of(other) != architecture_of(MODEL)


@pytest.mark.parametrize(
    "field", ["factor", "low_freq_factor", "high_freq_factor", "original_max_position"]
)
def test_each_number_of_a_rope_scaling_makes_another_architecture(field):
    scaling = SHAPES_AND_MATHEMATICS["rope_scaling"]
    other = replace(scaling, **{field: 2 * getattr(scaling, field)})

    assert architecture_of(replace(MODEL, rope_scaling=other)) != architecture_of(
        replace(MODEL, rope_scaling=scaling)
    )


@pytest.mark.parametrize("field", SETTINGS)
def test_settings_and_the_vocabulary_leave_the_architecture_as_it_is(field):
    assert architecture_of(replace(MODEL, **{field: SETTINGS[field]})) == architecture_of(MODEL)


def test_the_architecture_names_the_activation_and_the_kind_of_norm():
    assert MODEL.architecture["activation"] == "swiglu"
    assert MODEL.architecture["norm"] == "rmsnorm"


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


GROWN = replace(TOKENIZER, grown=("<|im_start|>", "<|im_end|>"))
LARGER = replace(MODEL, vocab_size=MODEL.vocab_size + 2)


@pytest.mark.parametrize(
    ("model", "tokenizer", "may_grow", "words"),
    [
        (LARGER, GROWN, True, ""),
        (MODEL, GROWN, True, ""),
        (LARGER, GROWN, False, "has 96 tokens, this run's has 98"),
        (MODEL, GROWN, False, "has grown by none, this run's by <|im_start|>, <|im_end|>"),
        (LARGER, replace(GROWN, sha256="u"), True, "another tokenizer.json"),
        (replace(LARGER, vocab_size=95), GROWN, True, "has 96 tokens, this run's has 95"),
    ],
)
def test_a_vocabulary_that_is_to_grow_may_lack_the_tokens(model, tokenizer, may_grow, words):
    record = checkpoint_record(0, **manifest.identity(MODEL, TOKENIZER))

    difference = manifest.difference(record, model, tokenizer, may_grow=may_grow)

    assert words in difference
    assert bool(words) == bool(difference)


def test_a_vocabulary_that_has_grown_is_no_other():
    record = checkpoint_record(0, **manifest.identity(LARGER, GROWN))

    assert not manifest.difference(record, LARGER, GROWN)
    assert manifest.difference(record, LARGER, replace(GROWN, grown=()))
