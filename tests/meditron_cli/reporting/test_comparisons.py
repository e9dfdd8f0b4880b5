"""Scores beside published ones, beside each other, and by parts of their questions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.contract.files import write_json
from jobs.contract.rundir import RunDir
from jobs.evaluation import measures
from meditron_cli import console
from meditron_cli.reporting import comparisons, report, score_tables, scores
from meditron_cli.reporting.scores import Score

N = 40


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


@pytest.fixture
def write(run: RunDir) -> Callable[..., None]:
    """Write a score: its first ``right`` questions, or those of each seed, are answered rightly."""

    def write(place: str, *right: int, digest: str = "d1", n: int = N, **fields: Any) -> None:
        folder = run.path(f"evaluations/{place}")
        folder.mkdir(parents=True)
        records = [
            {
                "id": f"q{item}",
                "seed": seed,
                "subject": fields.get("subjects", ["", ""])[item % 2],
                "choices": fields.get("choices", ["b", "c"]),
                "points": float(item < count),
            }
            for seed, count in enumerate(right)
            for item in range(n)
        ]
        lines = (json.dumps(record) + "\n" for record in records)
        (folder / "questions.jsonl").write_text("".join(lines))
        result = {
            "benchmark": place.partition("/")[0],
            "kind": "medqa",
            "mode": "top-token",
            "checkpoint_step": 0,
            "n": n,
            "accuracy": sum(right) / len(right) / n,
            "ci95": [0.1, 0.9],
            "chance": 0.2,
            "majority": 0.25,
            "p_value": 0.5,
            "shots": 0,
            "template": None,
            "digests": {"benchmark": digest},
            "precision": "bf16",
            "calibration_error": 0.123,
            **measures.fields([0], [[0]], [1.0]),
            **fields,
        }
        write_json(folder / "results.json", result)

    return write


def of(run: RunDir) -> list[Score]:
    return scores.of_run(run)


def test_a_checkpoint_is_compared_with_the_first_and_the_one_before(run, write) -> None:
    for step, right in ((0, 10), (20, 20), (40, 30)):
        write(f"medqa/{step}", right, checkpoint_step=step)

    found = comparisons.pairs(of(run))

    assert [(one["first"], one["second"], one["gained"], one["lost"]) for one in found] == [
        ("0 top-token", "20 top-token", 10, 0),
        ("0 top-token", "40 top-token", 20, 0),
        ("20 top-token", "40 top-token", 10, 0),
    ]
    assert found[0]["p_value"] == 2 / 2**10
    low, high = found[0]["ci95"]
    assert found[0]["difference"] == pytest.approx(0.25)
    assert low < 0.25 < high


def test_a_finetuned_model_is_compared_with_its_base_its_modes_and_another_model(run, write):
    write("medqa/last", 10, 12, checkpoint_step=40, shots=3)
    write("tuned/medqa-last", 20, checkpoint_step=480, model="medqa")
    write("tuned/medqa-last/cot", 25, checkpoint_step=480, model="medqa", mode="cot")
    write("tuned/shuffled-last", 5, checkpoint_step=480, model="shuffled")

    found = {(one["first"], one["second"]) for one in comparisons.pairs(of(run))}

    assert found == {
        ("40 3-shot", "medqa 480 top-token"),
        ("40 3-shot", "medqa 480 cot"),
        ("medqa 480 top-token", "medqa 480 cot"),
        ("medqa 480 top-token", "shuffled 480 top-token"),
        ("40 3-shot", "shuffled 480 top-token"),
    }


@pytest.mark.parametrize(
    "other",
    [{"digest": "d2"}, {"digest": ""}, {"n": N - 1}, {"choices": ["c", "b"]}],
    ids=["digest", "none", "questions", "options"],
)
def test_scores_of_other_questions_are_never_paired(run, write, other: dict[str, Any]) -> None:
    write("medqa/0", 10)
    write("medqa/20", 20, checkpoint_step=20, **other)

    assert comparisons.pairs(of(run)) == []


def test_p_values_are_corrected_over_the_benchmarks_of_a_comparison(run, write) -> None:
    write("medqa/0", 10)
    write("medqa/20", 18, checkpoint_step=20)
    write("other/0", 10, digest="d2")
    write("other/20", 14, checkpoint_step=20, digest="d2")

    first, second, _ = comparisons.pairs(of(run))

    assert (first["p_value"], first["p_holm"], first["family"]) == (2 / 2**8, 4 / 2**8, 2)
    assert (second["p_value"], second["p_holm"]) == (2 / 2**4, 2 / 2**4)


def test_finetuned_models_of_several_benchmarks_are_one_comparison(run, write) -> None:
    for name, digest in (("medqa", "d1"), ("pubmedqa", "d2")):
        write(f"{name}/0", 10, digest=digest)
        write(f"{name}/{name}-last", 18, checkpoint_step=480, model=name, digest=digest)

    *each, mean = comparisons.pairs(of(run))

    assert [one["family"] for one in each] == [2, 2]
    assert (mean["benchmark"], mean["first"], mean["second"]) == (
        "mean of 2",
        "0 top-token",
        "finetuned top-token",
    )
    assert mean["difference"] == pytest.approx(0.2)
    assert mean["p_value"] is None
    low, high = mean["ci95"]
    assert each[0]["ci95"][0] < low < 0.2 < high < each[0]["ci95"][1]


def test_two_runs_are_compared_by_the_place_of_their_scores(run, write, tmp_path) -> None:
    write("medqa/last", 10, checkpoint_step=20)
    write("medqa/first", 10)
    for name, benchmark in (("b/last", "renamed/last"), ("b/first", "other/first")):
        place = run.path(f"evaluations/{name}")
        write(name, 20, checkpoint_step=30, digest="d1" if "last" in name else "d2")
        target = tmp_path / "second/evaluations" / benchmark
        target.parent.mkdir(parents=True, exist_ok=True)
        place.rename(target)

    (found,) = comparisons.pairs(of(run), of(RunDir(tmp_path / "second")))

    assert (found["first"], found["second"], found["gained"]) == (
        "20 top-token",
        "30 top-token",
        10,
    )


def test_a_score_stands_beside_those_of_its_benchmark_mode_and_size(run, write) -> None:
    write("exam/last", 10, 14, checkpoint_step=7, shots=3)

    found = comparisons.beside(of(run), 7.1)

    assert [(one["model"], one["table"], one["published"]) for one in found] == [
        ("Llama-2-7B", "Table 4", 0.291),
        ("Meditron-7B", "Table 4", 0.287),
    ]
    assert found[1]["difference"] == pytest.approx(0.3 - 0.287)
    assert found[1]["within"]
    assert found[1]["differs"] == ["n 40 for 1,273", "seeds 2 for 3", "likelihood"]
    assert comparisons.beside(of(run), None) == []


def test_the_experiment_names_the_models_that_scores_stand_beside(run, write) -> None:
    write("exam/m-last", 10, model="m")

    found = comparisons.beside(of(run), 7.0, ("PMC-Llama",))

    assert [(one["model"], one["published"]) for one in found] == [("PMC-Llama-7B", 0.424)]


def test_a_difference_of_all_questions_is_outside_of_its_interval(run, write) -> None:
    write("exam/m-last/cot", 2, model="m", mode="cot", template="paper", n=1_273)

    found = comparisons.beside(of(run), 0.003)

    assert [(one["model"], one["within"]) for one in found] == [
        ("Llama-2-70B", False),
        ("Meditron-70B", False),
    ]
    assert found[0]["differs"] == ["size 0.003B for 70B", "template paper"]


def test_mmlu_stands_beside_the_papers_where_its_subjects_are_medical(run, write) -> None:
    write("a/last", 10, kind="mmlu", subjects=["anatomy", "virology"])
    write("b/last", 10, kind="mmlu", subjects=["anatomy", "astronomy"])

    assert [score.published_name for score in of(run)] == ["mmlu_medical", "mmlu"]
    found = comparisons.by_subject(of(run), 7.0)
    assert [(one["benchmark"], one["subject"], one["n"], one["accuracy"]) for one in found] == [
        ("a", "anatomy", 20, 0.25),
        ("a", "virology", 20, 0.25),
        ("b", "anatomy", 20, 0.25),
        ("b", "astronomy", 20, 0.25),
    ]


def test_subjects_that_are_missing_are_a_difference(run, write) -> None:
    write("a/last", 10, kind="mmlu", subjects=["anatomy", "virology"])

    found = comparisons.beside(of(run), 7.0)

    assert found[0]["differs"][:2] == ["n 40 for 1,862", "subjects 2 for 9"]


def test_a_finetuned_model_is_known_by_its_folder(run, write) -> None:
    write("a/of-all-last/harness", 10, mode="harness")
    write("a/12", 10)

    assert {score.place: score.model for score in of(run)} == {
        "a/of-all-last/harness": "of-all",
        "a/12": "",
    }


def test_a_finetuned_models_subjects_have_published_ones(run, write) -> None:
    write("a/m-last", 10, kind="mmlu", subjects=["anatomy", "virology"], model="m")

    found = comparisons.by_subject(of(run), 7.0)

    assert found[0]["published"] == [
        {"model": "Llama-2-7B", "value": 0.485},
        {"model": "Meditron-7B", "value": 0.493},
    ]


def put_lines(run: RunDir, place: str, *lines: dict[str, str]) -> None:
    path = run.path(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_questions_that_were_found_in_training_data_are_apart(run, write) -> None:
    write("medqa/last", 10)
    write("medqa/m-last", 10, model="m")
    corpus = [{"benchmark": "medqa", "item": f"q{item}", "id": "d"} for item in (0, 1, 39, 39)]
    put_lines(run, "corpus/contamination.jsonl", *corpus)
    items = [
        {"item": "t1", "benchmark": "medqa", "question": "q2"},
        {"item": "t2", "benchmark": "several", "question": ""},
    ]
    put_lines(run, "finetune/m/rows/contained.jsonl", *items)

    base, tuned = comparisons.contamination(run, of(run))

    assert (base["matched"]["n"], base["matched"]["accuracy"]) == (3, 2 / 3)
    assert (base["not_matched"]["n"], base["not_matched"]["accuracy"]) == (37, 8 / 37)
    assert (tuned["matched"]["n"], tuned["matched"]["accuracy"]) == (4, 3 / 4)


@pytest.mark.parametrize("text", ["", "{", '{"id": "q1"}\n', "[1]\n"])
def test_a_damaged_file_of_questions_leaves_the_score_alone(run, write, text: str) -> None:
    write("medqa/0", 10)
    write("medqa/20", 20, checkpoint_step=20)
    run.path("evaluations/medqa/20/questions.jsonl").write_text(text)

    assert len(of(run)) == 2
    assert comparisons.pairs(of(run)) == []
    assert comparisons.by_subject(of(run), 7.0) == []


def test_tables_of_long_rows_fit_100_columns(run, write) -> None:
    many = {"subjects": ["professional_medicine", "virology"], "kind": "mmlu", "digest": "d3"}
    for step in (0, 5_000, 23_000):
        write(f"mmlu_medical/{step}", 10, 20, 30, checkpoint_step=step, shots=5, **many)
    for mode in ("top-token", "cot", "sc-cot"):
        place = f"mmlu_medical/medmcqa-last/{mode}"
        write(place, 35, checkpoint_step=7_490, model="medmcqa", mode=mode, **many)
    put_lines(run, "corpus/contamination.jsonl", {"benchmark": "mmlu_medical", "item": "q0"})
    found = of(run)
    results = {
        "evaluations": report.evaluations(run, found),
        "published": comparisons.beside(found, 69.0),
        "paired": comparisons.pairs(found),
        "subjects": comparisons.by_subject(found, 69.0),
        "contamination": comparisons.contamination(run, found),
    }

    # What is remarked on a score has no limit; a terminal breaks these cells.
    _, *tables = (table for table in score_tables.tables(results) if table[2])

    assert [title.split()[0] for title, *_ in tables].count("mmlu_medical") == 2
    for title, columns, rows in tables:
        cells = [["-" if cell is None else str(cell) for cell in row] for row in rows]
        assert max(map(len, [title, *console.plain_table(columns, cells)])) <= 100, title


def test_subjects_are_printed_of_benchmarks_that_are_made_of_them(run, write) -> None:
    write("a/last", 10, kind="mmlu", subjects=["astronomy", "virology"])
    write("b/last", 10, kind="medmcqa", subjects=["Surgery", "Anatomy"])

    found = comparisons.by_subject(of(run), 7.0)

    assert {one["benchmark"] for one in found} == {"a", "b"}
    assert [title for title, *_ in score_tables.subject_tables(found)] == ["a by subject"]
