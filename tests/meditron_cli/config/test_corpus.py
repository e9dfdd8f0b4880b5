"""Sources of a corpus with settings of their own, and what is dropped."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from jobs.corpus.filtering import quality, works
from jobs.corpus.formats.read import FORMATS
from meditron_cli.config.corpus.schema import Curate, Source
from meditron_cli.config.identity import run_name
from meditron_cli.config.load import data_files, load
from meditron_cli.errors import ConfigError

QUIZ = "evaluate.benchmarks=[{name: quiz, path: quiz.jsonl}]"


def curate(*overrides: str) -> Curate:
    return load("local", "tiny", None, list(overrides)).experiment.curate


def test_a_source_is_a_path_or_a_section_with_one(folder: Path) -> None:
    found = curate(
        "curate.sources=[a.jsonl, {path: b, languages: en}, {path: hf://datasets/o/n/c}]"
    )

    assert found.sources[0] == str(folder / "a.jsonl")
    assert [source.path for source in found.named] == [
        str(folder / "a.jsonl"),
        str(folder / "b"),
        "hf://datasets/o/n/c",
    ]
    assert found.named[1].languages == ("en",)
    assert found.model_dump(mode="json")["sources"][0] == str(folder / "a.jsonl")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("{path: x.tar.gz, format: jats}", "papers"),
        ("{path: x, format: s2orc}", "papers"),
        ("{path: x, format: pubmed}", "abstracts"),
        ("{path: x, format: guidelines}", "guidelines"),
        ("{path: x, format: falcon}", "replay"),
        ("{path: x, format: jats, name: mine}", "mine"),
        ("data/Docs.v2.jsonl.zst", "Docs.v2"),
        ("data/corpus-2", "corpus-2"),
        ("hf://datasets/o/n/train/part.parquet", "part"),
    ],
)
def test_a_source_without_a_name_has_one_by_its_format_or_file(
    folder: Path, source: str, name: str
) -> None:
    assert curate(f"curate.sources=[{source}]").named[0].name_or_default == name


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("curate.sources=[{name: a}]", "curate.sources[0].path: missing"),
        (
            "curate.sources=[{path: a, nme: b}]",
            "curate.sources[0].nme: unknown key; did you mean 'name'?",
        ),
        (
            "curate.sources=[{path: a, quality: fine}]",
            "curate.sources[0].quality: expected one of none, gopher, fineweb, abstracts, found "
            "'fine'; did you mean 'fineweb'?",
        ),
        (
            "curate.sources=[{path: a, languages: [eng]}]",
            "curate.sources[0].languages[0]: expected an ISO 639-1 code, such as en, found 'eng'",
        ),
        (
            "curate.sources=[{path: a, sample: 0}]",
            "curate.sources[0].sample: must be above 0, found 0",
        ),
        (
            "curate.sources=[{path: hf://datasets/o}]",
            "curate.sources[0].path: expected a path, or hf://datasets/ORG/NAME/PATH with "
            "@REVISION after NAME for one revision, found 'hf://datasets/o'",
        ),
        (
            "curate.drop=[animal]",
            "curate.drop[0]: expected one of retracted, preprint, animals, veterinary, found "
            "'animal'; did you mean 'animals'?",
        ),
        (
            "curate.near_duplicates.similarity=1",
            "curate.near_duplicates.similarity: must be below 1, found 1",
        ),
        (
            "curate.upsample.citations=[3, 1]",
            "curate.upsample.citations: name two numbers, the smaller one first, or none",
        ),
        (
            "curate.upsample.date=2023-02-30",
            "curate.upsample.date: there is no day 2023-02-30",
        ),
        (
            "curate.decontaminate.benchmarks=all",
            "curate.decontaminate.benchmarks[0]: all: evaluate.benchmarks lists no benchmark",
        ),
    ],
)
def test_errors_name_the_key_inside_a_source(folder: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        curate(override)

    assert refused.value.message == f"--set {override}: {message}"


def test_documents_are_compared_with_benchmarks_that_are_evaluated(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no benchmark is called 'quizz'; there are quiz"):
        curate("curate.decontaminate.benchmarks=[quizz]", QUIZ)

    experiment = load(
        "local", "tiny", None, ["curate.decontaminate.benchmarks=all", QUIZ]
    ).experiment

    assert [benchmark.name for benchmark in experiment.compared_benchmarks] == ["quiz"]


def test_files_that_a_corpus_needs_are_those_of_sections_and_compared_benchmarks(
    folder: Path,
) -> None:
    sources = "curate.sources=[a.jsonl, {path: hf://datasets/o/n/c, format: jats}]"
    sets = [sources, QUIZ, "curate.decontaminate.benchmarks=[quiz]"]

    files = list(data_files(load("local", "tiny", None, sets).experiment))

    assert files == [
        (("clean", "curate"), ("curate", "sources", 0), str(folder / "a.jsonl")),
        (("clean", "curate"), ("curate", "sources", 1, "path"), "hf://datasets/o/n/c"),
        (
            ("clean", "curate", "evaluate", "generate"),
            ("evaluate", "benchmarks", 0, "path"),
            str(folder / "quiz.jsonl"),
        ),
    ]


@pytest.mark.parametrize(
    ("override", "continues"),
    [
        ("curate.tasks=8", True),
        ("curate.task_mb=0", True),
        ("curate.drop=retracted", False),
        ("curate.near_duplicates.similarity=0.8", False),
        ("curate.sources=[{path: a, quality: gopher}]", False),
    ],
)
def test_the_number_of_tasks_continues_a_run(folder: Path, override: str, continues: bool) -> None:
    names = {
        run_name(load("local", "tiny", None, sets).experiment, "tiny", "local")
        for sets in (["curate.sources=[a]"], ["curate.sources=[a]", override])
    }

    assert len(names) == (1 if continues else 2)


def test_the_choices_are_those_of_the_stages() -> None:
    def choices(model: type[Curate | Source], name: str) -> set[str]:
        return set(get_args(model.model_fields[name].annotation))

    assert set(FORMATS) <= choices(Source, "format")
    assert choices(Source, "quality") == set(quality.PRESETS)
    assert set(get_args(get_args(Curate.model_fields["drop"].annotation)[0])) == set(works.KINDS)
