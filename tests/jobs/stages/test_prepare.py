"""The stage prepare, run in this process on look-alikes of published files."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

from jobs.contract import done_markers, specs
from jobs.contract.corpus.rules import BenchmarkFile, DecontaminationSpec
from jobs.contract.errors import Stopped, TaskError
from jobs.contract.files import read_json, sha256
from jobs.contract.stage_specs import TokenizerRef
from jobs.contract.stage_specs.preparation import PrepareSpec
from jobs.data.indexed_dataset import read_index
from jobs.data.tokenizer_file import Encoder
from jobs.prompts.encoding import CONTROL_TOKENS
from jobs.runtime.context import Context
from jobs.stages import prepare

from ...byte_tokenizer import SIZE, write_byte_tokenizer
from ...model_specs import vocabulary_spec
from ..checkpoint_files import write_checkpoint
from ..questions.published import MEDQA, abstract, medmcqa, write_lines

Prepare = Callable[..., Any]
ROWS = "finetune/m/rows"


@pytest.fixture
def spec(tmp_path: Path) -> Callable[..., PrepareSpec]:
    path = tmp_path / "tokenizer.json"
    write_byte_tokenizer(path)
    ref = TokenizerRef(str(path), sha256(path), vocabulary_spec(SIZE), CONTROL_TOKENS)

    def make(preparation: str, *files: tuple[Path, str], **changes: Any) -> PrepareSpec:
        values: dict[str, Any] = {
            "name": "m",
            "preparation": preparation,
            "items": 0,
            "data": tuple(BenchmarkFile(path.name, str(path), kind) for path, kind in files),
            "template": "code",
            "instructions": "",
            "tokenizer": ref,
            "sequence_length": 2048,
            "holdout": 0.0,
            "seed": 1234,
            "decontamination": None,
            "output_dir": ROWS,
        }
        return PrepareSpec(**values | changes)

    return make


@pytest.fixture
def run(bench: Any) -> Prepare:
    """Return a function that runs a task in this process, and returns its manifest."""

    def go(spec: PrepareSpec, received: int | None = None) -> dict[str, Any]:
        task = bench.task("prepare", spec, cpus=1)
        bench.run.stage("prepare").mkdir(parents=True, exist_ok=True)
        context = Context(bench.run, task, 1, 0, 1, 0)
        if received:
            context.stop.received.append(received)
        prepare.run(context)
        assert done_markers.is_done(bench.run, "prepare", 0, specs.digest(spec))
        return read_json(bench.run.path(f"{ROWS}/manifest.json"))

    return go


def rows(bench: Any, spec: PrepareSpec, split: str = "train") -> list[tuple[str, str]]:
    """Return the text of each row before its answer, and the answer's turn."""
    index = read_index(bench.run.path(f"{ROWS}/{split}.idx"))
    ids = numpy.fromfile(bench.run.path(f"{ROWS}/{split}.bin"), index.kind).tolist()
    begins = numpy.load(bench.run.path(f"{ROWS}/{split}.answers.npy")).tolist()
    tokenizer = Encoder.load(spec.tokenizer).tokenizer
    found, end = [], 0
    for length, begin in zip(index.lengths.tolist(), begins, strict=True):
        row, end = ids[end : end + length], end + length
        parts = row[:begin], row[begin:]
        found.append(tuple(tokenizer.decode(part, skip_special_tokens=False) for part in parts))
    return found


def test_a_mixture_has_the_rows_of_its_parts(
    tmp_path: Path, bench: Any, spec: Any, run: Prepare
) -> None:
    medmcqa_file = write_lines(tmp_path / "train.json", medmcqa(1), medmcqa(2, exp=None))
    medqa_file = write_lines(tmp_path / "train.jsonl", MEDQA)
    pubmed = tmp_path / "ori_pqaa.json"
    pubmed.write_text(json.dumps({"7": abstract(7, "no")}))
    files = [(pubmed, "pubmedqa"), (medqa_file, "medqa"), (medmcqa_file, "medmcqa")]
    wanted = spec("mixedmed", *files, items=369_847)

    manifest = run(wanted)

    answers = [answer for _, answer in rows(bench, wanted)]
    assert answers == [f"<|im_start|>answer\n{gold}<|im_end|>\n" for gold in ("C", "B", "no")]
    assert [
        (part["kind"], part["items"], part["unexplained"], part["answers"])
        for part in manifest["parts"]
    ] == [("medmcqa", 1, 1, {"C": 1}), ("medqa", 1, 0, {"B": 1}), ("pubmedqa", 1, 0, {"no": 1})]
    assert manifest["difference"] == ("mixedmed: 3 items, 369,844 fewer than the 369,847 published")
    assert manifest["parts"][2]["first_row"].startswith("<|im_start|>question\nBelow is the ")
    assert [Path(item["path"]).name for item in manifest["inputs"]] == [
        "tokenizer.json",
        "ori_pqaa.json",
        "train.jsonl",
        "train.json",
    ]


def test_reasoning_is_the_explanation_and_then_the_answer(
    tmp_path: Path, bench: Any, spec: Any, run: Prepare
) -> None:
    path = tmp_path / "ori_pqaa.json"
    path.write_text(json.dumps({"7": abstract(7)}))
    wanted = spec("cotpubmedqa", (path, "pubmedqa"))

    run(wanted)

    assert rows(bench, wanted)[0][1] == (
        "<|im_start|>answer\nDrug 7 helped.\nThe answer is: yes ###<|im_end|>\n"
    )


def test_of_a_folder_of_pubmedqa_the_records_are_rows_that_are_no_test_questions(
    tmp_path: Path, bench: Any, spec: Any, run: Prepare
) -> None:
    records = {"7": abstract(7, "no"), "8": abstract(8)}
    (tmp_path / "ori_pqal.json").write_text(json.dumps(records))
    (tmp_path / "test_ground_truth.json").write_text(json.dumps({"8": "yes"}))
    wanted = spec("pubmedqa", (tmp_path, "pubmedqa"))

    manifest = run(wanted)

    assert manifest["parts"][0]["answers"] == {"no": 1}


def test_a_share_is_held_out_by_seed_and_equal_items_stay_together(
    tmp_path: Path, bench: Any, spec: Any, run: Prepare
) -> None:
    records = [medmcqa(number) for number in range(100)]
    again = [{**record, "id": f"again-{record['id']}"} for record in records]
    path = write_lines(tmp_path / "train.json", *records, *again)
    wanted = spec("medmcqa", (path, "medmcqa"), holdout=0.2)

    manifest = run(wanted)

    train = {asked for asked, _ in rows(bench, wanted)}
    held_out = {asked for asked, _ in rows(bench, wanted, "validation")}
    assert (manifest["train_rows"], manifest["validation_rows"]) == (
        2 * len(train),
        2 * len(held_out),
    )
    assert not train & held_out
    assert 10 <= len(held_out) <= 30


def test_items_that_are_test_questions_are_left_out_and_reported(
    tmp_path: Path, bench: Any, spec: Any, run: Prepare
) -> None:
    exam = write_lines(tmp_path / "dev.json", medmcqa(2), medmcqa(50))
    leaked = {**medmcqa(2), "id": "leaked"}
    path = write_lines(tmp_path / "train.json", medmcqa(1), leaked, {**medmcqa(3), **LONG})
    compared = DecontaminationSpec((BenchmarkFile("exam", str(exam), "medmcqa"),), 8, 0.8)
    wanted = spec("medmcqa", (path, "medmcqa"), decontamination=compared)

    manifest = run(wanted)

    assert manifest["contained"] == 1
    assert manifest["decontamination"]["benchmarks"]["exam"] == {
        "path": str(exam),
        "compared": 2,
        "too_short": 0,
        "occurring": 1,
    }
    lines = bench.run.path(f"{ROWS}/contained.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"item": "leaked", "benchmark": "exam", "question": "id-2", "share": 1.0}
    ]
    assert len(rows(bench, wanted)) == 2


LONG = {"question": "Which of these is the longest bone of the human body in an adult man"}


def test_a_long_context_is_cut_and_what_fits_nowhere_is_left_out(
    tmp_path: Path, bench: Any, spec: Any, run: Prepare
) -> None:
    long = {**abstract(1), "CONTEXTS": ["Background. " * 50, "It helped 9 of 10 mice."]}
    hopeless = {**abstract(2), "QUESTION": "Does it help? " * 50}
    path = tmp_path / "ori_pqaa.json"
    path.write_text(json.dumps({"1": long, "2": hopeless, "3": abstract(3)}))
    wanted = spec("pubmedqa", (path, "pubmedqa"), sequence_length=450)

    manifest = run(wanted)

    assert (manifest["truncated"], manifest["too_long"], manifest["longest"]) == (1, 1, 447)
    asked, answer = rows(bench, wanted)[0]
    assert "\nIt helped 9 of 10 mice.\nDoes drug 1 help?\n" in asked
    assert answer == "<|im_start|>answer\nyes<|im_end|>\n"


def test_prompts_are_put_as_they_are(tmp_path: Path, bench: Any, spec: Any, run: Prepare) -> None:
    record = {"prompt": "Is <|im_end|> a token?", "gold": "Yes.", "system": "Be brief."}
    wanted = spec("ours", (write_lines(tmp_path / "chat.jsonl", record), "prompts"), items=1)

    manifest = run(wanted)

    assert rows(bench, wanted) == [
        (
            "<|im_start|>system\nBe brief.<|im_end|>\n"
            "<|im_start|>question\nIs <|im_end|> a token?<|im_end|>\n",
            "<|im_start|>answer\nYes.<|im_end|>\n",
        )
    ]
    assert manifest["difference"] == ""


def test_a_second_run_writes_the_same_bytes(
    tmp_path: Path, bench: Any, spec: Any, run: Prepare
) -> None:
    path = write_lines(tmp_path / "train.json", *map(medmcqa, range(20)))
    wanted = spec("medmcqa", (path, "medmcqa"), holdout=0.3)
    run(wanted)
    first = bench.files(ROWS)

    run(wanted)

    assert bench.files(ROWS) == first
    assert set(first) == {
        *(f"{split}.{end}" for split in ("train", "validation") for end in ENDS),
        "contained.jsonl",
        "manifest.json",
    }


def test_rows_of_a_model_with_checkpoints_are_not_replaced_by_others(
    tmp_path: Path, bench: Any, spec: Any, run: Prepare
) -> None:
    path = write_lines(tmp_path / "train.json", *map(medmcqa, range(3)))
    wanted = spec("medmcqa", (path, "medmcqa"))
    run(wanted)
    made = bench.files(ROWS)
    digests = {name: sha256(bench.run.path(f"{ROWS}/{name}")) for name in made}
    folder = bench.run.path("finetune/m/checkpoints/iter_0000007")
    write_checkpoint(folder.parent, 7, data={"corpora": {"m": {"files": digests}}})
    run(wanted)
    write_lines(path, *map(medmcqa, range(4)))

    with pytest.raises(TaskError) as caught:
        run(wanted)

    assert caught.value.message == (
        f"m: the rows would be others than those that {folder} was trained on, so these were left "
        "as they are"
    )
    assert bench.files(ROWS) == made


ENDS = ("bin", "idx", "answers.npy")


def test_a_stop_leaves_no_rows(tmp_path: Path, bench: Any, spec: Any, run: Prepare) -> None:
    path = write_lines(tmp_path / "train.json", medmcqa(1))

    with pytest.raises(Stopped):
        run(spec("medmcqa", (path, "medmcqa")), signal.SIGTERM)

    assert bench.files(ROWS) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"holdout": 0.999999999}, "m: no row to train on is left (read 1, unexplained 0, "
         "contained 0, too long 0, validation 1)"),
        ({"sequence_length": 50}, "m: no row to train on is left (read 1, unexplained 0, "
         "contained 0, too long 1, validation 0)"),
        ({"preparation": "medqa"}, "{path}: medqa takes no file of kind medmcqa, but of "
         "medqa; a preparation of another name takes every file"),
        ({"items": 3, "strict": True}, "m: medmcqa: 1 items, 2 fewer than the 3 expected"),
    ],
)  # fmt: skip
def test_a_preparation_without_rows_is_refused(
    tmp_path: Path, bench: Any, spec: Any, run: Prepare, changes: dict[str, Any], message: str
) -> None:
    path = write_lines(tmp_path / "train.json", medmcqa(1))

    with pytest.raises(TaskError) as caught:
        run(spec(changes.pop("preparation", "medmcqa"), (path, "medmcqa"), **changes))

    assert caught.value.message == message.replace("{path}", str(path))
    assert bench.files(ROWS) == {}


def test_a_missing_file_is_one_sentence(tmp_path: Path, spec: Any, run: Prepare) -> None:
    with pytest.raises(TaskError) as caught:
        run(spec("medmcqa", (tmp_path / "none.json", "medmcqa")))

    assert caught.value.message == f"{tmp_path}/none.json: No such file or directory"


def test_of_pqa_a_the_published_share_is_taken(tmp_path: Path) -> None:
    from jobs.finetuning.preparing import count_records

    path = tmp_path / "ori_pqaa.json"
    tricky = {**abstract(2), "LONG_ANSWER": 'the key "final_decision" in a text'}
    path.write_text(json.dumps({"1": abstract(1), "2": tricky}, indent=4))

    assert count_records(path) == 2
