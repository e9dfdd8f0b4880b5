"""The tasks that make a corpus."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from jobs.contract.corpus.rules import BenchmarkFile, DecontaminationSpec, NearDuplicatesSpec
from jobs.contract.stage_specs import CleanSpec, CurateSpec, DeduplicateSpec
from meditron_cli.config.load import load
from meditron_cli.plan import corpus
from meditron_cli.plan.build import build
from meditron_cli.plan.inputs import Inputs
from meditron_cli.plan.stage_plan import idle_stages, named_paths
from meditron_cli.runs.prepare import source_bytes

from ...conftest import Bench
from ...plans import GOLDEN, PYTHON, plan_of, profile_of

MB = 10**6


def test_one_task_makes_the_whole_corpus() -> None:
    stage = plan_of("test-slurm", "tiny").stage("curate")

    (task,) = stage.tasks
    assert isinstance(task.spec, CurateSpec)
    assert (task.spec.part, task.spec.parts, task.spec.whole) == (0, 1, True)
    assert named_paths(task.spec) == ("/data/corpus",)


def test_several_tasks_are_three_stages_with_the_same_rules() -> None:
    plan = plan_of("test-slurm", "tiny", "curate.tasks=12", "curate.shards=3")

    clean, deduplicate, curate = (plan.stage(name) for name in ("clean", "deduplicate", "curate"))
    assert [stage.after for stage in (clean, deduplicate, curate)] == [
        (),
        ("clean",),
        ("deduplicate",),
    ]
    assert [(task.spec.part, task.spec.parts) for task in clean.tasks] == [
        (part, 12) for part in range(12)
    ]
    assert [task.spec.parts for task in deduplicate.tasks] == [12]
    assert [(task.spec.part, task.spec.parts, task.spec.whole) for task in curate.tasks] == [
        (part, 4, False) for part in range(4)
    ]
    specs = [task.spec for stage in (clean, deduplicate, curate) for task in stage.tasks]
    assert {type(spec) for spec in specs} == {CleanSpec, DeduplicateSpec, CurateSpec}
    assert len({spec.corpus for spec in specs}) == 1
    assert [named_paths(stage.tasks[0].spec) for stage in (clean, deduplicate, curate)] == [
        ("/data/corpus",),
        (),
        (),
    ]


def test_the_number_of_tasks_decides_no_rule() -> None:
    (one,) = plan_of("test-slurm", "tiny").stage("curate").tasks
    several = plan_of("test-slurm", "tiny", "curate.tasks=5").stage("clean").tasks

    assert several[0].spec.corpus == one.spec.corpus


def test_a_source_has_the_settings_of_the_stage_where_it_has_none() -> None:
    overrides = (
        "curate.sources=[/a.jsonl, {path: /b, format: pubmed, min_chars: 7, text_key: body}]",
        "curate.min_chars=50",
        "curate.validation_fraction=0.1",
        "curate.mask=[phone, email]",
        "curate.near_duplicates.similarity=0.8",
        "curate.upsample={factor: 0.5, date: 2024-01-31}",
        "curate.upsample.journals=[The Lancet]",
        "curate.upsample.citations=[2, 9]",
        "curate.decontaminate.benchmarks=[quiz]",
    )
    rules = plan_of("test-slurm", "tiny", *overrides).stage("curate").tasks[0].spec.corpus

    plain, own = rules.sources
    assert (plain.name, plain.min_chars, plain.text_key) == ("a", 50, "text")
    assert (own.name, own.min_chars, own.text_key) == ("abstracts", 7, "body")
    assert {plain.validation_fraction, own.validation_fraction} == {0.1}
    assert rules.mask == ("email", "phone")
    assert rules.near_duplicates == NearDuplicatesSpec(0.8, 5)
    assert (rules.upsample, rules.upsample_date) == (0.5, "2024-01-31")
    assert (rules.upsample_journals, rules.upsample_citations) == (("The Lancet",), (2.0, 9.0))
    benchmark = BenchmarkFile("quiz", "/data/quiz.jsonl", "mcq")
    assert rules.decontamination == DecontaminationSpec((benchmark,), 8, 0.8)
    assert corpus.paths_of(rules) == ("/a.jsonl", "/b", "/data/quiz.jsonl")


@pytest.mark.parametrize(
    ("size", "wanted", "task_mb", "planned"),
    [
        (None, 8, 200, 8),
        (10 * MB, 8, 200, 1),
        (999 * MB, 8, 200, 4),
        (10**12, 8, 200, 8),
        (10 * MB, 8, 0, 8),
        (0, 8, 200, 1),
    ],
)
def test_small_sources_have_fewer_tasks(
    size: int | None, wanted: int, task_mb: int, planned: int
) -> None:
    sets = [f"curate.tasks={wanted}", f"curate.task_mb={task_mb}"]
    loaded = load(str(profile_of("test-slurm")), "tiny", GOLDEN / "experiment.yaml", sets)
    inputs = Inputs(loaded.experiment, loaded.cluster, "tiny", "", PYTHON, source_bytes=size)
    plan = build(inputs, ("clean", "deduplicate", "curate"))

    assert len(plan.stage("clean").tasks) == planned
    lines = list(corpus.lines(plan, loaded.experiment.curate))
    assert len(lines) == (planned < wanted)
    assert all(f"{planned} task" in line and "curate.task_mb" in line for line in lines)


def test_one_long_task_is_warned_of_with_the_number_that_takes_an_hour() -> None:
    loaded = load(str(profile_of("test-slurm")), "tiny", GOLDEN / "experiment.yaml", [])
    inputs = Inputs(loaded.experiment, loaded.cluster, "tiny", "", PYTHON)
    day = dataclasses.replace(inputs, source_bytes=24 * 3600 * 3 * MB)

    (warning,) = build(day, ("curate",)).warnings
    assert "about 24 hours" in warning
    assert "--set curate.tasks=24" in warning
    assert build(inputs, ("curate",)).warnings == ()


def test_one_task_needs_no_stages_before() -> None:
    loaded = load(str(profile_of("test-slurm")), "tiny", GOLDEN / "experiment.yaml", [])
    assert idle_stages(loaded.experiment) >= {"clean", "deduplicate"}


def test_the_size_of_sources_counts_files_in_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs/more").mkdir(parents=True)
    (tmp_path / "docs/a.jsonl").write_bytes(b"12345")
    (tmp_path / "docs/more/b.jsonl").write_bytes(b"123")
    (tmp_path / "docs/.hidden").write_bytes(b"1")
    (tmp_path / "c.jsonl").write_bytes(b"12")

    def size(sources: str) -> int | None:
        return source_bytes(load("local", "tiny", None, [f"curate.sources={sources}"]))

    assert size("[docs, {path: c.jsonl}]") == 10
    assert size("[docs, gone.jsonl]") is None
    assert size("[hf://datasets/o/n/c]") is None


@pytest.mark.parametrize("stage", ["clean", "deduplicate"])
def test_a_stage_of_several_tasks_is_refused_where_one_task_does_all(
    meditron: Bench, stage: str
) -> None:
    result = meditron.submit(stage=stage)

    assert result.exit_code == 2
    assert result.stderr == (
        f"error: curate.tasks is 1, so curate does the work of {stage} too\n"
        "hint: `meditron explain curate.tasks` explains the key\n"
    )


@pytest.mark.parametrize("words", [("check",), ("plan", "curate"), ("submit", "curate")])
def test_a_long_task_is_warned_of_before_it_is_submitted(
    meditron: Bench, words: tuple[str, ...]
) -> None:
    with (meditron.folder / "docs.jsonl").open("r+b") as file:
        file.truncate(10**12)  # a hole, which takes no place
    more = () if words == ("check",) else ("--config", "experiment.yaml")

    done = meditron(*words, "--cluster", "local", "--size", "tiny", *more)

    assert done.exit_code == 0, done.output
    assert (
        "warning: curating 931.3 GiB takes about 93 hours at 3 MB/s and task (guessed); "
        "--set curate.tasks=93 takes about one\n"
    ) in done.stderr
