"""Read benchmark files in their published layouts. Standard library only.

Prompts follow the released MEDITRON evaluation (epfLLM/meditron:evaluation/benchmarks.py): an exam
question lists its options under letters and the model is scored on the letters; PubMedQA gives the
abstract, then the question, and the model is scored on yes, no and maybe. Our own ``mcq`` files
have no letters: the model is scored on the text of the choices, which is informative even for
models too small to have learnt to answer by letter.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from jobs.contract.corpus.benchmark_files import files
from jobs.contract.errors import TaskError
from jobs.contract.files import parse_json
from jobs.contract.units import plural

LETTERS = "ABCDEFGHIJ"
ANSWER_CUE = "\nThe answer is:"
"""The end of a prompt, as in the released evaluation."""


@dataclass(frozen=True)
class Question:
    """One question with its prompt and its choices."""

    id: str
    prompt: str
    """All text before the answer, without a trailing space."""
    choices: tuple[str, ...]
    """The choices as published."""
    answer: int
    """Index of the right choice."""
    split: str
    """``test``, or ``train`` for a question that may serve as a worked example."""
    subject: str
    lettered: bool
    """True if the prompt lists the choices under letters."""
    stem: str
    """What is asked, as published, with the texts it is about, one per line; without choices."""

    @property
    def continuations(self) -> tuple[str, ...]:
        """Return the texts to score, one per choice: its letter if lettered, else its text."""
        return tuple(LETTERS[: len(self.choices)]) if self.lettered else self.choices


def read(path: Path, kind: str) -> list[Question]:
    """Return all questions of a benchmark, in the order of its file.

    Args:
        path: a file; for ``pubmedqa`` also the folder of ``ori_pqal.json``, for ``mmlu`` also a
            folder of ``*_test.csv`` files, with ``*_dev.csv`` files as worked examples.
        kind: ``mcq``, ``pubmedqa``, ``mmlu`` or ``medmcqa``.

    Raises:
        TaskError: unknown kind, file missing or unreadable, a record that breaks the layout (the
            message names file and line), a repeated id, or no test question.
    """
    if kind not in READERS:
        raise TaskError(
            f"{path}: unknown kind of benchmark {kind!r}", f"kinds are {', '.join(READERS)}"
        )
    try:
        questions = list(READERS[kind](path))
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}: not UTF-8 ({error.reason})", "convert the file first") from error
    except OSError as error:
        raise TaskError(
            f"{error.filename or path}: {error.strerror}", "check `path` of the benchmark"
        ) from error
    refuse_repeated_ids(path, questions)
    if not any(question.split == "test" for question in questions):
        raise TaskError(f"{path}: no test question", f"is this a {kind} file?")
    return questions


def require_examples(path: Path | str, questions: Sequence[Question], shots: int) -> list[Question]:
    """Return the questions that may serve as worked examples.

    Raises:
        TaskError: they are fewer than ``shots``.
    """
    train = [question for question in questions if question.split == "train"]
    if len(train) < shots:
        raise TaskError(
            f"{path}: `shots` is {shots}, the benchmark has {plural(len(train), 'train record')}",
            "set `shots` to 0, or add train records to the benchmark",
        )
    return train


def stratified(questions: Sequence[Question], size: int, seed: int) -> list[Question]:
    """Return a sample in the order of its file, in which each answer has its share as far as whole
    questions allow: published files are sorted by answer or by subject. A seed gives the same
    questions on every machine.
    """
    groups: dict[int, list[int]] = {}
    for place, question in enumerate(questions):
        groups.setdefault(question.answer, []).append(place)
    draw = random.Random(seed)
    places = []
    for group in (groups[answer] for answer in sorted(groups)):
        draw.shuffle(group)
        # Of each group, the n-th of m comes at (n + ½)/m: a prefix has each answer's share.
        places += [((n + 0.5) / len(group), place) for n, place in enumerate(group)]
    return [questions[place] for place in sorted(place for _, place in sorted(places)[:size])]


def refuse_repeated_ids(path: Path, questions: list[Question]) -> None:
    """Refuse questions with equal ids, which identify the records of results."""
    ids: set[str] = set()
    for question in questions:
        if question.id in ids:
            refuse(path, f"the id {question.id!r} occurs twice")
        ids.add(question.id)


def refuse(where: Path | str, what: str, hint: str = "") -> NoReturn:
    raise TaskError(f"{where}: {what}", hint or "correct the file, or remove the benchmark")


# --- our own JSONL -----------------------------------------------------------------------------


def read_mcq(path: Path) -> Iterator[Question]:
    """Read ``{"id", "question", "choices": […], "answer": index, "subject"?, "split"?}`` lines."""
    for where, record in json_lines(path):
        question = text_field(where, record, "question")
        split = record.get("split", "test")
        if split not in ("test", "train"):
            refuse(where, f"`split` is {split!r}", "it is `test` or `train`")
        choices = choices_field(where, record)
        yield Question(
            id=text_field(where, record, "id"),
            prompt=open_prompt(question),
            choices=choices,
            answer=answer_field(where, record, len(choices)),
            split=split,
            subject=str(record.get("subject", "")),
            lettered=False,
            stem=question,
        )


def open_prompt(question: str) -> str:
    """Return a question with the cue for an answer, or an unfinished sentence as it is."""
    question = question.strip()
    return f"Question: {question}{ANSWER_CUE}" if question.endswith("?") else question


def choices_field(where: str, record: dict[str, Any]) -> tuple[str, ...]:
    choices = record.get("choices")
    if not isinstance(choices, list) or not all(isinstance(item, str) for item in choices):
        refuse(where, "`choices` is not a list of strings")
    texts = tuple(item.strip() for item in choices)
    if len(texts) < 2:
        refuse(where, f"{plural(len(texts), 'choice')}; a question needs at least two")
    if not all(texts) or len(set(texts)) < len(texts):
        refuse(where, "a choice is empty or occurs twice")
    return texts


def answer_field(where: str, record: dict[str, Any], count: int) -> int:
    answer = record.get("answer")
    if type(answer) is not int or not 0 <= answer < count:
        refuse(where, f"`answer` is {answer!r}", f"it is an index from 0 to {count - 1}")
    return answer


# --- exams under letters -----------------------------------------------------------------------


def read_mmlu(path: Path) -> Iterator[Question]:
    """Read CSV of ``question, A, B, C, D, letter``, without a header."""
    paths = files(path, "mmlu")
    if not paths:
        refuse(path, "no *_test.csv in this folder")
    for file in paths:
        split = "train" if file.stem.endswith("_dev") else "test"
        subject = file.stem.removesuffix("_test").removesuffix("_dev")
        for row, (where, cells) in enumerate(csv_rows(file)):
            yield mmlu_question(where, cells, f"{file.stem}-{row}", subject, split)


def csv_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield ``(where, cells)`` per row; ``where`` has the line on which the row ends."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)
        try:
            for cells in rows:
                yield f"{path}:{rows.line_num}", cells
        except csv.Error as error:
            refuse(f"{path}:{rows.line_num}", f"not CSV ({error})")


def mmlu_question(where: str, cells: list[str], name: str, subject: str, split: str) -> Question:
    if len(cells) != 6:
        refuse(where, f"{len(cells)} cells", "a row is question, A, B, C, D, letter of the answer")
    question, *choices, letter = (cell.strip() for cell in cells)
    if not question or not all(choices):
        refuse(where, "the question or a choice is empty")
    if letter not in set(LETTERS[:4]):
        refuse(
            where, f"the answer is {letter!r}", "it is one of A, B, C, D; the file has no header"
        )
    return Question(
        id=name,
        prompt=exam_prompt(question, choices),
        choices=tuple(choices),
        answer=LETTERS.index(letter),
        split=split,
        subject=subject,
        lettered=True,
        stem=question,
    )


def read_medmcqa(path: Path) -> Iterator[Question]:
    """Read MedMCQA's JSONL, in which ``cop`` counts from 1; choices may repeat, as published."""
    for where, record in json_lines(path):
        question = text_field(where, record, "question")
        choices = [text_field(where, record, f"op{letter}") for letter in "abcd"]
        right = record.get("cop")
        if type(right) is not int or not 1 <= right <= 4:
            refuse(
                where,
                f"`cop` is {right!r}",
                "it counts from 1 to 4 in MedMCQA's own files; mirrors that count from 0 and the "
                "test split, which has no answers, are not read",
            )
        yield Question(
            id=text_field(where, record, "id"),
            prompt=exam_prompt(question, choices),
            choices=tuple(choices),
            answer=right - 1,
            split="test",
            subject=str(record.get("subject_name") or ""),
            lettered=True,
            stem=question,
        )


def exam_prompt(question: str, choices: list[str]) -> str:
    """Return the released evaluation's prompt: question, ``?`` if it lacks an end, options, cue."""
    if not question.endswith(("?", ".")):
        question += "?"
    options = "\n".join(
        f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)
    )
    return f"Question: {question}\n\nOptions:\n{options}{ANSWER_CUE}"


# --- PubMedQA ----------------------------------------------------------------------------------

PUBMEDQA_CHOICES = ("yes", "no", "maybe")


def read_pubmedqa(path: Path) -> Iterator[Question]:
    """Read PQA-L: ids of ``test_ground_truth.json`` are ``test``, in its order; others ``train``.

    A prompt has the contexts, one per line, then the bare question, as in the released evaluation.
    """
    source, truth = files(path, "pubmedqa")
    records, test = json_object(source), json_object(truth)
    for name in dict.fromkeys([*test, *records]):
        if not isinstance(records.get(name), dict):
            refuse(source, f"no record of {name}", f"{source.name} and {truth.name} go together")
        if name in test and records[name].get("final_decision") != test[name]:
            refuse(truth, f"{name} has another answer in {source.name}", "take both from one place")
        split = "test" if name in test else "train"
        yield pubmedqa_question(f"{source}: {name}", name, records[name], split)


def pubmedqa_question(where: str, name: str, record: dict[str, Any], split: str) -> Question:
    contexts = record.get("CONTEXTS")
    if not isinstance(contexts, list) or not all(isinstance(item, str) for item in contexts):
        refuse(where, "`CONTEXTS` is not a list of strings")
    answer = record.get("final_decision")
    if answer not in PUBMEDQA_CHOICES:
        refuse(where, f"`final_decision` is {answer!r}", "it is yes, no or maybe")
    stem = "\n".join([*contexts, text_field(where, record, "QUESTION")])
    return Question(
        id=name,
        prompt=stem + ANSWER_CUE,
        choices=PUBMEDQA_CHOICES,
        answer=PUBMEDQA_CHOICES.index(answer),
        split=split,
        subject="",
        lettered=False,
        stem=stem,
    )


def json_object(path: Path) -> dict[str, Any]:
    """Read a file of one JSON object, keyed by PMID."""
    text = path.read_text(encoding="utf-8")
    try:
        value = parse_json(text)
    except ValueError as error:
        refuse(path, f"not JSON ({error})")
    if not isinstance(value, dict):
        refuse(path, "not one JSON object keyed by PMID")
    return value


# --- shared by the readers ---------------------------------------------------------------------


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``(file:line, object)`` per line that is not blank."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"{path}:{number}", json_line(f"{path}:{number}", line)


def json_line(where: str, line: str) -> dict[str, Any]:
    try:
        value = parse_json(line)
    except ValueError as error:
        refuse(where, f"not JSON ({error})")
    if not isinstance(value, dict):
        refuse(where, "not a JSON object")
    return value


def text_field(where: str, record: dict[str, Any], key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        refuse(where, f"`{key}` is missing, empty or not a string")
    return value.strip()


READERS: dict[str, Callable[[Path], Iterator[Question]]] = {
    "mcq": read_mcq,
    "pubmedqa": read_pubmedqa,
    "mmlu": read_mmlu,
    "medmcqa": read_medmcqa,
}
