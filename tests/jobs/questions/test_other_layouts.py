"""Readers of the layouts beside our own, MMLU, MedMCQA's dev split and PQA-L, on look-alikes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from jobs.contract.corpus import benchmark_files
from jobs.contract.corpus.benchmark_files import BenchmarkOptions
from jobs.contract.errors import CONFIGURATION, TaskError
from jobs.questions import readers
from jobs.questions.exchanges import Exchange, read_exchanges
from jobs.questions.readers import read, read_train

from .published import (
    HEADQA,
    MED_CONCEPTS_QA,
    MEDQA,
    MEDQA4,
    MEDXPERTQA,
    MMLU_PRO,
    abstract,
    medmcqa,
    truthfulqa,
    write_lines,
)

LAYOUTS = [
    ("medqa", MEDQA, "A 5-year-old boy has a barking cough. What is the cause?", 5, "step1"),
    ("medqa4", MEDQA4, "A 5-year-old boy has a barking cough. What is the cause?", 4, "step1"),
    ("medxpertqa", MEDXPERTQA, "What is the most probable diagnosis?", 2, "Diagnosis"),
    ("mmlu_pro", MMLU_PRO, "Which organ makes insulin?", 3, "health"),
    (
        "headqa",
        {**HEADQA, "category": "biology"},
        "Excitatory postsynaptic potentials:",
        3,
        "biology",
    ),
    (
        "med_concepts_qa",
        MED_CONCEPTS_QA,
        "What is the description of the medical code I10 in ICD10CM?",
        4,
        "icd10cm_easy",
    ),
]


@pytest.mark.parametrize(("kind", "record", "stem", "options", "subject"), LAYOUTS)
def test_a_record_becomes_a_question(
    tmp_path: Path, kind: str, record: dict[str, Any], stem: str, options: int, subject: str
) -> None:
    (question,) = read(write_lines(tmp_path / "test.jsonl", record), kind)

    assert (question.stem, len(question.choices), question.subject) == (stem, options, subject)
    assert question.answer == (2 if kind == "headqa" else 1)
    assert question.style == "letters"


def test_numbers_of_mmlu_pro_are_ids_from_0_on(tmp_path: Path) -> None:
    records = [{**MMLU_PRO, "question_id": number} for number in (0, 1)]
    write_lines(tmp_path / "validation.jsonl", *records)

    found = read(tmp_path / "validation.jsonl", "mmlu_pro")

    assert [question.id for question in found] == ["0", "1"]


def test_parquet_is_read_as_lines_are(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    second = {**MEDXPERTQA, "id": "Text-4", "options": {"A": "a", "B": "b", "C": "c"}}
    records = [MEDXPERTQA, second]
    parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "test.parquet")
    write_lines(tmp_path / "test.jsonl", *records)

    found = read(tmp_path / "test.parquet", "medxpertqa")

    assert found == read(tmp_path / "test.jsonl", "medxpertqa")
    assert [len(question.choices) for question in found] == [2, 3]


def test_headqa_is_read_as_published_too(tmp_path: Path) -> None:
    exam = {"name": "Cuaderno_2013_1_B", "year": "2013", "category": "biology"}
    records = [{**HEADQA, "qid": number, "ra": "1"} for number in "12"]
    exams = {"Cuaderno_2013_1_B": {**exam, "data": records}}
    path = tmp_path / "test_HEAD_EN.json"
    path.write_text(json.dumps({"version": "1.0", "language": "en", "exams": exams}))

    found = read(path, "headqa")

    assert [(item.id, item.answer, item.subject) for item in found] == [
        ("test_HEAD_EN-0", 0, "biology"),
        ("test_HEAD_EN-1", 0, "biology"),
    ]


def test_truthfulqa_has_the_medical_categories_of_the_paper(tmp_path: Path) -> None:
    sizes = {"Health": 55, "Law": 64, "Nutrition": 16, "Psychology": 19, "Science": 9}
    path = tmp_path / "TruthfulQA.csv"
    path.write_text(truthfulqa(sizes))

    found = read(path, "truthfulqa")

    test = [item for item in found if item.split == "test"]
    assert len(test) == 99
    assert {item.subject for item in found if item.split == "train"} == {"Law"}
    assert all(len(set(item.choices)) == 4 for item in test)
    assert all(item.choices[item.answer] == "No" for item in test)
    assert {item.answer for item in test} == {0, 1, 2, 3}
    assert read(path, "truthfulqa") == found
    other = read(path, "truthfulqa", BenchmarkOptions(seed=7))
    assert [item.choices for item in other] != [item.choices for item in found]


def test_a_question_has_the_same_options_whatever_stands_before_it(tmp_path: Path) -> None:
    both = tmp_path / "both.csv"
    both.write_text(truthfulqa({"Health": 2}))
    lines = both.read_text().splitlines(keepends=True)
    second = tmp_path / "second.csv"
    second.write_text(lines[0] + lines[2])

    assert read(second, "truthfulqa")[0].choices == read(both, "truthfulqa")[1].choices


def test_mmlu_reads_the_subjects_that_are_named(tmp_path: Path) -> None:
    medical = benchmark_files.SUBJECT_GROUPS["medical"]
    for name in (*medical, "astronomy", "global_facts"):
        for split in ("test", "dev"):
            (tmp_path / f"{name}_{split}.csv").write_text("Which?,a,b,c,d,D\nWho?,a,b,c,d,A\n")

    found = read(tmp_path, "mmlu", BenchmarkOptions(subjects=("medical",)))
    fewer = BenchmarkOptions(subjects=("virology", "astronomy", "virology"), skip_first_rows=True)

    assert {item.subject for item in found} == set(medical)
    assert len(found) == 36
    assert [(item.id, item.stem) for item in read(tmp_path, "mmlu", fewer)] == [
        ("astronomy_test-1", "Who?"),
        ("virology_test-1", "Who?"),
        ("astronomy_dev-1", "Who?"),
        ("virology_dev-1", "Who?"),
    ]


def test_a_folder_without_worked_examples_has_its_subjects(tmp_path: Path) -> None:
    for name in ("anatomy", "virology"):
        (tmp_path / f"{name}_test.csv").write_text("Which?,a,b,c,d,D\n")
    anatomy = BenchmarkOptions(subjects=("anatomy",))

    assert [item.id for item in read(tmp_path, "mmlu", anatomy)] == ["anatomy_test-0"]
    (tmp_path / "virology_dev.csv").write_text("Who?,a,b,c,d,A\n")
    with pytest.raises(TaskError, match=r"anatomy_dev\.csv: No such file"):
        read(tmp_path, "mmlu", anatomy)


def test_a_subject_without_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "anatomy_test.csv").write_text("Which?,a,b,c,d,D\n")

    with pytest.raises(TaskError, match=r"clinical_knowledge_test\.csv: No such file"):
        read(tmp_path, "mmlu", BenchmarkOptions(subjects=("medical",)))


def test_train_records_may_be_in_a_file_of_their_own(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "dev.json", medmcqa(1))
    train = write_lines(tmp_path / "train.json", medmcqa(2), medmcqa(3, exp=None))
    options = BenchmarkOptions(train=str(train))

    found = read(path, "medmcqa", options)

    assert [(item.id, item.split, item.explanation) for item in found] == [
        ("id-1", "test", "It is known"),
        ("id-2", "train", "It is known"),
        ("id-3", "train", ""),
    ]
    assert benchmark_files.files(path, "medmcqa", options) == [path, train]


def test_a_train_file_replaces_the_train_records_beside_the_test_split(tmp_path: Path) -> None:
    labelled = {str(number): abstract(number) for number in range(3)}
    (tmp_path / "ori_pqal.json").write_text(json.dumps(labelled))
    (tmp_path / "test_ground_truth.json").write_text('{"1": "yes"}')
    (tmp_path / "ori_pqaa.json").write_text(json.dumps({"9": abstract(9, "no")}))
    options = BenchmarkOptions(train=str(tmp_path / "ori_pqaa.json"))

    found = read(tmp_path, "pubmedqa", options)

    assert [(item.id, item.split) for item in found] == [("1", "test"), ("9", "train")]
    assert found[1].choices[found[1].answer] == "no"


def test_pqa_l_gives_its_train_records_alone(tmp_path: Path) -> None:
    labelled = {str(number): abstract(number) for number in range(3)}
    (tmp_path / "ori_pqal.json").write_text(json.dumps(labelled, indent=4))
    (tmp_path / "test_ground_truth.json").write_text('{"1": "yes"}')

    found = list(read_train(tmp_path, "pubmedqa"))

    assert [item.id for item in found] == ["0", "2"]
    assert found[0].explanation == "Drug 0 helped"


def test_medmcqa_that_counts_from_zero_is_read_where_that_is_declared(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "dev.json", medmcqa(1, first=0))

    (question,) = read(path, "medmcqa", BenchmarkOptions(first_answer=0))

    assert question.choices[question.answer] == "oculomotor"


def test_prompts_are_read_as_they_are(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "chat.jsonl",
        {"prompt": " Why?\n", "gold": "Because."},
        {"prompt": "And?", "gold": "So.", "system": "Be brief.", "id": "two"},
    )

    assert list(read_exchanges(path)) == [
        Exchange("chat-0", " Why?\n", "Because.", ""),
        Exchange("two", "And?", "So.", "Be brief."),
    ]


BAD = [
    ("medqa", MEDQA4, "4 options, not 5", "the kind of the file is medqa4"),
    ("medqa4", MEDQA, "5 options, not 4", "the kind of the file is medqa"),
    ("medqa", {**MEDQA, "answer_idx": "F"}, "`answer_idx` is 'F'", "it is a letter from A to E"),
    ("medqa", {**MEDQA, "answer": "Mumps"}, "`answer` is 'Mumps', not option B", ""),
    ("medqa", {**MEDQA, "options": {"A": "a", "C": "c"}}, "`options` has the letters A, C", ""),
    ("medxpertqa", {**MEDXPERTQA, "label": "C"}, "`label` is 'C'", "it is a letter from A to B"),
    (
        "medxpertqa",
        {**MEDXPERTQA, "images": ["MM-3.jpg"]},
        "a question about images",
        "take the files of the subset Text",
    ),
    ("mmlu_pro", {**MMLU_PRO, "answer": "D"}, "`answer` is 'D'", "it is a letter from A to C"),
    ("mmlu_pro", {**MMLU_PRO, "options": "abc"}, "`options` is not a list of strings", ""),
    ("mmlu_pro", {**MMLU_PRO, "options": ["a"]}, "`options` has 1 option, or an empty one", ""),
    ("headqa", {**HEADQA, "ra": 0}, "`ra` is 0", "it is one of the `aid`: 1, 2, 3"),
    ("headqa", {**HEADQA, "answers": [1]}, "`answers` is not a list of objects", ""),
    ("med_concepts_qa", {**MED_CONCEPTS_QA, "answer_id": 1}, "`answer_id` is 1", ""),
    (
        "medmcqa",
        medmcqa(1, first=-2),
        "`cop` is 0",
        "it counts from 1 to 4: set `first_answer` to 0 for a file that counts from 0; the test "
        "split has no answers",
    ),
]


@pytest.mark.parametrize(("kind", "record", "message", "hint"), BAD)
def test_a_bad_record_is_refused_with_file_and_line(
    tmp_path: Path, kind: str, record: dict[str, Any], message: str, hint: str
) -> None:
    path = write_lines(tmp_path / "test.jsonl", record)

    with pytest.raises(TaskError) as caught:
        read(path, kind)

    assert caught.value.message == f"{path}:1: {message}"
    assert hint in caught.value.hint
    assert caught.value.code == CONFIGURATION


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"gold": "So."}, "`prompt` is missing, empty or not a string"),
        ({"prompt": "Why?", "gold": " "}, "`gold` is missing, empty or not a string"),
        ({"prompt": "Why?", "gold": "So.", "system": 1}, "`system` is not a string"),
    ],
)
def test_a_bad_prompt_is_refused(tmp_path: Path, record: dict[str, Any], message: str) -> None:
    path = write_lines(tmp_path / "chat.jsonl", record)

    with pytest.raises(TaskError) as caught:
        list(read_exchanges(path))

    assert caught.value.message == f"{path}:1: {message}"


@pytest.mark.parametrize("make", ["utf-16", "folder", "absent"])
def test_prompts_that_cannot_be_read_are_refused(tmp_path: Path, make: str) -> None:
    path = tmp_path / "chat.jsonl"
    if make == "utf-16":
        path.write_text('{"prompt": "Why?", "gold": "So."}', "utf-16")
    elif make == "folder":
        path.mkdir()

    with pytest.raises(TaskError, match="^" + re.escape(f"{path}: ")):
        list(read_exchanges(path))


@pytest.mark.parametrize("kind", ["mcq", "medmcqa", "headqa", "prompts"])
def test_half_of_a_surrogate_pair_is_refused(tmp_path: Path, kind: str) -> None:
    choices = {"choices": ["a", "b\ud83d"], "answer": 0}
    record = {
        "mcq": {"id": "1", "question": "Which?", **choices},
        "medmcqa": {**medmcqa(1), "id": "1", "exp": "\ud83d"},
        "headqa": {**HEADQA, "qtext": "\ud83d"},
        "prompts": {"id": "1", "prompt": "Why?", "gold": "\ud83d"},
    }[kind]
    path = write_lines(tmp_path / "1.jsonl", record)

    with pytest.raises(TaskError) as caught:
        list(read_exchanges(path) if kind == "prompts" else read(path, kind))

    name = "1-0" if kind == "headqa" else "1"
    assert caught.value.message == (
        f"{path}: the record {name!r} has '\\ud83d', half of a character"
    )


@pytest.mark.parametrize(
    "exam", [1, {"category": "biology"}, {"data": [1]}, {"data": "all"}, {"data": [{}]}]
)
def test_headqa_without_records_is_refused(tmp_path: Path, exam: Any) -> None:
    path = tmp_path / "test.json"
    path.write_text(json.dumps({"exams": {"2013": exam}}))

    with pytest.raises(TaskError, match=f"{re.escape(str(path))}: 2013: "):
        read(path, "headqa")


def test_a_test_question_among_the_train_records_is_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "dev.json", medmcqa(1), medmcqa(2))
    leaked = {
        **medmcqa(2),
        "id": "other",
        "question": "The NERVE number 2 that lifts the eyelid is",
    }
    train = write_lines(tmp_path / "train.json", medmcqa(3), leaked)

    with pytest.raises(TaskError) as caught:
        read(path, "medmcqa", BenchmarkOptions(train=str(train)))

    assert caught.value.message == (
        f"{train}: the train record 'other' is the test question 'id-2' of {path}"
    )


def test_truthfulqa_without_its_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "TruthfulQA.csv"
    path.write_text("Question,Answer\nWhy?,So\n")

    with pytest.raises(TaskError) as caught:
        read(path, "truthfulqa")

    assert caught.value.message == f"{path}:1: no column 'Category'"


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    whole = json.dumps({str(number): abstract(number) for number in range(3)}, indent=4)
    path = tmp_path / "ori_pqaa.json"
    path.write_text(whole[: len(whole) // 2])

    with pytest.raises(TaskError, match="the JSON object is broken or cut off here"):
        list(read_train(path, "pubmedqa"))


def test_every_kind_is_read_by_a_reader_that_says_what_it_reads() -> None:
    assert all(reader.__doc__ for reader in readers.READERS.values())
