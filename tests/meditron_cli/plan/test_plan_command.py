"""`meditron plan`: what it prints and refuses, without any scheduler."""

from __future__ import annotations

import json
import shlex

import pytest

from meditron_cli.config import facts_file
from meditron_cli.config.facts_file import Facts, PartitionFacts, Speeds

from ...conftest import Bench
from ...metric_lines import append, save, step


def test_the_plan_of_a_pipeline_is_a_table_and_sentences(meditron: Bench) -> None:
    result = meditron("plan", "pipeline", "--cluster", "test-slurm", "--size", "tiny")

    assert result.exit_code == 0, result.stderr
    stages = [line.split()[0] for line in result.stdout.splitlines()[1:6]]
    assert stages == ["curate", "tokenize", "index", "pretrain", "evaluate"]
    assert "tensor 2 x pipeline 1 x data 2 = 4 ranks on 2 nodes" in result.stdout
    assert not meditron.runs.exists()
    assert meditron.scheduler.asked == meditron.scheduler.submitted == []


def test_json_has_stages_training_and_warnings(meditron: Bench) -> None:
    result = meditron("plan", "pretrain", "--cluster", "test-slurm", "--size", "tiny", "--json")

    found = json.loads(result.stdout)
    assert set(found) == {"format", "stages", "training", "warnings", "facts"}
    assert [stage["stage"] for stage in found["stages"]] == ["index", "pretrain"]
    assert found["training"]["ranks"] == 4


SEARCH = ("plan", "pretrain", "--cluster", "rcp", "--size", "70b", "--search")


def test_a_search_prints_the_fastest_layouts_and_the_words_of_the_best(meditron: Bench) -> None:
    result = meditron(*SEARCH)

    assert (result.exit_code, result.stderr) == (0, "")
    table, best = result.stdout.split("\n\n")
    assert len(table.splitlines()) == 11
    words = best.splitlines()[1].removeprefix("best: ").split()
    assert words[::2] == ["--set"] * 6
    chosen = meditron("plan", "pretrain", "--cluster", "rcp", "--size", "70b", *words)
    assert chosen.exit_code == 0
    assert "computed with activations" not in chosen.stderr
    assert f"step         {table.splitlines()[1].split()[6]} s, computed" in chosen.stdout


def test_a_search_as_json_has_every_layout_that_fits_fastest_first(meditron: Bench) -> None:
    found = json.loads(meditron(*SEARCH, "--json").stdout)

    seconds = [layout["step_seconds"] for layout in found["layouts"]]
    assert len(seconds) > 10
    assert seconds == sorted(seconds)
    assert {*found["layouts"][0]} == {
        "tensor", "pipeline", "virtual", "data", "micro_batch_size", "recompute",
        "step_seconds", "mfu", "memory_bytes", "set",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (
            ("tokenize", "--cluster", "rcp", "--size", "70b"),
            "--search ranks layouts of pretraining, not of tokenize",
            "`meditron plan pretrain --search --cluster rcp --size 70b` ranks them",
        ),
        (
            ("pretrain", "--cluster", "test-slurm", "--size", "tiny"),
            "a layout is searched by the time of a step on GPUs in bf16, not with device cpu and "
            "precision fp32",
            "`meditron clusters` lists profiles with device cuda",
        ),
        (
            ("pretrain", "--cluster", "izar", "--size", "7b"),
            "a layout is searched by the time of a step on GPUs in bf16, not with device cuda and "
            "precision fp32",
            "--set pretrain.precision=bf16, if the GPUs compute it",
        ),
        (
            ("pretrain", "--cluster", "rcp", "--size", "70b", "--set", "parallel.data=1"),
            None,
            None,
        ),
        (
            ("pretrain", "--cluster", "rcp", "--size", "70b", "--set", "parallel.pipeline=1"),
            "no layout of 16 GPUs divides the model and fits cluster rcp",
            "--set parallel.data=N changes the number of GPUs; `meditron explain parallel` lists "
            "the keys of the layout",
        ),
    ],
)
def test_a_search_without_a_result_explains_why(
    meditron: Bench, words: tuple[str, ...], error: str | None, hint: str | None
) -> None:
    result = meditron("plan", *words, "--search")

    expected = [f"error: {error}", f"hint: {hint}"] if error else []
    assert result.stderr.splitlines() == expected
    assert result.exit_code == (2 if error else 0)


def test_a_search_names_the_figures_that_the_profile_lacks(meditron: Bench) -> None:
    profile = (meditron.folder / "own.yaml").resolve()
    profile.write_text(GPUS)

    result = meditron("plan", "pretrain", "--cluster", str(profile), "--size", "7b", "--search")

    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "error: no time of a step is computed: the profile of own lacks "
        "gpu_partition.node.gpu_memory_gb_s, gpu_partition.node.gpu_link_gb_s, "
        "gpu_partition.node.network_gb_s",
        "hint: add what is missing to the profile; `meditron explain "
        "cluster.gpu_partition.node.gpu_memory_gb_s --cluster local` explains the first key",
    ]
    assert meditron(*shlex.split(result.stderr.split("`")[1])[1:]).exit_code == 0


GPUS = """\
name: own
scheduler: slurm
device: cuda
gpu_partition:
  name: gpu
  nodes: 32
  node: {gpus: 4, cpus: 32, memory_gb: 512, gpu_memory_gb: 80, peak_bf16_tflops: 312}
"""


def test_stages_without_training_have_no_training_figures(meditron: Bench) -> None:
    result = meditron("plan", "tokenize", "--cluster", "test-slurm", "--size", "tiny", "--json")

    assert json.loads(result.stdout)["training"] is None


def test_placeholders_are_shown_and_do_not_keep_from_planning(meditron: Bench) -> None:
    result = meditron("plan", "pretrain", "--cluster", "rcp", "--size", "70b")

    assert result.exit_code == 0, result.stderr
    assert "128 ranks on 16 nodes" in result.stdout
    assert result.stderr.count("<account>") == 1
    assert result.stderr.count("<partition>") == 1


def test_missing_and_unusable_inputs_are_the_warnings_of_a_dry_run(meditron: Bench) -> None:
    (meditron.folder / "docs.jsonl").unlink()
    (meditron.folder / "quiz.jsonl").write_text("")
    target = ("pipeline", "--cluster", "test-slurm", "--size", "tiny")

    plan = meditron("plan", *target)
    dry_run = meditron("submit", *target, "--dry-run")
    plan_json = meditron("plan", *target, "--json")

    problems = [
        f"experiment.yaml:3:13: curate.sources[0]: {meditron.folder}/docs.jsonl: no such file or "
        "folder",
        f"evaluate.benchmarks (quiz): {meditron.folder}/quiz.jsonl is empty",
    ]
    assert (plan.exit_code, dry_run.exit_code) == (0, 0)
    assert plan.stderr.splitlines() == [f"warning: {problem}" for problem in problems]
    assert plan.stderr == dry_run.stderr
    assert json.loads(plan_json.stdout)["warnings"] == problems


def test_a_stage_is_not_warned_of_the_inputs_of_another(meditron: Bench) -> None:
    (meditron.folder / "docs.jsonl").unlink()

    result = meditron("plan", "pretrain", "--cluster", "test-slurm", "--size", "tiny")

    assert (result.exit_code, result.stderr) == (0, "")


def test_a_pipeline_is_planned_with_the_stages_that_submit_runs(meditron: Bench) -> None:
    sets = ("--set", f"pretrain.data=[{meditron.folder}/d]", "--set", "evaluate.benchmarks=[]")

    result = meditron("plan", "pipeline", "--cluster", "test-slurm", "--size", "tiny", *sets)

    assert [line.split()[0] for line in result.stdout.splitlines()[1:3]] == ["index", "pretrain"]
    assert "curate" not in result.stdout


def test_a_plan_that_cannot_be_is_exit_2_with_every_reason(meditron: Bench) -> None:
    result = meditron(
        *("plan", "pipeline", "--cluster", "test-slurm", "--size", "tiny"),
        *("--set", "parallel.data=8", "--set", "pretrain.global_batch_size=64"),
        *("--set", "evaluate.tensor=16"),
    )

    assert result.exit_code == 2
    assert result.stdout == ""
    assert [line for line in result.stderr.splitlines() if line.startswith("error: ")] == [
        "error: parallel.tensor x pipeline x data = 2 x 1 x 8 = 16 ranks, but cluster test-slurm "
        "has 8 GPUs (4 nodes of 2)",
        "error: --set evaluate.tensor=16: evaluate.tensor = 16 is more than the 8 cores of one "
        "node",
    ]


def test_a_layout_that_does_not_fit_comes_with_one_that_does(meditron: Bench) -> None:
    result = meditron("plan", "pretrain", "--cluster", "clariden", "--size", "70b")

    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "error: parallel.tensor = 8 does not fit within a node of 4 GPUs; tensor parallelism must "
        "not cross nodes",
        "hint: --set parallel.tensor=4 --set parallel.pipeline=8 --set parallel.data=4 would fit",
    ]


def test_a_time_limit_without_time_to_work_is_refused(meditron: Bench) -> None:
    result = meditron(
        *("plan", "pretrain", "--cluster", "test-slurm", "--size", "tiny"),
        *("--set", "pretrain.time_minutes=2", "--set", "pretrain.signal_lead_seconds=90"),
    )

    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "error: --set pretrain.time_minutes=2: pretrain.time_minutes = 2 leaves 0 s to work: Slurm "
        "signals the job 90 s before the end, and up to 60 s too early",
        "hint: --set pretrain.time_minutes=5 would fit; `meditron explain pretrain.time_minutes` "
        "explains the key",
    ]
    assert is_accepted(
        meditron, "test-slurm", "pretrain.time_minutes=5", "pretrain.signal_lead_seconds=90"
    )


def is_accepted(meditron: Bench, cluster: str, *sets: str) -> bool:
    """Return whether a training can be planned."""
    words = [word for value in sets for word in ("--set", value)]
    result = meditron("plan", "pretrain", "--cluster", cluster, "--size", "tiny", *words)
    return result.exit_code == 0


LIMITED = """\
name: limited
scheduler: slurm
device: cpu
gpu_partition:
  name: short
  nodes: 4
  max_time_minutes: 60
  node: {cpus: 4, memory_gb: 8}
"""


def test_a_time_limit_over_the_partitions_is_refused_where_it_was_written(meditron: Bench) -> None:
    (meditron.folder / "limited.yaml").write_text(LIMITED)
    experiment = meditron.folder / "experiment.yaml"
    experiment.write_text(f"{experiment.read_text()}pretrain:\n  time_minutes: 90\n")

    result = meditron("plan", "pretrain", "--cluster", "./limited.yaml", "--size", "tiny")

    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "error: experiment.yaml:15:17: pretrain.time_minutes = 90 is over the 60 minutes of "
        "partition short",
        "hint: --set pretrain.time_minutes=60 would fit; `meditron explain pretrain.time_minutes` "
        "explains the key",
    ]
    assert is_accepted(meditron, "./limited.yaml", "pretrain.time_minutes=60")


def test_copies_larger_than_a_node_come_with_a_limit_that_fits(meditron: Bench) -> None:
    (meditron.folder / "limited.yaml").write_text(LIMITED)

    result = meditron(
        *("plan", "pretrain", "--cluster", "./limited.yaml", "--size", "tiny"),
        *("--set", "pretrain.time_minutes=60", "--set", "pretrain.save_memory_gb=9"),
    )

    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "error: --set pretrain.save_memory_gb=9: pretrain.save_memory_gb = 9 is more than the "
        "8 GiB of a node in short",
        "hint: --set pretrain.save_memory_gb=4 would fit",
    ]
    assert is_accepted(
        meditron, "./limited.yaml", "pretrain.time_minutes=60", "pretrain.save_memory_gb=4"
    )


def test_the_hint_about_the_layout_is_not_given_for_other_errors(meditron: Bench) -> None:
    result = meditron(
        *("plan", "tokenize", "--cluster", "test-slurm", "--size", "tiny"),
        *("--set", "tokenize.cpus=1000"),
    )

    assert result.stderr.splitlines() == [
        "error: --set tokenize.cpus=1000: tokenize.cpus = 1000 is more than the 8 cores of a node "
        "in cpu",
        "hint: `meditron explain tokenize` lists the keys of the stage; --set tokenize.KEY=VALUE "
        "changes it",
    ]


def test_a_run_that_is_continued_is_planned_with_its_own_saves_and_the_sites_grace(
    meditron: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(meditron.folder / "cache"))
    low = PartitionFacts(qos="", grace_seconds=10, max_time_minutes=None)
    facts = Facts("test-slurm", meditron.clock.now() - 3600, {"low": low})
    facts_file.write(facts_file.path_of("test-slurm"), facts)
    target = ("pretrain", "--cluster", "test-slurm", "--size", "tiny")
    assert meditron("submit", "pipeline", *target[1:]).exit_code == 0
    append(meditron.run(), save(0, seconds=20.0), step(1, seconds=3.0))

    result = meditron("plan", *target)

    assert "a save takes about 20.0 s, measured; the grace period is 10 s" in result.stdout
    assert result.stderr.splitlines() == [
        "warning: partition low has a grace period of 10 s, and a step and a save take about 33 s "
        "(measured): a preempted job cannot save and loses at most 100 steps (about 5.0 minutes, "
        "0.3 GPU-hours), fewer with a smaller pretrain.save_interval",
        "facts about the cluster: cache/meditron/clusters/test-slurm.json, 1 hour old",
    ]
    found = json.loads(meditron("plan", *target, "--json").stdout)
    assert found["facts"]["time"] == facts.time


def test_a_plan_is_computed_with_the_speeds_that_a_selftest_measured_and_names_them(
    meditron: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(meditron.folder / "cache"))
    target = ("pretrain", "--cluster", "generic-h100", "--size", "7b", "--set", "parallel.data=4")
    computed = json.loads(meditron("plan", *target, "--json").stdout)["training"]
    speeds = Speeds("<partition>", 1.0, ("n1",), product_tflops=300.0, network_gb_s=250.0)
    facts = Facts("generic-h100", meditron.clock.now(), speeds=speeds)
    facts_file.write(facts_file.path_of("generic-h100"), facts)

    result = meditron("plan", *target)

    assert "; speeds measured by a selftest: products, network\n" in result.stdout
    measured = json.loads(meditron("plan", *target, "--json").stdout)["training"]
    assert measured["measured_speeds"] == ["products", "network"]
    assert computed["measured_speeds"] == []
    assert measured["step"]["compute"] > 1.5 * computed["step"]["compute"]  # 300 of 663 TFLOP/s


def test_facts_do_not_make_a_dry_run_differ_from_one_moment_to_the_next(
    meditron: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(meditron.folder / "cache"))
    facts_file.write(facts_file.path_of("test-slurm"), Facts("test-slurm", meditron.clock.now()))
    words = ("submit", "pretrain", "--cluster", "test-slurm", "--size", "tiny", "--dry-run")

    first = meditron(*words)
    meditron.clock.sleep(86400)
    second = meditron(*words)

    assert first.exit_code == 0
    assert (first.stdout, first.stderr) == (second.stdout, second.stderr)


def test_a_model_larger_than_this_machine_is_refused(meditron: Bench) -> None:
    result = meditron("plan", "pretrain", "--cluster", "local", "--size", "70b")

    assert result.exit_code == 2
    assert "the node of cluster local has " in result.stderr
