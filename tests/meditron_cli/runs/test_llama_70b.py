"""The first command of the manual, with a folder that has the size of the real one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.contract import specs
from jobs.contract.files import read_json
from jobs.contract.stage_specs import ConvertSpec, IndexSpec, ModelSpec, PretrainSpec
from jobs.conversion import weight_map
from meditron_cli.config.load import load
from meditron_cli.plan import spec_parts

from ...conftest import Bench
from ...hf_folders import write_tensors
from ...jobs.conversion.test_hf_config import LLAMA_2_70B

SHARDS = 15
BYTES = 137_953_296_384
"""Of the published model in 16 bits: 68,976,648,192 parameters."""
TARGET = ("--cluster", "./ours.yaml", "--size", "70b")


def write_llama(folder: Path, model: ModelSpec) -> int:
    """Write Llama 2 70B as it is published, with files that have no blocks but of their headers;
    return the bytes of its values.
    """
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(LLAMA_2_70B))
    shapes = list(weight_map.folder_shapes(model, 32_000).items())
    index: dict[str, str] = {}
    total = 0
    for number in range(SHARDS):
        name = f"model-{number + 1:05}-of-{SHARDS:05}.safetensors"
        mine = dict(shapes[number::SHARDS])
        index |= dict.fromkeys(mine, name)
        total += write_tensors(folder / name, mine, "F16")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return total


def write_tokenizer(path: Path, added: tuple[str, ...], control: tuple[str, ...]) -> None:
    vocabulary = {f"w{number}": number for number in range(32_000)}
    tokens = [
        {"id": 32_000 + number, "content": token, "special": token in control}
        for number, token in enumerate(added)
    ]
    path.write_text(json.dumps({"model": {"vocab": vocabulary}, "added_tokens": tokens}))


@pytest.fixture
def site(meditron: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Return a project on the paper's machine, whose profile is filled in."""
    monkeypatch.setenv("HF_HUB_CACHE", str(meditron.folder / "cache"))
    profile = meditron("clusters", "rcp").stdout
    filled = profile.replace("<account>", "g123").replace("<partition>", "gpu")
    (meditron.folder / "ours.yaml").write_text(f"{filled}models_dir: models\n")
    experiment = meditron.folder / "experiment.yaml"
    experiment.write_text(
        "".join(
            line
            for line in experiment.read_text().splitlines(keepends=True)
            if not line.startswith(("model:", "  vocab_size:", "vocabulary:", "export:"))
        )
    )
    vocabulary = load("rcp", "70b", None, []).experiment.vocabulary
    write_tokenizer(
        meditron.folder / "tokenizer.json", vocabulary.added_tokens, vocabulary.control_tokens
    )
    return meditron


def rows_of(plan: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in plan.splitlines() if line}


def test_the_first_command_of_the_manual_is_planned_and_submitted(site: Bench) -> None:
    spec = spec_parts.model_spec(load("rcp", "70b", None, []).experiment)
    folder = site.folder / "models/meta-llama/Llama-2-70b-hf"
    assert write_llama(folder, spec) == BYTES

    plan = site("plan", "pipeline", *TARGET)
    submitted = site("submit", "pipeline", *TARGET)

    assert plan.exit_code == 0
    for line in plan.stderr.splitlines():  # where the disk is smaller than 7 TiB
        assert line.startswith("warning: checkpoints and exports take up to 6,")
    assert f"weights      meta-llama/Llama-2-70b-hf, in {folder}\n" in plan.stdout
    assert "\ncheckpoint   899.5 GiB, computed" in plan.stdout
    assert "step 0       128.5 GiB, computed: weights alone, as in an export\n" in plan.stdout
    rows = rows_of(plan.stdout)
    assert rows["convert"][:8] == ["1", "1", "1", "1", "0", "8", "32", "240"]
    assert rows["export"][:8] == ["1", "1", "1", "1", "0", "4", "16", "240"]
    assert submitted.exit_code == 0, submitted.stderr
    stages_submitted = [item.stage for item in site.scheduler.submitted]
    assert stages_submitted == [
        "curate", "tokenize", "index", "convert", "pretrain", "evaluate", "export",
    ]  # fmt: skip
    index = specs.load_task(site.run(), "index", 0).spec
    assert isinstance(index, IndexSpec)
    assert index.training == specs.load_task(site.run(), "pretrain", 0).spec
    convert = specs.load_task(site.run(), "convert", 0).spec
    pretrain = specs.load_task(site.run(), "pretrain", 0).spec
    assert isinstance(convert, ConvertSpec)
    assert isinstance(pretrain, PretrainSpec)
    assert convert.folder == str(folder)
    assert convert.model == pretrain.model
    assert read_json(site.run().record)["cluster"]["models_dir"] == str(site.folder / "models")


def test_the_status_names_the_weights_of_a_conversion_and_of_a_training(site: Bench) -> None:
    write_llama(
        site.folder / "models/Llama-2-70b-hf",
        spec_parts.model_spec(load("rcp", "70b", None, []).experiment),
    )
    for stage in ("convert", "pipeline"):
        assert site("submit", stage, *TARGET).exit_code == 0

        name = site.run().name
        assert "weights: meta-llama/Llama-2-70b-hf\n" in site("status", name).stdout
        found = json.loads(site("status", name, "--json").stdout)
        assert found["runs"][0]["weights"] == "meta-llama/Llama-2-70b-hf"


def test_a_folder_by_its_path_is_the_base_model(site: Bench) -> None:
    folder = site.folder / "Llama-2-70b-hf"
    write_llama(folder, spec_parts.model_spec(load("rcp", "70b", None, []).experiment))
    given = ("--set", f"model.weights={folder}")

    plan = site("plan", "pretrain", *TARGET, *given)
    submitted = site("submit", "pipeline", *TARGET, *given)

    assert f"weights      {folder}\n" in plan.stdout
    assert list(rows_of(plan.stdout))[1:4] == ["index", "convert", "pretrain"]
    assert submitted.exit_code == 0, submitted.stderr


def test_without_the_folder_the_download_and_the_alternatives_are_named(site: Bench) -> None:
    submitted = site("submit", "pretrain", *TARGET)
    dry_run = site("submit", "pretrain", *TARGET, "--dry-run")

    sentence = (
        "model.weights: meta-llama/Llama-2-70b-hf is neither in models_dir, "
        f"{site.folder}/models, nor in the hub's cache, {site.folder}/cache; download it on the "
        "login node with `meditron fetch --cluster ./ours.yaml --size 70b`, or give --set "
        "model.weights=PATH or --set model.weights=random\n"
    )
    assert submitted.exit_code == 2
    assert submitted.stderr.startswith("error: ")
    assert sentence in submitted.stderr
    assert dry_run.exit_code == 0
    assert dry_run.stderr.startswith("warning: ")
    assert dry_run.stderr.endswith(sentence)
    assert dry_run.stdout.split()[1::2] == ["index", "convert", "pretrain"]
