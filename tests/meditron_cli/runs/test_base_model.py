"""Submissions with a base model, which may move or vanish once a run has converted it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.contract import specs
from jobs.contract.stage_specs import ConvertSpec
from meditron_cli.config.load import load
from meditron_cli.runs import prepare

from ...conftest import Bench
from ...hf_folders import write_base_model

PROFILE = """\
name: mine
scheduler: local
device: cpu
models_dir: models
gpu_partition: {name: here, nodes: 1, node: {cpus: 8, memory_gb: 8}}
"""
TARGET = (
    "--cluster", "./mine.yaml", "--size", "tiny", "--set", "model.weights=org/base"
)  # fmt: skip


def write_model(folder: Path) -> Path:
    """Write the tiny model."""
    return write_base_model(folder, load("./mine.yaml", "tiny", None, []).experiment)


@pytest.fixture
def site(meditron: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Return a project whose profile has a folder of models."""
    monkeypatch.setenv("HF_HUB_CACHE", str(meditron.folder / "cache"))
    (meditron.folder / "mine.yaml").write_text(PROFILE)
    return meditron


def folder_of(plan_task: specs.TaskSpec) -> str:
    assert isinstance(plan_task.spec, ConvertSpec)
    return plan_task.spec.folder


def test_a_base_model_is_converted_from_where_it_is_before_training(site: Bench) -> None:
    folder = write_model(site.folder / "models/org/base")

    result = site("submit", "pretrain", *TARGET, "--set", "pretrain.data=[d]")

    assert "d.bin: no such file" in result.stderr
    result = site("submit", "pipeline", *TARGET)
    assert result.exit_code == 0, result.stderr
    assert [item.stage for item in site.scheduler.submitted][:4] == [
        "curate",
        "tokenize",
        "index",
        "convert",
    ]
    task = specs.load_task(site.run(), "convert", 0)
    assert folder_of(task) == str(folder)


@pytest.mark.parametrize(
    "longer",
    [
        "evaluate.seq_length=129",
        "finetune={sequence_length: 129, models: [{name: own, items: 1, data: [{path: a}]}]}",
    ],
)
def test_no_sequence_is_longer_than_the_window_of_the_base_model(site: Bench, longer: str) -> None:
    folder = write_model(site.folder / "models/org/base")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mistral", "sliding_window": 128}
    (folder / "config.json").write_text(json.dumps(config))

    accepted = site("submit", "pipeline", *TARGET, "--dry-run")
    refused = site("submit", "pipeline", *TARGET, "--set", longer)

    assert accepted.exit_code == 0, accepted.stderr
    assert refused.exit_code == 2
    assert "sequences have 129 tokens" in refused.stderr
    assert "beyond the folder's sliding window of 128 tokens" in refused.stderr


def test_a_run_is_continued_where_its_base_model_has_moved_or_is_gone(
    site: Bench, finish: Callable[..., None]
) -> None:
    cached = site.folder / "cache/models--org--base/snapshots/main"
    write_model(cached)
    site("submit", "pipeline", *TARGET)
    run = site.run()
    finish(run, "curate", 0)
    finish(run, "tokenize", 0, 1, 2)
    finish(run, "index", 0)
    finish(run, "convert", 0)
    site.begin("pretrain")
    moved = site.folder / "models/org/base"
    moved.parent.mkdir(parents=True)
    shutil.move(cached, moved)
    before = len(site.scheduler.submitted)

    again = site("submit", "pipeline", *TARGET)

    assert again.exit_code == 0, again.stderr
    assert "convert   1      finished already" in again.stdout
    assert len(site.scheduler.submitted) == before
    shutil.rmtree(moved)
    plan = prepare.planned(site.reader())
    assert folder_of(plan.stage("convert").tasks[0]) == str(moved)
    for words in (
        ("resume", run.name),
        ("submit", "pipeline", *TARGET),
        ("submit", "pretrain", "--run", run.name),
    ):
        result = site(*words)
        assert result.exit_code == 0, result.stderr
    assert len(site.scheduler.submitted) == before


def test_a_run_that_has_not_converted_needs_its_base_model(site: Bench) -> None:
    shutil.rmtree(write_model(site.folder / "models/org/base"))
    assert site("submit", "pipeline", *TARGET).exit_code == 2
    folder = write_model(site.folder / "models/org/base")
    site("submit", "pipeline", *TARGET)
    shutil.rmtree(folder)

    result = site("submit", "pretrain", "--run", site.run().name)

    assert result.exit_code == 2
    assert (
        f"run {site.run().name}: model.weights: org/base is neither in models_dir, "
        f"{site.folder}/models, nor in the hub's cache, {site.folder}/cache; download it on the "
        f"login node with `hf download org/base --exclude '*.bin' --exclude '*.pth' --local-dir "
        f"{site.folder}/models/org/base`" in result.stderr
    )


def set_layers(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 80}))


def truncate(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 5000)


def leave_a_pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "another model": (set_layers, "model.layers is 4, the folder's is 80"),
    "cut short": (truncate, "model.safetensors is cut short"),
    "an LFS pointer": (leave_a_pointer, "but a Git LFS pointer to one: run `git -C "),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_cannot_be_imported_is_refused_before_anything_is_made(
    site: Bench, fault: str
) -> None:
    folder = write_model(site.folder / "models/org/base")
    damage, sentence = FAULTS[fault]
    damage(folder)

    result = site("submit", "convert", *TARGET)

    assert result.exit_code == 2
    assert "model.weights: " in result.stderr
    assert sentence in result.stderr
    assert site.scheduler.submitted == []
    assert not (site.folder / "runs").exists()
    warned = site("plan", "convert", *TARGET)
    assert warned.exit_code == 0
    assert sentence in warned.stderr


def test_a_base_model_with_more_rows_than_tokens_is_named(site: Bench) -> None:
    write_model(site.folder / "models/org/base")  # of 4 rows
    fewer = (*TARGET, "--set", "model.vocab_size=3")

    result = site("submit", "convert", *fewer)

    assert result.exit_code == 2
    assert (
        "model.vocab_size without vocabulary.added_tokens is 3, the folder's is 4; if the "
        "base model has 4 rows for 3 tokens, set vocabulary.unused_rows to 1 and "
        "model.vocab_size to 4" in result.stderr
    )
    fits = (*TARGET, "--set", "vocabulary.unused_rows=1")
    assert "model.vocab_size" not in site("plan", "convert", *fits).stderr


def test_random_weights_are_not_converted(site: Bench) -> None:
    result = site(
        "submit", "convert", "--cluster", "./mine.yaml", "--size", "tiny",
        "--set", "model.weights=random",
    )  # fmt: skip

    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "error: model.weights is random, so there is nothing to convert",
        "hint: `meditron explain model.weights` explains the key",
    ]
