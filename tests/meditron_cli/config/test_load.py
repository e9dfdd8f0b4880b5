"""Layers: found, merged in order, resolved against their own folders, refused with all errors."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meditron_cli.config import files
from meditron_cli.config.explain import ExplainQuery, explain
from meditron_cli.config.load import cluster_names, load, load_cluster, size_names
from meditron_cli.errors import ConfigError

PROFILE = """\
name: mine
scheduler: slurm
device: cpu
account: <account>
gpu_partition: {name: <partition>, nodes: 2, node: {cpus: 8, memory_gb: 32}}
"""


def refused(*arguments: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(*arguments)  # type: ignore[arg-type]
    return caught.value.message.splitlines()


def test_each_layer_overrides_the_one_below(folder: Path) -> None:
    (folder / "mine.yaml").write_text(
        PROFILE + "defaults: {seed: 2, pretrain: {train_steps: 200, validation_batches: 2}}\n"
    )
    (folder / "e.yaml").write_text("seed: 3\npretrain: {train_steps: 300}\n")

    loaded = load("./mine.yaml", "tiny", Path("e.yaml"), ["seed=4", "seed=5"])

    assert loaded.experiment.seed == 5
    assert loaded.experiment.pretrain.train_steps == 300
    assert loaded.experiment.pretrain.validation_batches == 2
    assert loaded.experiment.pretrain.micro_batch_size == 8
    assert loaded.experiment.pretrain.weight_decay == 0.1


LAYERS = ("profile", "experiment", "--set")
KEYS = {
    "seed": "default",
    "curate.shards": "default",
    "pretrain.validation_batches": "default",
    "pretrain.train_steps": "recipe",
    "pretrain.save_interval": "recipe",
    "model.layers": "recipe",
}


def write_layer(values: dict[str, int]) -> str:
    """Values of dotted keys as one line of flow YAML."""
    nested: dict[str, dict[str, int] | int] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        if section:
            inside = nested.setdefault(section, {})
            assert isinstance(inside, dict)
            inside[name] = value
        else:
            nested[key] = value
    return str(nested).replace("'", "") + "\n"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    written=st.fixed_dictionaries(
        {layer: st.dictionaries(st.sampled_from(sorted(KEYS)), st.just(0)) for layer in LAYERS}
    )
)
def test_the_highest_layer_that_writes_a_key_counts_and_is_named(
    folder: Path, written: dict[str, dict[str, int]]
) -> None:
    values = {layer: dict.fromkeys(written[layer], 70 + rank) for rank, layer in enumerate(LAYERS)}
    (folder / "mine.yaml").write_text(PROFILE + f"defaults: {write_layer(values['profile'])}")
    (folder / "e.yaml").write_text(write_layer(values["experiment"]))
    sets = [f"{key}={value}" for key, value in values["--set"].items()]

    loaded = load("./mine.yaml", "tiny", Path("e.yaml"), sets)

    for key, lowest in KEYS.items():
        (found,) = explain(key, ExplainQuery("./mine.yaml", "tiny", Path("e.yaml"), sets))
        highest = next((layer for layer in reversed(LAYERS) if key in values[layer]), lowest)
        section, _, name = key.rpartition(".")
        owner = getattr(loaded.experiment, section) if section else loaded.experiment
        assert found.origin == highest
        assert found.value == getattr(owner, name)
        if highest in values:
            assert found.value == values[highest][key]


def test_an_experiment_yaml_of_this_folder_is_taken_without_being_named(folder: Path) -> None:
    (folder / "experiment.yaml").write_text("seed: 77\n")

    loaded = load("local", "tiny", None, [])

    assert loaded.experiment.seed == 77
    assert loaded.config_file == Path("experiment.yaml")


def test_without_an_experiment_the_recipe_serves(folder: Path) -> None:
    loaded = load("local", "tiny", None, [])

    assert loaded.config_file is None
    assert loaded.experiment.name == "med"


def test_relative_paths_start_at_the_layer_that_writes_them(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub/e.yaml").write_text("curate: {sources: [a]}\n")

    loaded = load("local", "tiny", Path("sub/e.yaml"), ["tokenize.tokenizer=t.json"])

    assert loaded.experiment.curate.sources == (str(folder / "sub/a"),)
    assert loaded.experiment.tokenize.tokenizer == folder / "t.json"


def test_profiles_here_come_before_those_at_home_and_the_shipped(folder: Path) -> None:
    home = Path.home() / ".config/meditron/clusters"
    for place, text in ((home, "at home"), (folder / "clusters", "here")):
        place.mkdir(parents=True)
        profile = PROFILE.replace("name: mine", "name: local")
        (place / "local.yaml").write_text(f"{profile}description: {text}\n")

    here = load_cluster("local").description
    (folder / "clusters/local.yaml").unlink()
    at_home = load_cluster("local").description
    (home / "local.yaml").unlink()

    assert (here, at_home) == ("here", "at home")
    assert load_cluster("local").scheduler == "local"


def test_placeholders_are_named_with_their_places(folder: Path) -> None:
    (folder / "mine.yaml").write_text(PROFILE)

    assert load("./mine.yaml", "tiny", None, []).placeholders == (
        "mine.yaml:4:10: account: <account> is a placeholder; write your own value",
        "mine.yaml:5:23: gpu_partition.name: <partition> is a placeholder; write your own value",
    )


def test_a_shipped_placeholder_hints_how_to_get_a_copy(folder: Path) -> None:
    (sentence,) = load("kuma", "tiny", None, []).placeholders

    assert sentence == (
        f"{files.shipped_profiles()}/kuma.yaml:9:10: account: <account> is a placeholder; write "
        "your own value into the copy that `meditron clusters kuma --copy` makes"
    )


def test_inputs_that_are_not_there_are_named_with_the_stages_that_need_them(folder: Path) -> None:
    (folder / "there.jsonl").write_text("{}\n")
    (folder / "e.yaml").write_text(
        "curate: {sources: [there.jsonl, gone.jsonl]}\n"
        "pretrain: {data: [d]}\n"
        "evaluate: {benchmarks: [{name: q, path: q.jsonl}]}\n"
    )
    (folder / "d.bin").write_bytes(b"")

    missing = load("local", "tiny", Path("e.yaml"), []).missing

    assert [(item.stages, item.sentence) for item in missing] == [
        (
            (
                "tokenize",
                "convert",
                "pretrain",
                "prepare",
                "finetune",
                "evaluate",
                "export",
                "generate",
            ),
            "e.yaml:1:1: tokenize.tokenizer: no tokenizer.json is named; name one; `meditron "
            "tokenizer build --help` shows how to make one",
        ),
        (
            ("clean", "curate"),
            f"e.yaml:1:33: curate.sources[1]: {folder}/gone.jsonl: no such file or folder",
        ),
        (
            ("index", "pretrain"),
            f"e.yaml:2:19: pretrain.data[0]: {folder}/d.idx: no such file or folder",
        ),
        (
            ("evaluate", "generate"),
            f"e.yaml:3:41: evaluate.benchmarks[0].path: {folder}/q.jsonl: no such file or folder",
        ),
    ]


@pytest.mark.parametrize(
    ("named", "problem"),
    [
        ("corpus", "{folder}/corpus: not the directory of a run, it has no run.json"),
        ("d.bin", "{folder}/d.bin.bin: no such file or folder; name the dataset without .bin"),
    ],
)
def test_tokens_that_are_named_otherwise_have_the_remedy(
    folder: Path, named: str, problem: str
) -> None:
    (folder / "corpus").mkdir()
    (folder / "d.bin").write_bytes(b"")

    missing = load("local", "tiny", None, [f"pretrain.data=[{named}]"]).missing

    (found, *_) = [item.sentence for item in missing if item.stages == ("index", "pretrain")]
    assert found.endswith(problem.format(folder=folder))


def test_a_secrets_file_that_others_may_read_is_named(folder: Path) -> None:
    (folder / "mine.yaml").write_text(PROFILE + "environment: {secrets_file: s}\n")
    (folder / "s").write_text("A=b\n")
    (folder / "s").chmod(0o640)
    (folder / "t.json").write_text("{}")
    sets = ["tokenize.tokenizer=t.json", "curate.sources=[t.json]"]

    open_to_others = load("./mine.yaml", "tiny", None, sets).missing
    (folder / "s").chmod(0o600)
    private = load("./mine.yaml", "tiny", None, sets).missing

    assert [item.sentence for item in open_to_others] == [
        f"mine.yaml:6:29: environment.secrets_file: others may read {folder}/s; chmod it 600"
    ]
    assert private == ()


def test_errors_of_all_layers_come_at_once_lowest_layer_first(folder: Path) -> None:
    (folder / "mine.yaml").write_text(
        PROFILE.replace("nodes: 2", "nodes: 0") + "defaults: {sede: 1}\n"
    )
    (folder / "e.yaml").write_text("pretrain: {train_step: 5}\nseed: x\n")

    assert refused("./mine.yaml", "tiny", Path("e.yaml"), ["name=A", "model.layer=1", "x"]) == [
        "mine.yaml:5:43: gpu_partition.nodes: must be above 0, found 0",
        "mine.yaml:6:12: sede: unknown key; did you mean 'seed'?",
        "e.yaml:1:12: pretrain.train_step: unknown key; did you mean 'train_steps'?",
        "e.yaml:2:7: seed: expected a whole number, found the text 'x'",
        "--set model.layer=1: model.layer: unknown key; did you mean 'layers'?",
        "--set name=A: name: expected up to 40 lower-case letters, digits and inner hyphens, "
        "found 'A'",
        "--set x: write KEY=VALUE, such as pretrain.train_steps=100",
    ]


@pytest.mark.parametrize(
    ("cluster", "size", "message"),
    [
        ("locl", "tiny", "--cluster locl: no profile has this name; did you mean 'local'?"),
        ("local", "tny", "--size tny: no recipe has this name; did you mean 'tiny'?"),
        ("local", "9x", "--size 9x: no recipe has this name; there are 13b, 1b, 70b, 7b, 8b, tiny"),
        ("./no.yaml", "tiny", "no.yaml: no such file"),
    ],
)
def test_a_name_that_nothing_has_gets_the_nearest(
    folder: Path, cluster: str, size: str, message: str
) -> None:
    assert refused(cluster, size, None, []) == [message]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "--set seed: write KEY=VALUE, such as pretrain.train_steps=100"),
        ("=1", "--set =1: write KEY=VALUE, such as pretrain.train_steps=100"),
        ("a..b=1", "--set a..b=1: write KEY=VALUE, such as pretrain.train_steps=100"),
        ("seed=", "--set seed=: seed: expected a whole number, found nothing"),
        (
            "pretrain.mixture.weights={}",
            "--set pretrain.mixture.weights={}: pretrain.mixture.weights: an empty mapping changes "
            "nothing, since mappings are merged key by key; remove keys in the file that has them",
        ),
        ("seed=[", "--set seed=[: a quote or bracket is not closed"),
        (
            "seed.x=1",
            "--set seed.x=1: seed: expected a whole number, found keys with values",
        ),
        (
            "name=1.10",
            '--set name=1.10: name: expected text, found the number 1.10; put it in quotes: "1.10"',
        ),
    ],
)
def test_a_wrong_set_is_quoted(folder: Path, override: str, message: str) -> None:
    assert refused("local", "tiny", None, [override]) == [message]


@pytest.mark.parametrize("value", ["%x", "#c", "a #b", "a: b", "- a", "@a", "x,y"])
def test_set_takes_a_plain_text_as_it_is(folder: Path, value: str) -> None:
    experiment = load("local", "tiny", None, [f"curate.text_key={value}"]).experiment

    assert experiment.curate.text_key == value


def test_a_conflict_is_reported_at_the_value_that_made_it(folder: Path) -> None:
    recipe = files.shipped_recipes() / "tiny.yaml"
    line = next(
        number
        for number, text in enumerate(recipe.read_text().splitlines(), 1)
        if "warmup_steps: 50" in text
    )

    assert refused("local", "tiny", None, ["pretrain.train_steps=20"]) == [
        "--set pretrain.train_steps=20: pretrain.warmup_steps: 50 is not below train_steps, 20; "
        f"pretrain.warmup_steps is from {recipe}:{line}:17, set it too"
    ]


def test_inputs_that_no_file_names_point_to_init(folder: Path) -> None:
    missing = load("local", "tiny", None, ["seed=1"]).missing

    assert [item.sentence for item in missing] == [
        "experiment.yaml: curate.sources: no documents are named, as this folder has no such file; "
        "name an experiment with --config",
        "experiment.yaml: tokenize.tokenizer: no tokenizer.json is named, as this folder has no "
        "such file; name an experiment with --config",
    ]
    assert {item.hint for item in missing} == {
        "`meditron init` writes experiment.yaml and a sample corpus into this folder"
    }


def test_a_configuration_that_is_no_regular_file_is_refused(folder: Path) -> None:
    os.mkfifo(folder / "pipe.yaml")

    assert refused("local", "tiny", Path("pipe.yaml"), []) == ["pipe.yaml: not a regular file"]
    assert refused("./pipe.yaml", "tiny", None, []) == ["pipe.yaml: not a regular file"]
    assert refused("local", "tiny", Path("/dev/zero"), []) == ["/dev/zero: not a regular file"]


def test_a_configuration_of_many_megabytes_is_refused(folder: Path) -> None:
    with (folder / "large.yaml").open("wb") as file:
        file.truncate(5 * 2**20)

    assert refused("local", "tiny", Path("large.yaml"), []) == [
        "large.yaml: 5 MiB is too large for a configuration file"
    ]


def test_set_takes_yaml(folder: Path) -> None:
    sets = [
        'name="a1"',
        "curate.sources=[a, b]",
        "pretrain.learning_rate=3e-3",
        "pretrain.time_minutes=1-00:00:00",
        "pretrain.decay_steps=null",
    ]

    experiment = load("local", "tiny", None, sets).experiment

    assert experiment.name == "a1"
    assert len(experiment.curate.sources) == 2
    assert experiment.pretrain.learning_rate == 3e-3
    assert experiment.pretrain.time_minutes == 1440
    assert experiment.pretrain.decay_steps is None


def test_defaults_that_are_no_mapping_give_one_error(folder: Path) -> None:
    (folder / "mine.yaml").write_text(PROFILE + "defaults:\n")

    assert refused("./mine.yaml", "tiny", None, []) == [
        "mine.yaml:6:10: defaults: expected keys with values, found nothing"
    ]


def test_a_profile_must_bear_the_name_of_its_file(folder: Path) -> None:
    (folder / "clusters").mkdir()
    (folder / "clusters/other.yaml").write_text(PROFILE)

    assert refused("other", "tiny", None, []) == [
        "clusters/other.yaml:1:7: name: 'mine' is not the file's name; write other"
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "e.yaml: not UTF-8 text (byte 0); save it as UTF-8"),
        (b"- a\n", "e.yaml:1:1: expected keys with values, such as `name: med`"),
        (b"just words\n", "e.yaml:1:1: expected keys with values, such as `name: med`"),
        (b"", "e.yaml: empty; write at least one key"),
        (b"seed: 1\nseed: 2\n", "e.yaml:2:1: seed: given twice; first at 1:1"),
    ],
)
def test_a_file_that_is_no_experiment_gets_one_sentence(
    folder: Path, content: bytes, message: str
) -> None:
    (folder / "e.yaml").write_bytes(content)

    assert refused("local", "tiny", Path("e.yaml"), []) == [message]


def test_a_folder_in_place_of_a_file_is_reported(folder: Path) -> None:
    (folder / "e").mkdir()

    assert refused("local", "tiny", Path("e"), []) == ["e: a folder; name a file in it"]


def test_a_byte_order_mark_is_no_error(folder: Path) -> None:
    (folder / "e.yaml").write_bytes(b"\xef\xbb\xbfseed: 9\n")

    assert load("local", "tiny", Path("e.yaml"), []).experiment.seed == 9


def test_every_shipped_profile_loads_with_every_recipe(folder: Path) -> None:
    assert {"local", "rcp", "kuma", "izar", "clariden", "generic-h100"} <= set(cluster_names())
    assert size_names() == ["13b", "1b", "70b", "7b", "8b", "tiny"]
    for cluster in cluster_names():
        for size in size_names():
            assert load(cluster, size, None, []).cluster.name == cluster


def test_a_folder_whose_name_is_not_utf8_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    (folder / "experiment.yaml").write_text("curate: {sources: [docs.jsonl]}\n")
    monkeypatch.chdir(folder)

    with pytest.raises(ConfigError) as caught:
        load("local", "tiny", None, [])

    assert str(caught.value) == (
        f"experiment.yaml:1:20: curate.sources[0]: '{tmp_path}/caf\\udce9/docs.jsonl' is not "
        "UTF-8; rename the file or folder"
    )


def test_a_value_that_is_not_utf8_is_named(folder: Path) -> None:
    assert refused("local", "tiny", None, ["name=caf\udce9"]) == [
        "--set name=caf\udce9: name: 'caf\\udce9' is not UTF-8; write UTF-8"
    ]
