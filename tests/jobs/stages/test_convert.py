"""Convert as a task: values bit by bit, refusals without output, and the state after a kill."""

from __future__ import annotations

import json
import shutil
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from jobs.checkpoints import manifest, parts
from jobs.contract import done_markers
from jobs.conversion import weight_map
from jobs.conversion.sharded_reader import ShardedReader

from ...disks import mounted
from ..conversion.models import ADDED, MODELS, convert_spec, grown, save_folder, write_tokenizer


@pytest.fixture
def bench(forked: Any) -> Any:
    return forked


SPEC = MODELS["grouped"]
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a model in bf16, which tests copy before they change it."""
    return save_folder(tmp_path_factory.mktemp("base") / "model", SPEC, "bfloat16")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def add_task(bench: Any, folder: Path, **fields: Any) -> Any:
    """Write the spec of a conversion for a run that adds three tokens."""
    spec = fields.pop("model", SPEC)
    tokenizer = write_tokenizer(bench.run.root.parent / "run.json", spec.vocab_size, ADDED)
    return bench.task("convert", convert_spec(folder, spec, tokenizer, **fields), cpus=2)


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        found |= load_file(file)
    return found


def checkpoint(bench: Any) -> Path:
    return bench.run.path("checkpoints") / manifest.name(0)


def exported(path: Path, spec: Any) -> dict[str, torch.Tensor]:
    """Return a checkpoint's tensors under the names of a folder, with all rows."""
    reader = ShardedReader(path)
    found = {}
    for row in weight_map.rows(spec):
        for layer in range(spec.layers) if row.in_layers else (None,):
            values = weight_map.split(row, spec, reader.read(row.ours, layer))
            found |= {
                name.format(layer): value
                for (name, _), value in zip(row.theirs, values, strict=True)
            }
    return found


@pytest.mark.parametrize("kind", MODELS)
def test_every_value_returns_bit_by_bit_under_its_name(
    bench: Any, tmp_path: Path, kind: str
) -> None:
    spec = MODELS[kind]
    dtype = {"Llama 2": "float16", "tied": "float32"}.get(kind, "bfloat16")
    folder = save_folder(tmp_path / "model", spec, dtype)
    task = add_task(bench, folder, model=spec)

    result = bench.start("convert")

    assert (result.returncode, result.stderr) == (0, "")
    assert manifest.problem(checkpoint(bench)) == ""
    assert parts.alteration(checkpoint(bench), manifest.manifest(checkpoint(bench))) == ""
    assert bench.is_done(task)
    ours, theirs = exported(checkpoint(bench), grown(spec)), tensors_of(folder)
    if spec.tied_embeddings:
        theirs.pop(weight_map.TIED_OUTPUT, None)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype
        assert torch.equal(ours[name][: len(value)], value), name


@pytest.mark.parametrize("rule", ["repeat-last-row", "mean", "copy:w7"])
def test_rows_of_added_tokens_follow_the_rule_and_padding_repeats_the_last(
    bench: Any, folder: Path, rule: str
) -> None:
    add_task(bench, folder, new_rows=rule)

    assert bench.start("convert").returncode == 0

    base = tensors_of(folder)[weight_map.EMBEDDING]
    row = {
        "repeat-last-row": base[95],
        "mean": base.double().mean(dim=0).bfloat16(),
        "copy:w7": base[7],
    }[rule]
    rows = ShardedReader(checkpoint(bench)).read("embedding.word_embeddings.weight")
    assert rows.shape == (128, SPEC.hidden_size)
    assert all(torch.equal(new, row) for new in rows[96:])


def test_the_record_names_the_weights_and_their_digest(bench: Any, folder: Path) -> None:
    add_task(bench, folder)
    fetched = {"repository": "org/base", "revision": "main", "commit": "c0ffee", "files": []}
    (folder / "fetched.json").write_text(json.dumps(fetched))

    bench.start("convert")

    record = manifest.read(checkpoint(bench))
    assert record.origin["commit"] == "c0ffee"
    assert (record.kind, record.iteration, record.precision) == ("weights", 0, "bf16")
    assert record.origin["weights"] == "org/base"
    assert len(record.origin["sha256"]) == 64
    assert bench.done("convert")["summary"]["origin"] == record.origin


def test_a_single_file_has_the_same_digest_as_its_shards(
    bench: Any, folder: Path, tmp_path: Path
) -> None:
    add_task(bench, folder)
    bench.start("convert")
    first = manifest.read(checkpoint(bench)).origin["sha256"]
    shutil.rmtree(checkpoint(bench))
    content = tensors_of(folder)
    for file in (*folder.glob("*.safetensors"), folder / INDEX):
        file.unlink()
    save_file(content, folder / "model.safetensors")

    assert bench.start("convert").returncode == 0

    assert manifest.read(checkpoint(bench)).origin["sha256"] == first


def test_a_copy_of_the_folder_is_recognised_and_other_weights_are_refused(
    bench: Any, folder: Path
) -> None:
    add_task(bench, folder)
    bench.start("convert")
    before = bench.files("checkpoints/iter_0000000")
    shard = sorted(folder.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes())

    assert bench.start("convert").returncode == 0
    assert bench.files("checkpoints/iter_0000000") == before
    outputs = done_markers.load(bench.run.done("convert", 0)).outputs
    assert {Path(file["path"]).parent for file in outputs} == {Path("checkpoints/iter_0000000")}

    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    result = bench.start("convert")
    assert result.returncode == 2
    assert "the folder's weights have changed since" in result.stderr
    assert bench.files("checkpoints/iter_0000000") == before


@pytest.mark.parametrize("event", [("os.rename", 3), ("os.rename", 9), ("open", 100)])
def test_a_killed_conversion_leaves_no_checkpoint_and_the_next_keeps_its_files(
    bench: Any, folder: Path, event: tuple[str, int]
) -> None:
    add_task(bench, folder)
    killed = bench.start_and_signal("convert", *event, signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    assert not manifest.was_finished(checkpoint(bench))
    kept = {
        file.name: file.stat().st_mtime_ns
        for file in checkpoint(bench).glob("*.distcp")
        if (bench.run.stage("convert") / "tmp/00000" / f"{file.name}.json").exists()
    }

    result = bench.start("convert")

    assert (result.returncode, result.stderr) == (0, "")
    assert manifest.problem(checkpoint(bench)) == ""
    assert {name: (checkpoint(bench) / name).stat().st_mtime_ns for name in kept} == kept
    names = {file.name for file in checkpoint(bench).iterdir()}
    assert names == {*manifest.manifest(checkpoint(bench)), manifest.MANIFEST, manifest.RECORD}
    theirs = tensors_of(folder)
    ours = exported(checkpoint(bench), grown(SPEC))
    assert all(torch.equal(ours[name][: len(value)], value) for name, value in theirs.items())
    assert not (bench.run.stage("convert") / "tmp" / "00000").exists()


def test_a_file_that_changed_after_the_kill_is_written_again(bench: Any, folder: Path) -> None:
    add_task(bench, folder)
    bench.start_and_signal("convert", "os.rename", 9, signal.SIGKILL)
    (damaged, *_) = sorted(checkpoint(bench).glob("*.distcp"))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)

    assert bench.start("convert").returncode == 0

    assert parts.alteration(checkpoint(bench), manifest.manifest(checkpoint(bench))) == ""
    assert torch.equal(
        exported(checkpoint(bench), grown(SPEC))["model.layers.0.mlp.up_proj.weight"],
        tensors_of(folder)["model.layers.0.mlp.up_proj.weight"],
    )


def test_a_file_with_a_record_of_another_version_is_written_again(bench: Any, folder: Path) -> None:
    add_task(bench, folder)
    bench.start_and_signal("convert", "os.rename", 9, signal.SIGKILL)
    records = sorted((bench.run.stage("convert") / "tmp/00000").glob("*.distcp.json"))
    assert records
    for record in records:
        record.write_text(record.read_text().replace('"xxh3"', '"sha256"'))

    result = bench.start("convert")

    assert (result.returncode, result.stderr) == (0, "")
    assert manifest.problem(checkpoint(bench)) == ""


def test_a_stop_request_ends_it_and_keeps_the_finished_files(bench: Any, folder: Path) -> None:
    add_task(bench, folder)

    stopped = bench.start_and_signal("convert", "os.rename", 3, signal.SIGTERM)

    assert stopped.returncode in (130, 0)  # 0: the last file was finished before the request
    assert bench.start("convert").returncode == 0
    assert manifest.problem(checkpoint(bench)) == ""


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Replace the shards by one file with changed tensors."""
    content = tensors_of(folder)
    change(content)
    for file in (*folder.glob("*.safetensors"), folder / INDEX):
        file.unlink()
    save_file(content, folder / "model.safetensors")


def first_shard(folder: Path) -> Path:
    return sorted(folder.glob("*.safetensors"))[0]


def set_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def edit_index(folder: Path, change: Callable[[dict[str, str]], Any]) -> None:
    path = folder / INDEX
    content = json.loads(path.read_text())
    change(content["weight_map"])
    path.write_text(json.dumps(content))


def as_pickles(folder: Path) -> None:
    for file in (*folder.glob("*.safetensors"), folder / INDEX):
        file.unlink()
    torch.save({}, folder / "pytorch_model.bin")


def truncate(folder: Path) -> None:
    shard = first_shard(folder)
    shard.write_bytes(shard.read_bytes()[:-10])


UP = "model.layers.1.mlp.up_proj.weight"
BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing shard": (
        lambda folder: first_shard(folder).unlink(),
        "lacks model-00001-of-",
    ),
    "truncated shard": (truncate, "is cut short: its header describes"),
    "absent tensor": (
        lambda folder: edit_index(
            folder, lambda index: index.update({"model.extra": first_shard(folder).name})
        ),
        "names model.extra in model-00001",
    ),
    "tensor outside of the index": (
        lambda folder: edit_index(folder, lambda index: index.pop(UP)),
        f"does not name {UP}",
    ),
    "missing tensor": (lambda f: rewrite(f, lambda content: content.pop(UP)), f"lacks {UP}"),
    "extra tensor": (
        lambda f: rewrite(f, lambda content: content.update({"model.bias": torch.ones(3)})),
        "has model.bias, which the model has no place for",
    ),
    "wrong shape": (
        lambda f: rewrite(f, lambda content: content.update({UP: content[UP].t().contiguous()})),
        f"tensors of another shape: {UP} (48, 72) instead of (72, 48)",
    ),
    "mixed types": (
        lambda f: rewrite(f, lambda content: content.update({UP: content[UP].float()})),
        f"tensors of different types, most of type BF16, but F32: {UP}",
    ),
    "quantised": (
        lambda f: rewrite(f, lambda content: content.update({UP: content[UP].to(torch.int8)})),
        f"{UP} has the type I8",
    ),
    "pickles": (as_pickles, "pickles (pytorch_model.bin), which can run code"),
    "LFS pointer": (
        lambda folder: first_shard(folder).write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
        ),
        "but a Git LFS pointer to one: run `git -C ",
    ),
    "gated page": (
        lambda folder: first_shard(folder).write_text("<!DOCTYPE html><title>401</title>"),
        "but a page of the hub, as for a model whose licence was not accepted",
    ),
    "gap": (
        lambda folder: first_shard(folder).write_bytes(
            struct.pack("<Q", 71)
            + b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}'.ljust(71)
            + bytes(8)
        ),
        "a does not begin where it should",
    ),
    "another model": (
        lambda folder: set_config(folder, num_hidden_layers=3),
        "model.layers is 4, the folder's is 3",
    ),
    "unknown field": (
        lambda folder: set_config(folder, residual_multiplier=0.2),
        "the field residual_multiplier (0.2) is unknown and may change what the model computes",
    ),
    "config cut short": (
        lambda folder: (folder / "config.json").write_text('{"a":'),
        "config.json is not JSON",
    ),
    "config of many brackets": (
        lambda folder: (folder / "config.json").write_text("[" * 100_000),
        "config.json is not JSON",
    ),
    "header of many brackets": (
        lambda folder: first_shard(folder).write_bytes(struct.pack("<Q", 100_000) + b"[" * 100_000),
        "is not a safetensors file",
    ),
    "infinite place": (
        lambda folder: first_shard(folder).write_bytes(
            struct.pack("<Q", 75)
            + b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [1e999, 8]}}'.ljust(75)
            + bytes(8)
        ),
        "is not a safetensors file",
    ),
    "page instead of a tokenizer": (
        lambda folder: (
            (folder / "tokenizer.json").unlink(),
            (folder / "tokenizer.model").write_text("<!DOCTYPE html><title>401</title>"),
        ),
        "its tokenizer cannot be read (tokenizer.model is neither SentencePiece's nor tiktoken's)",
    ),
    "no config": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "no folder": (shutil.rmtree, "no folder of weights is there"),
    "another tokenizer": (
        lambda folder: write_tokenizer(folder / "tokenizer.json", 95, ("x",)),
        "is not the tokenizer of the base model in",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_faulty_folder_is_refused_in_one_sentence_without_output(
    bench: Any, folder: Path, fault: str
) -> None:
    damage, sentence = BAD[fault]
    damage(folder)
    add_task(bench, folder)

    result = bench.start("convert")

    message, hint, *rest = result.stderr.splitlines()
    assert result.returncode == 2
    assert sentence in message
    assert message.startswith("convert: ")
    assert hint.startswith("hint: ")
    assert rest == []
    assert bench.files("checkpoints").keys() <= {".writer"}
    assert not bench.run.done("convert", 0).exists()


def test_another_tokenizer_than_the_run_was_made_with_is_refused(bench: Any, folder: Path) -> None:
    add_task(bench, folder)
    write_tokenizer(bench.run.root.parent / "run.json", SPEC.vocab_size, (*ADDED[:-1], "<other>"))

    result = bench.start("convert")

    assert result.returncode == 2
    assert "run.json: the tokenizer has changed since the run was made" in result.stderr
    assert not checkpoint(bench).exists()


def test_too_little_space_is_refused_before_the_first_byte(bench: Any, folder: Path) -> None:
    add_task(bench, folder)

    with mounted(bench.run.path("checkpoints"), "1m"):
        result = bench.start("convert")
        written = bench.files("checkpoints").keys()

    assert result.returncode == 2
    assert "iter_0000000 does not fit: it takes 64 MiB, 0 MiB are free" in result.stderr
    assert written == {".writer"}


def test_a_limit_on_file_sizes_is_named(bench: Any, folder: Path) -> None:
    add_task(bench, folder)

    result = bench.start("convert", file_limit=20_000)

    assert result.returncode == 2
    assert "File too large" in result.stderr
    assert not manifest.was_finished(checkpoint(bench))


def test_a_copy_of_tied_embeddings_must_be_equal(bench: Any, tmp_path: Path) -> None:
    spec = MODELS["tied"]
    folder = save_folder(tmp_path / "model", spec)
    rewrite(
        folder,
        lambda content: content.update({"lm_head.weight": content[weight_map.EMBEDDING] + 1}),
    )
    add_task(bench, folder, model=spec)

    result = bench.start("convert")

    assert result.returncode == 2
    assert "lm_head.weight is not model.embed_tokens.weight" in result.stderr
