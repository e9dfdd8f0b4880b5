"""Questions that cannot be scored or learnt from: a sentence each, before anything is submitted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from jobs.contract import specs
from jobs.contract.files import write_json
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import GenerateSpec
from jobs.data.tokenizer_file import Encoder
from jobs.evaluation import generation_work
from jobs.evaluation.exported_model import ExportedModel
from jobs.evaluation.items import Answer
from jobs.prompts import instructions

from ...conftest import Bench
from ...jobs.questions.published import MEDQA, abstract, medmcqa, write_lines

QUIZ = "evaluate.benchmarks=[{name: quiz, kind: %s, path: test.jsonl%s}]"
MODEL = "finetune.models=[{name: own, items: 1, data: [{kind: %s, path: train.jsonl}]}]"


def questions(**records: Any) -> Callable[[Path], None]:
    """Return what writes files of one record each."""

    def write(folder: Path) -> None:
        for name, record in records.items():
            write_lines(folder / f"{name}.jsonl", record)

    return write


def two_releases(folder: Path) -> None:
    (folder / "ori_pqal.json").write_text(json.dumps({"1": abstract(1)}))
    (folder / "test_ground_truth.json").write_text(json.dumps({"2": "yes"}))


def eighteen_keys(folder: Path) -> None:
    content = json.loads(instructions.OWN.read_text())
    del content["medmcqa_cot"]
    (folder / "instructions.json").write_text(json.dumps(content))
    questions(train=MEDQA)(folder)


def words_of(settings: Sequence[str]) -> tuple[str, ...]:
    """Return the words of a command line that sets them."""
    return tuple(word for each in settings for word in ("--set", each))


def judged(folder: Path) -> None:
    """Write conversations, a judge without a tokenizer, one that is whole, and unusable grades."""
    rubrics = [{"criterion": "Asks", "points": 1, "tags": []}]
    turns = [{"role": "user", "content": "Is it bad?"}]
    write_lines(folder / "health.jsonl", {"prompt_id": "p", "prompt": turns, "rubrics": rubrics})
    for name, files in {
        "blind": ["config.json"],
        "wise": ["config.json", "tokenizer.json"],
    }.items():
        (folder / name).mkdir()
        for file in files:
            (folder / name / file).write_text("{}")
    write_lines(folder / "grades.jsonl", {"prompt_id": "p", "criterion": 0, "grade": 5})


OUTSIDE = {**MEDQA, "answer_idx": "F"}
HEALTH = (
    "export.step=last",
    "evaluate.benchmarks=[{name: health, kind: healthbench, path: health.jsonl}]",
    "evaluate.generate.max_tokens=9",
)
EXPORTED = ("export.step=last", QUIZ % ("medqa", ", modes: [cot]"))
GENERATING = words_of([*EXPORTED, "evaluate.generate.max_tokens=9"])

REFUSED = {
    "an answer outside its options": (
        questions(test=OUTSIDE),
        [QUIZ % ("medqa", "")],
        "(quiz): {folder}/test.jsonl:1: `answer_idx` is 'F'; it is a letter from A to E",
    ),
    "an answer to learn outside its options": (
        questions(train=OUTSIDE),
        [MODEL % "medqa"],
        "finetune.models[0].data: {folder}/train.jsonl:1: `answer_idx` is 'F'; it is a letter from "
        "A to E",
    ),
    "another layout of questions to compare with": (
        questions(test=MEDQA, train=MEDQA),
        [MODEL % "medqa", "finetune.decontaminate.against=[{path: test.jsonl, kind: medmcqa}]"],
        "finetune.decontaminate.against: {folder}/test.jsonl:1: `opa` is missing, empty or not a "
        "string",
    ),
    "two files of different releases": (
        two_releases,
        ["evaluate.benchmarks=[{name: quiz, kind: pubmedqa, path: ori_pqal.json}]"],
        "(quiz): {folder}/ori_pqal.json: no record of 2; ori_pqal.json and test_ground_truth.json "
        "go together",
    ),
    "a test item inside the train file": (
        questions(test=MEDQA, train=MEDQA),
        [QUIZ % ("medqa", ", train: train.jsonl, shots: 1")],
        "(quiz): {folder}/train.jsonl: the train record 'train-0' is the test question 'test-0' of "
        "{folder}/test.jsonl; remove it, or give the file of the train split",
    ),
    "an instructions file with 18 keys": (
        eighteen_keys,
        [MODEL % "medqa", "finetune.instructions=instructions.json"],
        "finetune.instructions: {folder}/instructions.json: 18 of 19 instructions; the first that "
        "is missing is 'medmcqa_cot'; take the layout of "
        "epfLLM/meditron:evaluation/instructions.json, or remove `instructions`",
    ),
    "a template token missing from the vocabulary": (
        questions(train=MEDQA),
        [MODEL % "medqa", "finetune.added_tokens=['<|im_start|>']"],
        "finetune.added_tokens: the tokenizer has no <|im_end|>, a token of the template; list it",
    ),
    "a subject that lm-eval has no task for": (
        lambda folder: (folder / "botany_test.csv").write_text("Which?,a,b,c,d,B\n"),
        [QUIZ.replace("test.jsonl", "botany_test.csv") % ("mmlu", ", modes: [harness]")],
        "(quiz): lm-eval has no task for the subject 'botany'; remove `harness` from `modes`, or "
        "name those to score in `subjects`",
    ),
    "shots without train records": (
        questions(test=MEDQA),
        [QUIZ % ("medqa", ", shots: 3")],
        "(quiz): {folder}/test.jsonl: `shots` is 3, the benchmark has 0 train records; set `shots` "
        "to 0, or add train records to the benchmark",
    ),
    "a context longer than the model": (
        questions(test=MEDQA),
        ["evaluate.seq_length=4096"],
        "--set evaluate.seq_length=4096: evaluate.seq_length: 4096 is more than the 128 tokens of "
        "the longest sequence in training",
    ),
    "an answer longer than the model": (
        questions(test=MEDQA),
        [*EXPORTED, "evaluate.generate.max_tokens=4096"],
        "evaluate.generate.max_tokens: 4096 tokens of an answer leave no room for a question of "
        "quiz in the 128 that the model reads; set it lower",
    ),
    "MedMCQA counted from 0": (
        questions(test=medmcqa(1) | {"cop": 0}),
        [QUIZ % ("medmcqa", "")],
        "(quiz): {folder}/test.jsonl:1: `cop` is 0; it counts from 1 to 4: set `first_answer` to 0 "
        "for a file that counts from 0; the test split has no answers",
    ),
    "MedMCQA to learn from, counted from 0": (
        questions(train=medmcqa(1) | {"cop": 0}),
        [MODEL % "medmcqa"],
        "finetune.models[0].data: {folder}/train.jsonl:1: `cop` is 0; it counts from 1 to 4",
    ),
    "a judge without a tokenizer": (
        judged,
        [*HEALTH, "evaluate.judge={folder: blind}"],
        "evaluate.judge.folder: {folder}/blind has no tokenizer.json; name the folder of a model",
    ),
    "a judge that is not there": (
        judged,
        [*HEALTH, "evaluate.judge={folder: none}"],
        "evaluate.judge.folder: {folder}/none: no such file or folder",
    ),
    "grades of people of another form": (
        judged,
        [*HEALTH, "evaluate.judge={folder: wise, grades: grades.jsonl}"],
        "evaluate.judge.grades: {folder}/grades.jsonl:1: `grade` of a criterion is not true or "
        "false",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_questions_that_cannot_be_used_are_refused_before_an_allocation(
    case: str, meditron: Bench
) -> None:
    write, settings, message = REFUSED[case]
    write(meditron.folder)

    refused = meditron.submit(*words_of(settings))

    errors = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message.replace("{folder}", str(meditron.folder)) in errors[0]
    assert refused.exit_code == 2
    assert not meditron.runs.exists()
    assert meditron.scheduler.submitted == []


def test_check_reads_the_questions_that_are_there_without_a_cluster(meditron: Bench) -> None:
    questions(test=OUTSIDE, train=OUTSIDE)(meditron.folder)
    config = meditron.folder / "own.yaml"
    config.write_text(
        "evaluate: {benchmarks: [{name: quiz, kind: medqa, path: test.jsonl}, "
        "{name: gone, path: gone.jsonl}]}\n"
        "finetune: {models: [{name: medqa, data: [{path: train.jsonl}]}], instructions: own.yaml}\n"
    )
    other = "`answer_idx` is 'F'; it is a letter from A to E"

    checked = meditron("check", str(config))

    assert checked.exit_code == 2
    assert checked.stdout == ""
    assert checked.stderr.splitlines() == [
        f"warning: not checked: own.yaml:1:89: evaluate.benchmarks[1].path: "
        f"{meditron.folder}/gone.jsonl: no such file or folder",
        f"error: finetune.models[0].data: {meditron.folder}/train.jsonl:1: {other}",
        f"error: evaluate.benchmarks (quiz): {meditron.folder}/test.jsonl:1: {other}",
        f"error: finetune.instructions: {config}: not JSON (Expecting value: line 1 column 1 (char "
        "0)); check `instructions`",
    ]


def test_no_likelihoods_of_a_thinking_model(meditron: Bench) -> None:
    base = meditron.folder / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"")
    (base / "chat_template.jinja").write_text("{% if add_generation_prompt %}<think>{% endif %}")

    refused = meditron.submit("--set", f"model.weights={base}", stage="evaluate")

    assert refused.exit_code == 2
    assert refused.stderr.startswith(
        f"error: evaluate.benchmarks: the base model in {base} was taught to reason before it "
    )
    assert not meditron.runs.exists()


def export(meditron: Bench, rows: int) -> RunDir:
    """Submit the pipeline, and return its run with an exported folder."""
    questions(test=MEDQA)(meditron.folder)
    assert meditron.submit(*GENERATING).exit_code == 0
    folder = meditron.run().path("export")
    folder.mkdir()
    settings = {"vocab_size": rows, "max_position_embeddings": 64, "eos_token_id": 0}
    (folder / "config.json").write_text(json.dumps(settings))
    shutil.copy(meditron.folder / "tokenizer.json", folder)
    record = {"step": 7, "digests": {"manifest of the checkpoint": "5e"}, "files": {}}
    write_json(folder / "meditron.json", record)
    meditron.scheduler.submitted.clear()
    return meditron.run()


def test_an_export_whose_ids_exceed_its_rows_answers_nothing(meditron: Bench) -> None:
    run = export(meditron, rows=2)

    refused = meditron.submit(*GENERATING, stage="generate")

    assert refused.exit_code == 2
    assert refused.stderr.startswith(f"error: {run.path('export')}: its largest token id is ")
    assert "its embedding has 2 rows" in refused.stderr
    assert meditron.scheduler.submitted == []


@pytest.mark.parametrize("stage", ["generate", "pipeline"])
def test_answers_to_another_prompt_are_not_continued(stage: str, meditron: Bench) -> None:
    path = meditron.folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"] |= {"type": "WordLevel", "unk_token": "<EOD>"}
    path.write_text(json.dumps(content))
    run = export(meditron, rows=64)
    task = specs.read_task(run, "generate", 0)
    assert task
    assert isinstance(task.spec, GenerateSpec)
    model, encoder = ExportedModel.read(run.path("export")), Encoder.load(task.spec.tokenizer)
    work = generation_work.plan(run, task.spec, model, encoder)
    (key,) = work.expected
    work.store.append([Answer(*key, "another prompt's digest", {})], 0.1)

    refused = meditron.submit(*GENERATING, stage=stage)

    assert refused.exit_code == 2
    assert refused.stderr == (
        f"error: {work.store.path}: the answer to {key.id} was given to another prompt than this "
        "one's\nhint: remove the file, so that its items are answered again\n"
    )
    assert meditron.scheduler.submitted == []
    work.store.path.unlink()
    work.store.append([Answer(*key, work.expected[key], {})], 0.1)
    assert meditron.submit(*GENERATING, stage=stage).exit_code == 0


def test_answers_to_another_conversation_are_not_judged(meditron: Bench) -> None:
    judge = meditron.folder / "judge"
    judge.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (judge / name).write_text("{}")
    rubric = [{"criterion": "Asks since when", "points": 3, "tags": []}]
    turns = [{"role": "user", "content": "Is it bad?"}]
    questions(health={"prompt_id": "p", "prompt": turns, "rubrics": rubric})(meditron.folder)
    words = words_of(
        [
            "export.step=last",
            "evaluate.benchmarks=[{name: health, kind: healthbench, path: health.jsonl}]",
            f"evaluate.judge.folder={judge}",
            "evaluate.generate.max_tokens=9",
        ]
    )
    assert meditron.submit(*words).exit_code == 0
    meditron.scheduler.submitted.clear()
    answers = meditron.run().path("evaluations/health/last/answers/answers.jsonl")
    answers.parent.mkdir(parents=True)
    other = {"id": "p", "theme": "", "prompt": "Is it good?", "text": "No.", "finish": "stop"}
    write_lines(answers, other)

    refused = meditron.submit(*words, stage="judge")

    assert refused.exit_code == 2
    assert refused.stderr == (
        f"error: {answers}: p was asked something else than in the benchmark\n"
        "hint: submit the stage `generate` first\n"
    )
    assert meditron.scheduler.submitted == []
