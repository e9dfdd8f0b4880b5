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
from meditron_cli.plan.stages import vocabulary_spec

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


def test_the_7b_recipe_is_the_papers(folder: Path) -> None:
    experiment = load("local", "7b", None, ["pretrain.precision=bf16"]).experiment
    model, parallel, pretrain = experiment.model, experiment.parallel, experiment.pretrain

    assert (model.layers, model.hidden_size, model.ffn_hidden_size) == (32, 4096, 11008)
    assert (model.attention_heads, model.kv_heads, model.seq_length) == (32, 32, 2048)
    assert (model.vocab_size, model.vocab_multiple, model.norm_eps) == (32017, 512, 1e-5)
    assert (parallel.data, parallel.tensor, parallel.pipeline) == (16, 4, 1)
    assert (parallel.sequence_parallel, parallel.recompute) == (True, "selective")
    assert (pretrain.micro_batch_size, pretrain.global_batch_size) == (10, 1600)
    assert (pretrain.learning_rate, pretrain.min_learning_rate) == (3e-4, 1e-6)
    assert (pretrain.warmup_steps, pretrain.decay_steps) == (2000, 2 * pretrain.train_steps)
    # one epoch of the 46.7 billion training tokens (Table 1) in steps of 1,600 x 2,048
    assert abs(pretrain.train_steps * 1600 * 2048 - 46.7e9) < 1600 * 2048


def test_the_70b_recipe_is_the_papers(folder: Path) -> None:
    experiment = load("local", "70b", None, ["pretrain.precision=bf16"]).experiment
    model, parallel, pretrain = experiment.model, experiment.parallel, experiment.pretrain

    assert (model.layers, model.hidden_size, model.ffn_hidden_size) == (80, 8192, 28672)
    assert (model.attention_heads, model.kv_heads, model.seq_length) == (64, 8, 4096)
    assert (parallel.data, parallel.tensor, parallel.pipeline) == (2, 8, 8)
    assert (pretrain.micro_batch_size, pretrain.global_batch_size) == (2, 512)
    assert (pretrain.train_steps, pretrain.decay_steps) == (23000, 44537)
    assert (pretrain.learning_rate, pretrain.min_learning_rate) == (1.5e-4, 1e-6)
    assert (pretrain.adam_beta1, pretrain.adam_beta2, pretrain.adam_eps) == (0.9, 0.95, 1e-5)
    assert (pretrain.weight_decay, pretrain.clip_grad, experiment.seed) == (0.1, 1.0, 1234)


@pytest.mark.parametrize("size", ["7b", "70b"])
def test_the_vocabulary_of_meditron_is_the_released_tokenizers(folder: Path, size: str) -> None:
    """Tokens and ids of tokenizer.py:338-406 of Megatron-LLM and gap-replay/tokenize.sh."""
    experiment = load("local", size, None, ["pretrain.precision=bf16"]).experiment
    vocabulary = vocabulary_spec(experiment)

    assert dict(enumerate(vocabulary.added_tokens, vocabulary.base_size)) == {
        32000: "<CLS>", 32001: "<SEP>", 32002: "<EOD>", 32003: "<MASK>", 32004: "<PAD>",
        32005: "[bib_ref]", 32006: "[/bib_ref]", 32007: "[fig_ref]", 32008: "[/fig_ref]",
        32009: "[bib]", 32010: "[/bib]", 32011: "[fig]", 32012: "[/fig]",
        32013: "[table]", 32014: "[/table]", 32015: "[formula]", 32016: "[/formula]",
    }  # fmt: skip
    assert vocabulary.control_tokens == ("<CLS>", "<SEP>", "<EOD>", "<MASK>", "<PAD>")
    assert (vocabulary.new_rows, vocabulary.bos_token) == ("repeat-last-row", "")
    assert (vocabulary.eod_token, vocabulary.eos_token) == ("<EOD>", "<EOD>")


def test_yaml_1_1_readers_would_differ_so_ours_must_be_used() -> None:
    """Shipped files use times that PyYAML alone reads as base-60 numbers."""
    text = (files.shipped_profiles() / "clariden.yaml").read_text()

    assert yaml.safe_load(text)["gpu_partition"]["max_time_minutes"] == 86400
    assert load("clariden", "tiny", None, []).cluster.gpu_partition.max_time_minutes == 1440
