"""Shipped recipes, profiles, schemas and documentation agree with the models and the paper."""

from __future__ import annotations

import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from meditron_cli.config import files, yaml_tree
from meditron_cli.config.check import check_file
from meditron_cli.config.diagnostics import Problems
from meditron_cli.config.load import load
from meditron_cli.config.reference import SCHEMAS, profile_reference, schema_text

PROFILES = sorted(files.shipped_profiles().glob("*.yaml"))
RECIPES = sorted(files.shipped_recipes().glob("*.yaml"))
TEMPLATE = files.shipped_recipes().parent / "templates" / "experiment.yaml"


def plain(path: Path) -> object:
    root = files.read_mapping(path, "experiment", Problems())
    assert root is not None
    return yaml_tree.to_plain(root)


@pytest.mark.parametrize("path", [*PROFILES, *RECIPES, TEMPLATE], ids=lambda path: path.name)
def test_a_shipped_file_is_valid_and_names_its_schema(path: Path) -> None:
    checked = check_file(path)
    kind = "cluster" if path in PROFILES else "experiment"
    first = path.read_text().splitlines()[0]

    jsonschema.validate(plain(path), SCHEMAS[kind]())

    assert (checked.kind, checked.errors) == (kind, ())
    named = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)
    assert named
    if path != TEMPLATE:
        assert (path.parent / named[1]).read_text() == schema_text(kind)


def test_the_shipped_schemas_are_valid_json_schemas() -> None:
    for make in SCHEMAS.values():
        jsonschema.Draft202012Validator.check_schema(make())


def test_the_profile_documentation_is_that_of_the_models() -> None:
    written = (files.shipped_profiles() / "README.md").read_text()

    assert written == profile_reference()


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ("pretrain: {train_steps: 5}", True),
        ("curate: {time_minutes: 24:00:00}", True),
        ("curate: {time_minutes: 2-00:00:00}", True),
        ("curate: {time_minutes: 30}", True),
        ("curate: {time_minutes: 0}", False),
        ("curate: {time_minutes: a day}", False),
        ("evaluate: {checkpoints: [first, last, 100]}", True),
        ("evaluate: {checkpoints: [later]}", False),
        ("evaluate: {benchmarks: [{name: a, path: b}]}", True),
        ("evaluate: {benchmarks: [{name: a}]}", False),
        ("evaluate: {benchmarks: [{name: A, path: b}]}", False),
        ("tokenize: {tokenizer: a.json}", True),
        ("pretrain: {decay_steps: null}", True),
        ("sede: 1", False),
        ("seed: '1'", False),
        ("seed: 1.5", False),
        ("name: Med", False),
    ],
)
def test_an_editor_accepts_what_check_accepts(folder: Path, text: str, accepted: bool) -> None:
    path = folder / "e.yaml"
    path.write_text(text + "\n")

    validator = jsonschema.Draft202012Validator(SCHEMAS["experiment"]())

    assert validator.is_valid(plain(path)) == accepted
    assert (check_file(path).errors == ()) == accepted


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ("account: <account>", True),
        ("account: ''", True),
        ("account: my group", False),
        ("slurm: {sbatch: {nice: 100, constraint: a100}}", True),
        ("slurm: {sbatch: {nice: 1.5}}", False),
        ("defaults: {pretrain: {train_steps: 5}}", True),
        ("defaults: {pretrain: {train_step: 5}}", False),
        ("environment: {set: {A: b}, pass_through: [HOME]}", True),
    ],
)
def test_an_editor_accepts_profiles_that_check_accepts(
    folder: Path, text: str, accepted: bool
) -> None:
    path = folder / "p.yaml"
    path.write_text(
        "name: p\nscheduler: slurm\ndevice: cpu\n"
        "gpu_partition: {name: x, nodes: 1, node: {cpus: 1, memory_gb: 1}}\n" + text + "\n"
    )

    validator = jsonschema.Draft202012Validator(SCHEMAS["cluster"]())

    assert validator.is_valid(plain(path)) == accepted
    assert (check_file(path).errors == ()) == accepted


def test_yaml_1_1_readers_would_differ_so_ours_must_be_used() -> None:
    """Shipped files use times that PyYAML alone reads as base-60 numbers."""
    text = (files.shipped_profiles() / "clariden.yaml").read_text()

    assert yaml.safe_load(text)["gpu_partition"]["max_time_minutes"] == 86400
    assert load("clariden", "tiny", None, []).cluster.gpu_partition.max_time_minutes == 1440
