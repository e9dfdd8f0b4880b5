"""The folder of a base model: where it is looked up, and what is said where it is not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from jobs.contract.base_folder import commit_of
from meditron_cli.config import weights
from meditron_cli.config.weights import HubName

from ...conftest import Bench

NAME = "org/base"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write_model(folder: Path, *shards: str) -> Path:
    """Write a folder with the names of a model's files; several shards have an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    for shard in shards or ("model.safetensors",):
        (folder / shard).write_bytes(b"\0")
    if shards:
        index = {"weight_map": {f"tensor.{name}": name for name in shards}}
        (folder / weights.INDEX).write_text(json.dumps(index))
    return folder


def write_snapshot(cache: Path, commit: str = COMMIT, ref: str = "main") -> Path:
    """Write a snapshot of the hub's cache: its files are links into the folder of blobs."""
    repository = cache / "models--org--base"
    blobs = write_model(repository / "blobs")
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    (repository / "refs").mkdir()
    (repository / "refs" / ref).write_text(commit)
    return snapshot


def found(named: str, models_dir: Path | None, **environ: Path) -> Path | None:
    return weights.find(named, models_dir, {key: str(path) for key, path in environ.items()}).folder


def test_random_weights_have_no_folder_and_no_problem(tmp_path: Path) -> None:
    assert weights.find("random", tmp_path) == weights.Place(None)


def test_a_path_names_the_folder_itself(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "base")
    (tmp_path / "link").symlink_to(folder)

    assert found(str(folder), None) == folder
    assert found(str(tmp_path / "link"), None) == folder
    assert weights.find(f"{tmp_path}/no", None).problem == f"{tmp_path}/no does not exist"


def test_models_dir_comes_before_the_cache_and_org_name_before_name(tmp_path: Path) -> None:
    models, cache = tmp_path / "models", tmp_path / "cache"
    snapshot = write_snapshot(cache)
    assert found(NAME, models, HF_HUB_CACHE=cache) == snapshot

    short = write_model(models / "base")
    assert found(NAME, models, HF_HUB_CACHE=cache) == short

    full = write_model(models / "org/base")
    assert found(NAME, models, HF_HUB_CACHE=cache) == full


@pytest.mark.parametrize(
    ("variable", "below"),
    [("HF_HUB_CACHE", ""), ("HF_HOME", "hub"), ("XDG_CACHE_HOME", "huggingface/hub")],
)
def test_the_cache_is_where_the_hub_s_library_has_it(
    tmp_path: Path, variable: str, below: str
) -> None:
    snapshot = write_snapshot(tmp_path / below)

    assert found(NAME, None, **{variable: tmp_path}) == snapshot


def test_the_library_puts_a_snapshot_where_it_is_looked_up(tmp_path: Path) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    from huggingface_hub.file_download import repo_folder_name, try_to_load_from_cache

    snapshot = write_snapshot(tmp_path)

    assert (tmp_path / repo_folder_name(repo_id=NAME, repo_type="model")).is_dir()
    for revision in ("main", COMMIT):
        path = try_to_load_from_cache(NAME, "config.json", cache_dir=tmp_path, revision=revision)
        assert path == str(snapshot / "config.json")
    assert constants.HF_HUB_CACHE  # the variable has this name


def test_a_revision_is_a_commit_or_a_ref_of_the_cache(tmp_path: Path) -> None:
    snapshot = write_snapshot(tmp_path, ref="v2")

    assert found(f"{NAME}@{COMMIT}", None, HF_HUB_CACHE=tmp_path) == snapshot
    assert found(f"{NAME}@v2", None, HF_HUB_CACHE=tmp_path) == snapshot
    assert commit_of(snapshot) == COMMIT
    assert found(NAME, None, HF_HUB_CACHE=tmp_path) is None  # no main
    assert found(f"{NAME}@v1", None, HF_HUB_CACHE=tmp_path) is None


def test_a_folder_of_models_dir_is_of_a_revision_by_its_name_or_its_record(tmp_path: Path) -> None:
    plain, absent = write_model(tmp_path / "org/base"), {"HF_HUB_CACHE": tmp_path / "no"}
    assert found(f"{NAME}@v2", tmp_path, **absent) is None

    record = {"repository": NAME, "revision": "v2", "commit": COMMIT, "files": []}
    (plain / "fetched.json").write_text(json.dumps(record))
    assert found(f"{NAME}@v2", tmp_path, **absent) == plain
    assert found(f"{NAME}@{COMMIT}", tmp_path, **absent) == plain
    assert found(f"{NAME}@v3", tmp_path, **absent) is None

    named = write_model(tmp_path / "org/base@v3")
    assert found(f"{NAME}@v3", tmp_path, **absent) == named


def test_a_model_without_all_its_files_does_not_serve(tmp_path: Path) -> None:
    shards = ("model-00001-of-00003.safetensors", "m2.safetensors", "m3.safetensors")
    folder = write_model(tmp_path, *shards)
    assert weights.defect(folder) == ""

    (folder / "m2.safetensors").unlink()
    assert weights.defect(folder) == "lacks m2.safetensors"
    (folder / shards[0]).unlink()
    (folder / shards[0]).symlink_to("no blob")
    assert weights.defect(folder) == "lacks m2.safetensors and 1 more of its files"
    (folder / weights.INDEX).write_text("[]")
    assert "no index of tensors in" in weights.defect(folder)
    (folder / weights.INDEX).write_text("[" * 100_000)
    assert "no index of tensors in" in weights.defect(folder)
    (folder / weights.INDEX).unlink()
    (folder / "m3.safetensors").rename(folder / "pytorch_model.bin")
    (folder / shards[0]).unlink()
    assert weights.defect(folder).startswith(
        "has neither model.safetensors nor model.safetensors.index.json, only pytorch_model.bin, a "
        "pickle, which could run code; if you trust it, `python -c "
    )
    assert weights.defect(folder).endswith(
        f"{folder} {folder}-safetensors` writes {folder}-safetensors"
    )
    (folder / "config.json").unlink()
    assert weights.defect(folder) == "has no config.json"


def test_where_a_model_was_looked_up_is_said_with_what_is_wrong_there(tmp_path: Path) -> None:
    write_model(tmp_path / "base").joinpath("model.safetensors").unlink()

    place = weights.find(NAME, tmp_path, {"HF_HOME": "/hf"})

    assert place.folder is None
    assert place.problem == (
        f"org/base is neither in models_dir, {tmp_path}, nor in the hub's cache, /hf/hub; "
        f"{tmp_path}/base has neither model.safetensors nor model.safetensors.index.json"
    )


def test_links_are_the_folders_that_a_container_needs_too(tmp_path: Path) -> None:
    snapshot = write_snapshot(tmp_path)

    assert weights.links(snapshot) == [tmp_path / "models--org--base/blobs"]
    assert weights.links(write_model(tmp_path / "plain")) == []


def test_the_hub_s_command_downloads_no_pickles() -> None:
    command = weights.download_command(HubName("org/base", "v2"), Path("/my models"))

    assert command == (
        "hf download org/base --exclude '*.bin' --exclude '*.pth' --revision v2 "
        "--local-dir '/my models/org/base@v2'"
    )


PROFILE = """\
name: mine
scheduler: local
device: cpu
models_dir: models
gpu_partition: {name: here, nodes: 1, node: {cpus: 2, memory_gb: 4}}
"""


def test_a_submission_without_the_base_model_is_refused_before_anything_is_made(
    meditron: Bench,
) -> None:
    (meditron.folder / "mine.yaml").write_text(PROFILE)
    named = f"--set model.weights={NAME}"
    target = ("pretrain", "--cluster", "./mine.yaml", "--size", "tiny", *named.split())

    result = meditron("submit", *target)

    sentence = (
        f"{named}: model.weights: org/base is neither in models_dir, {meditron.folder}/models, nor "
        f"in the hub's cache, {weights.hub_cache(os.environ)}; download it on the "
        f"login node with `meditron fetch --cluster ./mine.yaml --size tiny {named}`, or give "
        "--set model.weights=PATH or --set model.weights=random"
    )
    assert result.exit_code == 2
    assert f"error: {sentence}" in result.stderr.splitlines()
    assert not meditron.runs.exists()
    assert meditron.scheduler.submitted == []
    plan = meditron("plan", *target)
    assert plan.exit_code == 0
    assert f"warning: {sentence}" in plan.stderr.splitlines()
    assert f"weights      {NAME}\n" in plan.stdout


def test_without_models_dir_the_hub_s_own_command_is_named(meditron: Bench) -> None:
    result = meditron.submit("--set", f"model.weights={NAME}@v2")

    assert result.exit_code == 2
    assert (
        "download it on the login node with `hf download org/base --exclude '*.bin' --exclude "
        "'*.pth' --revision v2`, or give" in result.stderr
    )


def test_without_a_name_of_weights_training_is_refused(meditron: Bench) -> None:
    result = meditron.submit("--set", "model.weights=null", stage="pretrain")

    assert result.exit_code == 2
    assert "model.weights: no weights to start from are named; give" in result.stderr
    assert not meditron.runs.exists()


def test_a_model_in_models_dir_is_planned_with_and_named(meditron: Bench) -> None:
    (meditron.folder / "mine.yaml").write_text(PROFILE)
    folder = write_model(meditron.folder / "models/org/base")

    plan = meditron(
        "plan", "pretrain", "--cluster", "./mine.yaml", "--size", "tiny",
        "--set", f"model.weights={NAME}",
    )  # fmt: skip

    assert f"weights      {NAME}, in {folder}\n" in plan.stdout
    (warning,) = plan.stderr.splitlines()  # the file of this test has no header
    assert warning.endswith(
        f"model.weights: {folder}/model.safetensors is not a safetensors file; `meditron fetch "
        "--help` explains how to download it again; `meditron explain model.weights` explains "
        "how to name another folder"
    )
