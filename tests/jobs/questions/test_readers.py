"""Readers of benchmark files, on look-alikes of a few records."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.contract.corpus import benchmark_files
from jobs.contract.errors import CONFIGURATION, TaskError
from jobs.prompts import plain
from jobs.questions import readers
from jobs.questions.question import Question, stratified

MCQ = {
    "id": "q1",
    "question": "Which vitamin prevents scurvy?",
    "choices": ["vitamin A", "vitamin C", "vitamin D"],
    "answer": 1,
    "subject": "nutrition",
}
MEDMCQA = {
    "id": "m1",
    "question": "The nerve that lifts the eyelid is",
    "opa": "optic",
    "opb": "facial",
    "opc": "oculomotor",
    "opd": "vagus",
    "cop": 3,
    "subject_name": "Anatomy",
    "exp": None,
}
PUBMEDQA = {
    "11": {"QUESTION": "Does A help?", "CONTEXTS": ["One.", "Two."], "final_decision": "maybe"},
    "12": {"QUESTION": "Does B help?", "CONTEXTS": ["Three."], "final_decision": "no"},
    "13": {"QUESTION": "Does C help?", "CONTEXTS": ["Four."], "final_decision": "yes"},
}


def lines(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def pubmedqa_folder(folder, records, truth):
    (folder / "ori_pqal.json").write_text(json.dumps(records))
    (folder / "test_ground_truth.json").write_text(json.dumps(truth))
    return folder


def test_a_question_of_ours_gets_a_cue_and_is_scored_on_its_choices(tmp_path):
    (question,) = readers.read(lines(tmp_path / "q.jsonl", MCQ), "mcq")

    assert question == Question(
        id="q1",
        stem="Which vitamin prevents scurvy?",
        context=(),
        choices=("vitamin A", "vitamin C", "vitamin D"),
        answer=1,
        split="test",
        subject="nutrition",
        style="texts",
    )
    assert plain.prompt(question) == "Question: Which vitamin prevents scurvy?\nThe answer is:"
    assert plain.continuations(question) == question.choices


def test_an_unfinished_sentence_is_put_as_it_is(tmp_path):
    path = lines(tmp_path / "q.jsonl", {**MCQ, "question": "Scurvy is prevented by "})

    assert plain.prompt(readers.read(path, "mcq")[0]) == "Scurvy is prevented by"


def test_the_split_of_a_question_is_kept_and_blank_lines_are_passed_over(tmp_path):
    path = lines(tmp_path / "q.jsonl", MCQ, {**MCQ, "id": "q2", "split": "train"})
    path.write_text(path.read_text().replace("\n", "\n\n"))

    found = readers.read(path, "mcq")

    assert [(question.id, question.split) for question in found] == [
        ("q1", "test"),
        ("q2", "train"),
    ]


def test_medmcqa_counts_its_answers_from_one_and_is_scored_on_letters(tmp_path):
    (question,) = readers.read(lines(tmp_path / "dev.jsonl", MEDMCQA), "medmcqa")

    assert plain.prompt(question) == (
        "Question: The nerve that lifts the eyelid is?\n\nOptions:\n"
        "A. optic\nB. facial\nC. oculomotor\nD. vagus\nThe answer is:"
    )
    assert question.choices[question.answer] == "oculomotor"
    assert plain.continuations(question) == ("A", "B", "C", "D")
    assert question.subject == "Anatomy"


def test_medmcqa_may_publish_the_same_choice_twice(tmp_path):
    path = lines(tmp_path / "dev.jsonl", {**MEDMCQA, "opd": "facial"})

    assert readers.read(path, "medmcqa")[0].choices.count("facial") == 2


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_table_may_have_a_mark_of_its_encoding_and_blank_lines(tmp_path, mark, end):
    path = tmp_path / "anatomy_test.csv"
    content = (
        f'{mark}"Is ""it"", or not?","a, b",c,d,e,B{end}{end}"Which{end}one",a,b,c,d,A{end}{end}'
    )
    path.write_bytes(content.encode())

    first, second = readers.read(path, "mmlu")

    assert (first.stem, first.choices[0]) == ('Is "it", or not?', "a, b")
    assert (second.id, second.stem) == ("anatomy_test-1", f"Which{end}one")


def test_the_first_row_of_an_mmlu_file_is_a_question(tmp_path):
    path = tmp_path / "anatomy_test.csv"
    path.write_text('"Where, in the body, is the tibia?",arm,leg,head,back,B\nWhich.,a,b,c,d,A\n')

    first, second = readers.read(path, "mmlu")

    assert plain.prompt(first).startswith(
        "Question: Where, in the body, is the tibia?\n\nOptions:\nA. arm\n"
    )
    assert (first.id, first.answer, first.subject) == ("anatomy_test-0", 1, "anatomy")
    assert plain.prompt(second).startswith("Question: Which.\n\n")


def test_an_mmlu_folder_pools_its_subjects_and_takes_examples_from_dev(tmp_path):
    for name in ("virology_test", "anatomy_test", "anatomy_dev"):
        (tmp_path / f"{name}.csv").write_text("Which?,a,b,c,d,D\n")

    found = readers.read(tmp_path, "mmlu")

    assert [(question.subject, question.split) for question in found] == [
        ("anatomy", "test"),
        ("virology", "test"),
        ("anatomy", "train"),
    ]
    assert [path.name for path in benchmark_files.files(tmp_path, "mmlu")] == [
        "anatomy_test.csv",
        "virology_test.csv",
        "anatomy_dev.csv",
    ]


@pytest.mark.parametrize("name", ["", "ori_pqal.json"])
def test_pubmedqa_tests_what_the_official_split_names_and_trains_on_the_rest(tmp_path, name):
    folder = pubmedqa_folder(tmp_path, PUBMEDQA, {"12": "no", "11": "maybe"})

    found = readers.read(folder / name, "pubmedqa")

    assert [(question.id, question.split) for question in found] == [
        ("12", "test"),
        ("11", "test"),
        ("13", "train"),
    ]
    assert plain.prompt(found[1]) == "One.\nTwo.\nDoes A help?\nThe answer is:"
    assert plain.continuations(found[1])[found[1].answer] == "maybe"


BAD_MCQ = [
    ('{"id": "q1"', "not JSON (Expecting ',' delimiter: line 1 column 12 (char 11))"),
    ("[" * 100_000, "not JSON (its brackets are too deep in one another)"),
    ("[1]", "not a JSON object"),
    ({**MCQ, "id": ""}, "`id` is missing, empty or not a string"),
    ({**MCQ, "question": 7}, "`question` is missing, empty or not a string"),
    ({**MCQ, "choices": "ABC"}, "`choices` is not a list of strings"),
    ({**MCQ, "choices": ["one"]}, "1 choice; a question needs at least two"),
    ({**MCQ, "choices": ["one", "one "]}, "a choice is empty or occurs twice"),
    ({**MCQ, "answer": 3}, "`answer` is 3"),
    ({**MCQ, "answer": True}, "`answer` is True"),
    ({**MCQ, "answer": "B"}, "`answer` is 'B'"),
    ({**MCQ, "split": "dev"}, "`split` is 'dev'"),
]


@pytest.mark.parametrize(("record", "message"), BAD_MCQ)
def test_a_bad_question_is_refused_with_file_and_line(tmp_path, record, message):
    path = lines(tmp_path / "q.jsonl", {**MCQ, "id": "q0"})
    with path.open("a") as file:
        file.write(record if isinstance(record, str) else json.dumps(record))

    with pytest.raises(TaskError) as caught:
        readers.read(path, "mcq")

    assert caught.value.message == f"{path}:2: {message}"
    assert caught.value.code == CONFIGURATION
    assert caught.value.hint


BAD_MMLU = [
    ("question,A,B,C,D,answer\n", ":1: the answer is 'answer'"),
    ("Which?,a,b,c,B\n", ":1: 5 cells"),
    ("Which?,a,b,c,d,B\nWhich?,a,,c,d,B\n", ":2: the question or a choice is empty"),
    ('Which?,a,b,c,d,B\n"Which?,a', ":2: not CSV (unexpected end of data)"),
]


@pytest.mark.parametrize(("text", "message"), BAD_MMLU)
def test_a_bad_row_is_refused_with_file_and_line(tmp_path, text, message):
    path = tmp_path / "anatomy_test.csv"
    path.write_text(text)

    with pytest.raises(TaskError) as caught:
        readers.read(path, "mmlu")

    assert caught.value.message == f"{path}{message}"


@pytest.mark.parametrize("right", [0, 5, None, "2"])
def test_medmcqa_that_does_not_count_from_one_is_refused(tmp_path, right):
    path = lines(tmp_path / "dev.jsonl", {**MEDMCQA, "cop": right})

    with pytest.raises(TaskError) as caught:
        readers.read(path, "medmcqa")

    assert caught.value.message == f"{path}:1: `cop` is {right!r}"


BAD_PUBMEDQA = [
    ({"99": "no"}, "ori_pqal.json: no record of 99"),
    ({"11": "yes"}, "test_ground_truth.json: 11 has another answer in ori_pqal.json"),
    ([], "test_ground_truth.json: not one JSON object keyed by PMID"),
]


@pytest.mark.parametrize(("truth", "message"), BAD_PUBMEDQA)
def test_pubmedqa_files_that_do_not_agree_are_refused(tmp_path, truth, message):
    pubmedqa_folder(tmp_path, PUBMEDQA, truth)

    with pytest.raises(TaskError) as caught:
        readers.read(tmp_path, "pubmedqa")

    assert caught.value.message == f"{tmp_path}/{message}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"CONTEXTS": "text"}, "`CONTEXTS` is not a list of strings"),
        ({"final_decision": "perhaps"}, "`final_decision` is 'perhaps'"),
        ({"QUESTION": None}, "`QUESTION` is missing, empty or not a string"),
    ],
)
def test_a_bad_pubmedqa_record_is_refused_by_its_pmid(tmp_path, change, message):
    records = {**PUBMEDQA, "13": {**PUBMEDQA["13"], **change}}
    pubmedqa_folder(tmp_path, records, {"11": "maybe"})

    with pytest.raises(TaskError) as caught:
        readers.read(tmp_path, "pubmedqa")

    assert caught.value.message == f"{tmp_path}/ori_pqal.json: 13: {message}"


def test_an_id_given_twice_is_refused(tmp_path):
    path = lines(tmp_path / "q.jsonl", MCQ, MCQ)

    with pytest.raises(TaskError, match="the id 'q1' occurs twice"):
        readers.read(path, "mcq")


def test_a_benchmark_without_test_questions_is_refused(tmp_path):
    path = lines(tmp_path / "q.jsonl", {**MCQ, "split": "train"})

    with pytest.raises(TaskError, match="no test question"):
        readers.read(path, "mcq")


def test_a_folder_without_mmlu_files_is_refused(tmp_path):
    with pytest.raises(TaskError, match=r"no \*_test.csv in this folder"):
        readers.read(tmp_path, "mmlu")


@pytest.mark.parametrize("kind", ["mcq", "medmcqa", "mmlu", "pubmedqa"])
def test_a_missing_file_is_named(tmp_path, kind):
    with pytest.raises(TaskError) as caught:
        readers.read(tmp_path / "nowhere", kind)

    assert caught.value.message == f"{tmp_path}/nowhere: No such file or directory"


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_bytes(b'{"id": "\xff"}\n')

    with pytest.raises(TaskError, match="not UTF-8"):
        readers.read(path, "mcq")


def test_an_unknown_kind_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(TaskError) as caught:
        readers.read(tmp_path, "bioasq")

    assert caught.value.message == f"{tmp_path}: unknown kind of benchmark 'bioasq'"
    assert caught.value.hint.startswith("kinds are mcq, pubmedqa, mmlu, medmcqa, medqa, medqa4, ")


@settings(max_examples=100)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.data())
def test_a_sample_has_the_share_of_each_answer_and_the_order_of_the_file(answers, data):
    questions = [
        Question(str(n), "", (), ("a", "b", "c", "d"), answer, "test", "", "letters")
        for n, answer in enumerate(answers)
    ]
    size = data.draw(st.integers(1, len(questions)))
    seed = data.draw(st.integers(0, 5))

    found = stratified(questions, size, seed)

    places = [int(item.id) for item in found]
    assert places == sorted(set(places))
    assert len(found) == size
    assert found == stratified(questions, size, seed)
    for answer in set(answers):
        share = answers.count(answer) * size / len(answers)
        assert abs(sum(item.answer == answer for item in found) - share) < 2


def test_another_seed_takes_other_questions():
    questions = [
        Question(str(n), "", (), ("a", "b"), int(n >= 50), "test", "", "letters")
        for n in range(100)
    ]

    samples = {tuple(item.id for item in stratified(questions, 10, seed)) for seed in range(5)}

    assert len(samples) == 5
    assert {sum(int(name) >= 50 for name in names) for names in samples} == {5}
