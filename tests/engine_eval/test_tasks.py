"""Several tasks that share a score: the same bytes for any number of them, whatever is killed."""

from __future__ import annotations

import dataclasses
import functools
import random
import shutil
import signal
from pathlib import Path

import pytest

from jobs.contract import specs
from jobs.contract.files import read_json, write_json
from jobs.data.tokenizer_file import Encoder
from jobs.evaluation import likelihood_items, likelihood_results
from jobs.evaluation.likelihood_items import prompts_of
from jobs.evaluation.likelihood_work import Recorder, Work
from jobs.evaluation.protocol import Likelihood
from jobs.questions import readers
from jobs.runtime.context import Context

from ..ranks import wait_until

encoder_of = functools.cache(Encoder.load)


class Killed(BaseException):
    """The task got a SIGKILL: nothing of it runs any more."""


def contexts(evaluation, parts: int, **fields) -> list[Context]:
    """Return a context for each of the tasks that share a score in a new run."""
    made = evaluation(parts=parts, **fields)
    tasks = [
        dataclasses.replace(
            made.task, index=part, spec=dataclasses.replace(made.task.spec, part=part)
        )
        for part in range(parts)
    ]
    for task in tasks:
        write_json(made.run.spec("evaluate", task.index), specs.to_json(task))
    return [Context(made.run, task, 0, 0, 1, 0) for task in tasks]


def planned(context: Context, record) -> Work:
    spec = context.task.spec
    prompts = prompts_of(spec)
    asked = list(likelihood_items.ask(readers.read(Path(spec.path), spec.kind), spec, prompts))
    return Work.plan(context, asked, prompts, encoder_of(spec.tokenizer), record)


def scored_together(work: Work, batch: list[int], item) -> list[Likelihood]:
    """Return likelihoods that differ with everything that is in the batch."""
    draw = random.Random(f"{[work.items[place].digest for place in batch]} {item.digest}")
    return [Likelihood(-draw.random() * 9, False) for _ in item.options]


def work_on(context: Context, record, draw: random.Random | None) -> None:
    """Do a task's work; with ``draw``, die somewhere, or before or after the results."""
    work = planned(context, record)
    while numbers := work.to_do(context):
        for number in numbers:
            if draw and draw.random() < 0.3:
                raise Killed
            with Recorder(context, work.store) as recorder:
                batch = work.batches[number]
                items = [work.items[place] for place in batch]
                found = [scored_together(work, batch, item) for item in items]
                recorder.add(work.answers(items, found))
    if draw and draw.random() < 0.2:
        raise Killed
    likelihood_results.finish(context, context.path(context.task.spec.path).parent, record, work)


def run_all(tasks: list[Context], record, draw: random.Random) -> Path:
    """Run tasks in any order until all have ended; each death tears the file of answers."""
    folder = tasks[0].path(tasks[0].task.spec.output_dir)
    left = list(tasks)
    while left:
        context = draw.choice(left)
        try:
            work_on(context, record, draw)
        except Killed:
            for path in folder.glob("answers-*.jsonl"):
                path.write_bytes(path.read_bytes()[: -draw.randint(1, 40)])
        else:
            left.remove(context)
    return folder


@pytest.fixture(scope="module")
def record(made):
    from jobs.checkpoints import manifest

    return manifest.read(made.folder / "iter_0000004")


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("medmcqa")
    (path / "meditron.json").write_text("a record that the done marker names")
    lines = [
        f'{{"id": "q{n}", "question": "What is {n}?", "opa": "a{n}", "opb": "b", "opc": "c", '
        f'"opd": "d", "cop": {n % 4 + 1}}}\n'
        for n in range(23)
    ]
    (path / "questions.jsonl").write_text("".join(lines))
    return str(path / "questions.jsonl")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("parts", [1, 3, 8])
def test_any_number_of_tasks_killed_anywhere_gives_the_same_bytes(
    evaluation, record, questions, parts, seed
):
    fields = {"path": questions, "kind": "medmcqa", "permute": 2, "batch_size": 5}
    (alone,) = contexts(evaluation, 1, **fields)
    work_on(alone, record, None)
    tasks = contexts(evaluation, parts, **fields)

    folder = run_all(tasks, record, random.Random(f"{parts} {seed}"))

    expected = alone.path(alone.task.spec.output_dir)
    assert (folder / "questions.jsonl").read_bytes() == (expected / "questions.jsonl").read_bytes()
    found, wanted = (read_json(path / "results.json") for path in (folder, expected))
    assert {**found, "seconds": 0} == {**wanted, "seconds": 0}
    assert found["n"] == 23


def test_tasks_that_end_at_once_write_the_same_bytes(evaluation, record, questions):
    tasks = contexts(evaluation, 2, path=questions, kind="medmcqa")
    folder = tasks[0].path(tasks[0].task.spec.output_dir)
    for context in tasks:
        work_on(context, record, None)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}

    likelihood_results.finish(
        tasks[0], tasks[0].path(questions).parent, record, planned(tasks[0], record)
    )

    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    assert "results.json" in first


def test_a_task_answers_for_one_that_has_ended_and_whose_answers_are_gone(
    evaluation, record, questions
):
    tasks = contexts(evaluation, 3, path=questions, kind="medmcqa")
    folder = tasks[0].path(tasks[0].task.spec.output_dir)
    for context in tasks[:2]:
        work_on(context, record, None)
    for path in folder.iterdir():
        path.unlink()

    work_on(tasks[2], record, None)

    assert read_json(folder / "results.json")["n"] == 23


def test_answers_of_another_checkpoint_or_other_questions_are_not_read(
    evaluation, record, questions, tmp_path
):
    (context,) = contexts(evaluation, 1, path=questions, kind="medmcqa")
    work_on(context, record, None)
    other = dataclasses.replace(record, manifest="0" * 64)
    changed = tmp_path / "questions.jsonl"
    changed.write_text(Path(questions).read_text().replace("What is 7?", "What is 8?"))
    spec = dataclasses.replace(context.task.spec, path=str(changed))
    elsewhere = dataclasses.replace(context, task=dataclasses.replace(context.task, spec=spec))

    assert planned(context, record).to_do(context) == []
    assert len(planned(context, other).to_do(context)) == len(planned(context, other).batches)
    assert planned(elsewhere, record).to_do(elsewhere) != []


@pytest.mark.engine
def test_a_killed_task_continues_and_three_give_the_likelihoods_of_one(evaluation, made, tmp_path):
    """With the engine: the second of three tasks is killed when its first answers are stored. Its
    lease stays.
    """
    checkpoints = str(shutil.copytree(made.folder, tmp_path / "checkpoints"))
    alone = evaluation(batch_size=1)
    assert alone.start().returncode == 0
    shared = evaluation(batch_size=1, parts=3, checkpoint_dir=checkpoints)
    for part in (1, 2):
        task = dataclasses.replace(
            shared.task, index=part, spec=dataclasses.replace(shared.task.spec, part=part)
        )
        write_json(shared.run.spec("evaluate", part), specs.to_json(task))

    assert shared.start().returncode == 0
    assert not (shared.folder / "results.json").exists()
    (killed,) = shared.begin(code=HELD, index=1)
    wait_until(lambda: is_stopped(killed.pid))
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    for index in (1, 2):
        outcome = shared.start(index=index)
        assert outcome.returncode == 0, outcome.stderr

    assert shared.questions() == alone.questions()


HELD = """
import os, signal, sys
from jobs.__main__ import main
from jobs.evaluation import likelihood_work

likelihood_work.STORE_SECONDS = 0.0

def watch(event, arguments):
    if event == "open" and "/answers-" in str(arguments[0]) and arguments[1] is None:
        watch.writes += 1
        if watch.writes == 2:
            os.kill(os.getpid(), signal.SIGSTOP)

watch.writes = 0
sys.addaudithook(watch)
sys.exit(main())
"""
"""A rank that stops before it stores answers the second time."""


def is_stopped(pid: int) -> bool:
    from jobs.runtime import processes

    process = processes.read(pid)
    return process is not None and process.state == "T"
