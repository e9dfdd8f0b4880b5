"""The published numbers: every row adds up, but for what the notes state."""

from __future__ import annotations

import itertools
import statistics
from typing import Any

import pytest

from meditron_cli import console
from meditron_cli.reporting import published
from meditron_cli.reporting.published import Place

FIVE = ("mmlu_medical", "pubmedqa", "medmcqa", "medqa", "medqa4")


def table(name: str) -> dict[str, Any]:
    (found,) = (item for item in published.content()["tables"] if item["table"] == name)
    return found


def rows(name: str) -> dict[tuple[str, ...], dict[str, float]]:
    """Return the values of a table by model, mode and step."""
    columns = table(name)["columns"]
    return {
        (row["model"], row.get("mode", ""), str(row.get("step", ""))): dict(
            zip(columns, row["values"], strict=True)
        )
        for row in table(name)["rows"]
    }


TARGETS = {
    ("Table 4", "Meditron-7B", "top-token", False): (42.3, 69.3, 36.3, 28.7, 37.4),
    ("Table 5", "Meditron-7B", "top-token", True): (55.6, 74.4, 59.2, 47.9, 52.0),
    ("Table 4", "Meditron-70B", "top-token", False): (71.5, 79.8, 53.3, 52.0, 59.8),
    ("Table 5", "Meditron-70B", "top-token", True): (73.6, 80.0, 65.1, 60.7, 65.4),
    ("Table 5", "Meditron-70B", "cot", True): (74.9, 81.0, 63.2, 61.5, 67.8),
    ("Table 5", "Meditron-70B", "sc-cot", True): (77.6, 81.6, 66.0, 64.4, 70.2),
}


@pytest.mark.parametrize(("row", "values"), TARGETS.items())
def test_the_rows_that_a_reproduction_aims_at(
    row: tuple[str, str, str, bool], values: tuple[float, ...]
) -> None:
    found = {
        score.benchmark: score.value
        for score in published.scores()
        if (score.table, score.model, score.mode, score.finetuned) == row
    }

    assert tuple(found[name] for name in FIVE) == values


AVERAGED = [
    (item["table"], number)
    for item in published.content()["tables"]
    if "average" in item["columns"]
    for number, row in enumerate(item["rows"])
    if None not in row["values"]
]


@pytest.mark.parametrize(("name", "number"), AVERAGED)
def test_a_printed_average_is_the_mean_of_its_row_but_for_one(name: str, number: int) -> None:
    row = table(name)["rows"][number]
    *values, average = row["values"]
    # Printed values are rounded to 0.05, so the mean of theirs is within 0.05 of the mean's own.
    difference = abs(statistics.fmean(values) - average)

    if (name, row["model"], row.get("mode")) == ("Table 5", "Meditron-7B", "top-token"):
        assert (average, round(statistics.fmean(values), 1)) == (57.5, 57.8)
    else:
        assert difference < 0.1 + 1e-9, (name, row["model"], difference)


def test_table_5_has_thirteen_rows_which_table_12_has_by_nine_subjects() -> None:
    assert list(rows("Table 5")) == list(rows("Table 12"))
    assert len(rows("Table 5")) == 13
    assert len(table("Table 12")["columns"]) == 9


def weighted(values: dict[str, float]) -> float:
    sizes = {name: published.content()["benchmarks"][name]["n"] for name in values}
    return sum(values[name] * size for name, size in sizes.items()) / sum(sizes.values())


def test_subjects_without_their_first_question_give_the_score_of_all() -> None:
    sizes = [published.content()["benchmarks"][name]["n"] for name in table("Table 12")["columns"]]
    wholes = {key: row["mmlu_medical"] for key, row in rows("Table 5").items()}
    subjects = {key: round(weighted(row), 1) for key, row in rows("Table 12").items()}

    assert sum(sizes) == 1862 == published.content()["benchmarks"]["mmlu_medical"]["n"]
    assert all(abs(subjects[key] - wholes[key]) < 0.2 + 1e-9 for key in wholes), subjects
    assert sum(subjects[key] == wholes[key] for key in wholes) == 8


def test_scores_in_genetics_are_answers_of_99_questions_not_of_100() -> None:
    genetics = [row["mmlu_medical/medical_genetics"] for row in rows("Table 12").values()]
    printed = {round(100 * right / 99, 1) for right in range(100)}

    assert sum(value in printed for value in genetics) == 11, genetics
    assert not any(value.is_integer() for value in genetics)


def test_the_first_and_the_last_row_of_table_6_are_those_of_table_4() -> None:
    few_shot, during = rows("Table 4"), rows("Table 6")

    assert few_shot["Llama-2-70B", "", ""] == during["Llama-2-70B", "", "0"]
    assert few_shot["Meditron-70B", "", ""] == during["Meditron-70B", "", "23000"]
    assert [row["step"] for row in table("Table 6")["rows"]] == [0, 5_000, 10_000, 15_000, 23_000]


@pytest.mark.parametrize(
    ("model", "mixture", "scores"),
    [
        ("Meditron-7B", "GAP + Replay", (55.6, 54.2)),
        ("Llama-2-7B", "Llama-2-7B", (56.3, 53.7)),
        ("PMC-Llama-7B", "PMC-Llama-7B", (59.7, 56.4)),
    ],
)
def test_tables_5_and_8_disagree_on_mmlu_alone(
    model: str, mixture: str, scores: tuple[float, float]
) -> None:
    finetuned = rows("Table 5")[model, "top-token", ""]
    studied = rows("Table 8")[mixture, "", ""]

    assert (finetuned["mmlu_medical"], studied["mmlu_medical"]) == scores
    assert all(finetuned[name] == studied[name] for name in ("pubmedqa", "medmcqa", "medqa"))


def test_the_text_on_replay_and_on_code_disagrees_with_table_8() -> None:
    found = {model: values for (model, *_), values in rows("Table 8").items()}
    replay = found["PMC + Replay"]["medmcqa"] - found["PMC"]["medmcqa"]
    code = found["PMC + Replay"]["average"] - found["PMC + Replay + Code 10B"]["average"]

    assert (round(replay, 1), round(code, 1)) == (3.6, 7.2)


def test_table_11_repeats_the_chosen_mixture() -> None:
    assert (
        rows("Table 11")["GAP + Replay, end LR 1.6e-4", "", ""]
        == rows("Table 8")["GAP + Replay", "", ""]
    )


def test_one_score_of_table_13_is_no_whole_number_of_answers() -> None:
    odd = []
    for (model, *_), values in rows("Table 13").items():
        for name in values.keys() - {"average"}:
            n = published.content()["benchmarks"][name]["n"]
            if values[name] not in {round(100 * right / n + 1e-9, 1) for right in range(n + 1)}:
                odd.append((model, name, values[name]))

    assert odd == [("Meditron-70B", "truthfulqa/Nutrition", 77.9)]


def test_figures_1_and_3_repeat_table_5_and_disagree_on_a_commercial_model() -> None:
    consistent = rows("Table 5")["Meditron-70B", "sc-cot", ""]
    figure = {model: values for (model, *_), values in rows("Figure 3").items()}
    timeline = {model: values["medqa4"] for (model, *_), values in rows("Figure 1").items()}

    assert figure["Meditron-70B"] == {name: consistent[name] for name in figure["Meditron-70B"]}
    assert timeline["Meditron-70B"] == consistent["medqa4"]
    assert timeline["Llama-2-70B"] == rows("Table 5")["Llama-2-70B", "sc-cot", ""]["medqa4"]
    assert (figure["Med-PaLM-2"]["medqa4"], timeline["Med-PaLM-2"]) == (86.5, 86.2)
    assert figure["Med-PaLM-2"]["pubmedqa"] == 81.8


def test_the_curves_of_figures_4_and_5() -> None:
    validation, training, *peaks = (
        series["points"] for figure in published.content()["figures"] for series in figure["series"]
    )

    assert (len(validation), validation[0], validation[-1]) == (46, [1.05, 1.3326], [48.23, 1.2471])
    assert all(0.9 < after[0] - before[0] < 1.2 for before, after in itertools.pairwise(validation))
    assert min(validation, key=lambda point: point[1]) == [46.13, 1.2459]
    assert (len(training), training[-1]) == (13, [48, 1.248])
    assert [curve[-1] for curve in peaks] == [[26.21, 1.4198], [26.21, 1.4073], [26.21, 1.3868]]
    assert all(curve == sorted(curve, key=lambda point: -point[1]) for curve in peaks)


def test_a_score_carries_its_protocol() -> None:
    found = published.beside(Place("pubmedqa", "top-token", False, 6.7, 1_000))

    assert [(score.table, score.model) for score in found] == [
        ("Table 4", "Llama-2-7B"),
        ("Table 4", "Meditron-7B"),
        ("issue 29", "Meditron-7B"),
    ]
    assert (found[1].shots, found[1].seeds, found[1].n) == (3, (1234, 432, 32), 500)
    assert (found[1].value, found[1].spread, found[1].page) == (69.3, 15.1, 9)


def test_a_checkpoint_of_a_published_step_stands_beside_that_of_the_paper() -> None:
    found = published.beside(Place("medqa", "top-token", False, 69.0, 10_000))

    assert [(score.table, score.model, score.value) for score in found] == [
        ("Table 6", "Meditron-70B", 49.8),
        ("Table 4", "Llama-2-70B", 49.0),
    ]


def test_a_finetuned_model_stands_beside_the_finetuned_ones_not_beside_studies() -> None:
    found = published.beside(Place("mmlu_medical", "sc-cot", True, 69.0, 0))

    assert [(score.model, score.value) for score in found] == [
        ("Llama-2-70B", 77.9),
        ("Meditron-70B", 77.6),
    ]
    assert published.beside(Place("headqa", "top-token", True, 7.0, 0)) == []


def test_every_printed_table_fits_a_screen_of_100_columns() -> None:
    for (title, columns, cells), notes in published.tables():
        lines = console.plain_table(
            columns, [["-" if cell is None else str(cell) for cell in row] for row in cells]
        )
        assert max(map(len, [*title.splitlines(), *lines])) <= 100, title
        assert all(notes)
