"""The commands around configuration, as a person types them."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner, Result

from meditron_cli.config import files
from meditron_cli.config.evaluation.schema import QuestionKind
from meditron_cli.main import main


def meditron(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


def test_check_names_every_error_of_every_file_and_exits_with_2(folder: Path) -> None:
    (folder / "a.yaml").write_text("sede: 1\n")
    (folder / "b.yaml").write_text("scheduler: pbs\ndevice: cuda\n")

    result = meditron("check", "a.yaml", "b.yaml", "c.yaml")

    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "error: a.yaml:1:1: sede: unknown key; did you mean 'seed'?",
        "error: b.yaml:1:1: name: missing",
        "error: b.yaml:1:1: gpu_partition: missing",
        "error: b.yaml:1:12: scheduler: expected one of slurm, local, found 'pbs'",
        "error: c.yaml: no such file",
        "hint: `meditron init` writes experiment.yaml and a sample corpus into this folder",
    ]


def test_check_describes_a_valid_file(folder: Path) -> None:
    (folder / "experiment.yaml").write_text("seed: 1\n")
    rcp = f"{files.shipped_profiles()}/rcp.yaml"

    result = meditron("check", "experiment.yaml", rcp)

    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "experiment.yaml: a valid experiment",
        f"{rcp}: a valid cluster profile",
    ]
    assert result.stderr.count("is a placeholder") == 2


def test_check_merges_when_cluster_and_size_are_given(folder: Path) -> None:
    (folder / "experiment.yaml").write_text("model: {kv_heads: 3}\n")

    alone = meditron("check")
    merged = meditron("check", "--cluster", "local", "--size", "tiny")

    assert alone.exit_code == 0
    assert merged.exit_code == 2
    assert merged.stderr == (
        "error: experiment.yaml:1:19: model.kv_heads: 3 does not divide attention_heads, 4\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "--cluster", "local"], "error: --cluster and --size go together"),
        (["clusters", "--copy"], "error: --copy needs a profile's name"),
        (["clusters", "./gone.yaml"], "error: gone.yaml: no such file"),
        (["check"], "error: experiment.yaml: no such file"),
    ],
)
def test_words_that_miss_something_are_refused(
    folder: Path, words: list[str], message: str
) -> None:
    result = meditron(*words)

    assert result.exit_code == 2
    assert result.stderr.splitlines()[0] == message


def test_check_merged_describes_a_valid_file(folder: Path) -> None:
    (folder / "experiment.yaml").write_text("seed: 1\n")

    result = meditron("check", "--cluster", "local", "--size", "tiny")

    assert (result.exit_code, result.stdout) == (
        0,
        "experiment.yaml: a valid experiment, which fits cluster local at size tiny\n",
    )


@pytest.mark.parametrize(
    ("text", "cluster", "size"),
    [
        ("seed: 1\n", "clariden", "70b"),
        ("tokenize: {cpus: 1000}\n", "test-slurm", "tiny"),
        ("evaluate: {tensor: 16, benchmarks: [{name: q, path: q.jsonl}]}\n", "test-slurm", "tiny"),
    ],
)
def test_check_refuses_an_experiment_that_does_not_fit_as_plan_does(
    folder: Path, text: str, cluster: str, size: str
) -> None:
    (folder / "experiment.yaml").write_text(text)
    target = ("--cluster", cluster, "--size", size)

    check = meditron("check", *target)
    plan = meditron("plan", "pipeline", *target)

    assert (check.exit_code, check.stdout) == (2, "")
    assert check.stderr == plan.stderr


def test_a_file_that_does_not_exist_comes_with_a_command_that_works(folder: Path) -> None:
    first = meditron("check", "gone.yaml")
    profile = meditron("plan", "pretrain", "--cluster", "./gone.yaml", "--size", "tiny")
    init = meditron("init")
    second = meditron("check", "gone.yaml")
    plan = meditron(
        "plan", "curate", *("--cluster", "local", "--size", "tiny", "--config", "no.yaml")
    )

    assert first.stderr == (
        "error: gone.yaml: no such file\n"
        "hint: `meditron init` writes experiment.yaml and a sample corpus into this folder\n"
    )
    assert init.exit_code == 0
    assert profile.stderr == (
        "error: gone.yaml: no such file\nhint: `meditron clusters` lists the profiles\n"
    )
    for result, name in ((second, "gone.yaml"), (plan, "no.yaml")):
        assert result.stderr == (
            f"error: {name}: no such file\n"
            "hint: `meditron check experiment.yaml` checks the experiment of this folder\n"
        )
    assert meditron("check", "experiment.yaml").exit_code == 0


def test_check_in_json_lists_files_and_errors(folder: Path) -> None:
    (folder / "experiment.yaml").write_text("sede: 1\n")

    result = meditron("check", "--json")

    assert result.exit_code == 2
    assert json.loads(result.stdout) == {
        "format": 1,
        "valid": False,
        "files": [
            {
                "file": "experiment.yaml",
                "kind": "experiment",
                "errors": ["experiment.yaml:1:1: sede: unknown key; did you mean 'seed'?"],
                "placeholders": [],
                "absent": [],
                "warnings": [],
            }
        ],
    }


def test_explain_shows_value_meaning_and_place(folder: Path) -> None:
    (folder / "experiment.yaml").write_text("pretrain:\n  time_minutes: 24:00:00\n")

    result = meditron("explain", "pretrain.time_minutes", "--size", "tiny")

    assert result.stdout == (
        "pretrain.time_minutes = 1440\n"
        "Time limit of one job; a run may take several.\n"
        "from: experiment.yaml:2:17\n"
    )


LAYOUTS = [kind for kind in get_args(QuestionKind) if kind != "medqa4"]
"""The last is a layout of medqa, with fewer options."""


@pytest.mark.parametrize(
    ("key", "layouts"),
    [
        ("evaluate.benchmarks", tuple(kind for kind in LAYOUTS for _ in range(2))),
        ("curate.sources", (".jsonl, ", ".json, ", ".parquet: ", ".nxml, ")),
    ],
)
def test_explain_of_data_names_each_layout_in_a_line(
    folder: Path, key: str, layouts: tuple[str, ...]
) -> None:
    lines = meditron("explain", key).stdout.splitlines()

    for line, layout in zip(lines[2:], layouts, strict=False):
        assert line.startswith(f"- {layout}")
    assert lines[2 + len(layouts)] == "from: default"


@pytest.mark.parametrize(
    ("words", "value", "origin", "place"),
    [
        (["seed"], 1234, "default", ""),
        (["model.layers"], None, "unset", ""),
        (["seed", "--set", "seed=5"], 5, "--set", "--set seed=5"),
        (["model.layers", "--size", "tiny"], 4, "recipe", "tiny.yaml"),
        (["pretrain.precision", "--cluster", "izar"], "fp32", "profile", "izar.yaml"),
        (["cluster.gpu_partition.node.gpus", "--cluster", "izar"], 2, "profile", "izar.yaml"),
        (["cluster.qos", "--cluster", "izar"], "", "default", ""),
        (["evaluate.checkpoints"], ["first", "last"], "default", ""),
    ],
)
def test_explain_in_json_names_the_layer(
    folder: Path, words: list[str], value: object, origin: str, place: str
) -> None:
    result = meditron("explain", *words, "--json")

    (found,) = json.loads(result.stdout)["keys"]
    assert (found["value"], found["origin"]) == (value, origin)
    assert place in found["place"]


def test_explain_of_a_section_shows_its_keys(folder: Path) -> None:
    result = meditron("explain", "parallel", "--size", "7b")

    assert result.stdout.splitlines()[0].split() == ["KEY", "VALUE", "FROM"]
    assert [line.split()[:2] for line in result.stdout.splitlines()[1:4]] == [
        ["parallel.tensor", "4"],
        ["parallel.pipeline", "1"],
        ["parallel.virtual", "1"],
    ]


def test_explain_of_a_list_explains_the_keys_of_its_items(folder: Path) -> None:
    lines = meditron("explain", "pretrain.phases").stdout.splitlines()
    head = lines.index("of each item:")
    shown = {line.split()[0]: line.split()[1] for line in lines[head + 2 :]}

    assert lines[0] == "pretrain.phases = []"
    assert shown["pretrain.phases.from_tokens"] == "-"
    assert shown["pretrain.phases.tail.shape"] == '"linear"'
    assert any(line.endswith("Learning rate at the last step.") for line in lines[head:])


def test_explain_knows_a_key_and_a_section_of_a_list_s_items(folder: Path) -> None:
    key = meditron("explain", "pretrain.phases.tail.shape")
    section = meditron("explain", "pretrain.phases.tail", "--json")

    assert key.stdout.splitlines()[0] == 'pretrain.phases.tail.shape = "linear"'
    assert [item["key"] for item in json.loads(section.stdout)["keys"]] == [
        "pretrain.phases.tail.learning_rate",
        "pretrain.phases.tail.shape",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["pretrain.lerning_rate"],
            "error: no configuration key is called 'pretrain.lerning_rate'; did you mean "
            "'pretrain.learning_rate'?",
        ),
        (
            ["cluster.slurm.recovery_jb", "--cluster", "local"],
            "error: no configuration key is called 'cluster.slurm.recovery_jb'; did you mean "
            "'cluster.slurm.recovery_job'?",
        ),
        (["cluster.name"], "error: cluster.name is a key of cluster profiles"),
        (["seed", "--set", "sed=1"], "error: --set sed=1: sed: unknown key; did you mean 'seed'?"),
    ],
)
def test_explain_refuses_what_is_not_there(folder: Path, words: list[str], message: str) -> None:
    result = meditron("explain", *words)

    assert result.exit_code == 2
    assert result.stderr.splitlines()[0] == message


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (
            "slurm.recovery_job --cluster test-slurm",
            "explain cluster.slurm.recovery_job --cluster test-slurm",
        ),
        ("account --cluster rcp --size 7b", "explain cluster.account --cluster rcp --size 7b"),
        ("account", "explain cluster.account --cluster local"),
        ("cluster.account", "explain cluster.account --cluster local"),
        (
            "cluster.pretrain.time_minutes --cluster rcp --set 'curate.sources=[a b]'",
            "explain pretrain.time_minutes --cluster rcp --set 'curate.sources=[a b]'",
        ),
        (
            "pretrain.lerning_rate --size 7b --config my.yaml",
            "explain pretrain.learning_rate --size 7b --config my.yaml",
        ),
        ("cluster.slurm.requeu --cluster rcp", "explain cluster.slurm.requeue --cluster rcp"),
        ("pretrain.phases.from_token", "explain pretrain.phases.from_tokens"),
        ("foo.bar", "schema experiment"),
        ("cluster.foo --cluster rcp", "schema cluster"),
        ("cluster.foo", "schema cluster"),
    ],
)
def test_explain_of_an_unknown_key_names_a_command_that_works(
    folder: Path, words: str, command: str
) -> None:
    (folder / "my.yaml").write_text("seed: 1\n")

    result = meditron("explain", *shlex.split(words))

    assert result.exit_code == 2
    assert result.stderr.splitlines()[1].startswith(f"hint: `meditron {command}` ")
    assert meditron(*shlex.split(command)).exit_code == 0


def test_clusters_lists_every_profile_and_those_with_errors(folder: Path) -> None:
    (folder / "clusters").mkdir()
    (folder / "clusters/broken.yaml").write_text("name: broken\n")

    found = {
        item["name"]: item for item in json.loads(meditron("clusters", "--json").stdout)["clusters"]
    }

    assert found["rcp"]["nodes"] == 16
    assert found["broken"]["description"] == "has errors: check clusters/broken.yaml"
    assert "generic-h100" in meditron("clusters").stdout


def test_clusters_prints_and_copies_a_profile_once(folder: Path) -> None:
    printed = meditron("clusters", "rcp").stdout
    first = meditron("clusters", "rcp", "--copy")
    second = meditron("clusters", "rcp", "--copy")

    assert (folder / "clusters/rcp.yaml").read_text() == printed
    assert (folder / "clusters/profile.schema.json").is_file()
    assert first.exit_code == 0
    assert second.exit_code == 2
    assert second.stderr.splitlines()[0] == "error: clusters/rcp.yaml exists"
    assert json.loads(meditron("clusters", "rcp", "--json").stdout)["cluster"]["name"] == "rcp"


def test_clusters_of_a_wrong_name_names_the_nearest(folder: Path) -> None:
    result = meditron("clusters", "kumma")

    assert result.exit_code == 2
    assert result.stderr == (
        "error: --cluster kumma: no profile has this name; did you mean 'kuma'?\n"
        "hint: `meditron clusters` lists the profiles\n"
    )


def test_schema_prints_or_writes_the_same(folder: Path) -> None:
    printed = meditron("schema", "cluster")
    written = meditron("schema", "cluster", "--output", "a/b.json")

    assert json.loads(printed.stdout)["title"] == "meditron cluster profile"
    assert (folder / "a/b.json").read_text() == printed.stdout
    assert written.stdout == ""
    assert json.loads(meditron("schema").stdout)["title"] == "meditron experiment"


def test_init_writes_a_starter_that_lacks_nothing_and_overwrites_nothing(folder: Path) -> None:
    from meditron_cli.config.load import load

    first = meditron("init", "new")
    second = meditron("init", "new")
    loaded = load("local", "tiny", Path("new/experiment.yaml"), [])

    assert first.exit_code == 0
    assert first.stderr.splitlines()[-1] == (
        "  meditron submit pipeline --cluster local --size tiny --wait"
    )
    assert loaded.missing == ()
    assert (folder / "new/.meditron/experiment.schema.json").is_file()
    assert second.exit_code == 2
    assert second.stderr.splitlines()[0] == "error: already there: new/experiment.yaml, new/sample"

    head, mark, rest = Path("new/experiment.yaml").read_text().partition("evaluate:")
    tuned = Path("new/tuned.yaml")
    tuned.write_text(head + mark + re.sub("^# (?!To)", "", rest, flags=re.MULTILINE))
    loaded = load("local", "tiny", tuned, [])
    assert loaded.missing == ()
    assert [model.name for model in loaded.experiment.finetune.models] == ["taught"]
    assert [benchmark.model for benchmark in loaded.experiment.evaluate.benchmarks] == [
        "",
        "taught",
    ]


@pytest.mark.parametrize(
    ("corpus", "written"), [("new/docs", "docs"), ('my $docs: "x" #1', None), ("docs.jsonl", None)]
)
def test_init_from_a_corpus_curates_it(folder: Path, corpus: str, written: str | None) -> None:
    from meditron_cli.config.load import load

    (folder / corpus).parent.mkdir(exist_ok=True)
    (folder / corpus).touch()

    result = meditron("init", "new", "--from", corpus)

    text = (folder / "new/experiment.yaml").read_text()
    assert result.exit_code == 0, result.stderr
    assert json.dumps(written or str(folder / corpus)) in text
    if "$" not in corpus:
        loaded = load("local", "tiny", Path("new/experiment.yaml"), [])
        assert loaded.experiment.curate.sources == (str(folder / corpus),)
        assert loaded.missing == ()


def test_init_from_a_corpus_that_does_not_exist_writes_nothing(folder: Path) -> None:
    result = meditron("init", "new", "--from", "docs")

    assert result.exit_code == 2
    assert result.stderr.startswith("error: docs: no such file or folder\n")
    assert list(folder.iterdir()) == []


def test_init_empty_writes_an_experiment_without_a_sample(folder: Path) -> None:
    result = meditron("init", "--empty")

    assert result.exit_code == 0, result.stderr
    assert not (folder / "sample").exists()
    assert meditron("check").exit_code == 0
    assert meditron("init", "--empty").exit_code == 2


def test_each_short_help_is_the_one_in_the_table() -> None:
    import importlib

    from meditron_cli.main import COMMANDS

    for name in ("check", "explain", "schema", "init", "clusters"):
        module = importlib.import_module(f"meditron_cli.commands.{name}")
        assert module.command.get_short_help_str(200) == COMMANDS[name]
