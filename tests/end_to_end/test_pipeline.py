"""Forty documents through every stage on this machine, disturbed and undisturbed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.contract.metrics_log import MetricsLog
from jobs.contract.rundir import RunDir

from ..gate import full
from ..ranks import PATIENCE, processes_about, wait_until
from .conftest import DOCUMENTS, QUESTIONS, REPOSITORY, STEPS, TUNED_STEPS, Desk, events

pytestmark = [pytest.mark.engine, pytest.mark.end_to_end]

STAGES = (
    "curate", "tokenize", "index", "pretrain", "prepare", "finetune", "evaluate", "export",
    "generate",
)  # fmt: skip
TWICE = {"evaluate": 2, "export": 2}
"""Submissions of stages whose tasks wait for pretraining or for finetuning."""
ENDLESS = ("--set", "pretrain.train_steps=100000", "--set", "pretrain.max_epochs=null")
"""A pipeline that has not ended when a test comes to hit it."""


def report_of(desk: Desk, run: RunDir) -> dict[str, Any]:
    done = desk("report", run.name, "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def first(long_desk: Desk) -> RunDir:
    """Return a run of all stages; the checkout was broken after its first submission."""
    done = long_desk.submit("curate", "--wait")
    assert done.returncode == 0, done.stderr
    module = long_desk.source / "jobs" / "stages" / "tokenize_corpus.py"
    good = module.read_text()
    module.write_text("raise RuntimeError('edited after the first submission')\n")
    done = long_desk.submit("pipeline", "--wait")
    module.write_text(good)
    assert done.returncode == 0, done.stderr
    long_desk.wait_idle()
    return long_desk.run()


def test_a_run_executes_the_code_it_was_first_submitted_with(
    long_desk: Desk, first: RunDir
) -> None:
    state = long_desk.state(first)

    assert state["state"] == "succeeded"
    assert {name: stage["state"] for name, stage in state["stages"].items()} == dict.fromkeys(
        STAGES, "succeeded"
    )
    attempts = {name: stage["attempts"] for name, stage in state["stages"].items()}
    assert attempts == dict.fromkeys(STAGES, 1) | TWICE


def test_the_report_covers_every_stage(long_desk: Desk, first: RunDir) -> None:
    report = report_of(long_desk, first)

    assert report["run"] == first.name
    assert report["corpus"]["documents"] == DOCUMENTS
    assert report["corpus"]["tokens"] > 1000
    pretrain = report["pretrain"]
    assert pretrain["steps"] == STEPS
    assert pretrain["loss_last"] < pretrain["loss_first"]
    assert pretrain["validation_last"] < pretrain["validation_first"]
    assert pretrain["tokens_per_s"] > 0
    assert [
        (item["checkpoint_step"], item["mode"], item["score"]) for item in report["evaluations"]
    ] == [
        (0, "top-token", "likelihood"),
        (STEPS, "top-token", "likelihood"),
        (STEPS, "cot", "generation"),
        (TUNED_STEPS, "top-token", "likelihood"),
    ]
    (tuned,) = report["finetuned"]
    assert (tuned["model"], tuned["step"], tuned["from"]) == ("tuned", TUNED_STEPS, "the last step")
    assert tuned["loss_last"] < tuned["loss_first"]
    assert tuned["prepared"]["items"] == 40
    for item in report["evaluations"]:
        assert item["n"] == QUESTIONS
        assert item["benchmark"] == ("quiz-tuned" if item.get("model") else "quiz")
        low, high = item["ci95"]
        assert low <= item["accuracy"] <= high
        assert 0 < item["p_value"] <= 1
        assert item["chance"] == pytest.approx(0.25)
    assert report["time"]["total_s"] > 0
    assert report["time"]["queued_s"] >= 0
    assert 0 < report["goodput"] <= 1
    assert all(stage["wall_s"] > 0 for stage in report["time"]["stages"].values())
    assert report["errors"] == []


def documented_files() -> Iterator[re.Pattern[str]]:
    """Yield patterns of the files in a run directory that the page describes: the code in the first
    column of its tables of files, below the folder in the head of the table.
    """
    page = (REPOSITORY / "docs/run-directory.md").read_text().partition("### Beside the runs")[0]
    folder = ""
    for line in page.splitlines():
        names = re.findall(r"`(.+?)`", line.split(" | ")[0]) if line.startswith("| ") else []
        if line.startswith("| file"):
            folder = names[0] if names else ""
            continue
        for name in names:
            pattern = re.sub(r"<\w+>|\\\*", "[^/]+", re.escape(folder + name))
            yield re.compile(f"{pattern}.+" if name.endswith("/") else pattern)


def test_the_page_on_the_run_directory_describes_every_file_of_a_finished_run(
    first: RunDir,
) -> None:
    patterns = list(documented_files())
    files = [path for path in first.root.rglob("*") if path.is_file()]
    names = [path.relative_to(first.root).as_posix() for path in files]

    others = [name for name in names if not any(each.fullmatch(name) for each in patterns)]

    assert others == []
    assert not any(each.fullmatch("stages/curate/attempts/1/other.json") for each in patterns)


def test_submitting_a_finished_run_again_does_nothing_and_notes_it(
    long_desk: Desk, first: RunDir
) -> None:
    done = long_desk.submit("pipeline", "--wait")

    assert done.returncode == 0
    assert done.stdout.count("finished already") == len(STAGES)
    assert f"continuing run {first.name}" in done.stderr
    assert f"run {first.name} succeeded" in done.stderr
    submitted = {stage: len(events(first, "submit", stage)) for stage in STAGES}
    assert submitted == dict.fromkeys(STAGES, 1) | TWICE
    assert processes_about(long_desk.runs) == []


@pytest.mark.full
def test_after_damage_to_one_shard_only_it_is_made_again_and_nothing_is_trained_twice(
    long_desk: Desk, first: RunDir
) -> None:
    damaged = first.path("tokens/train/00001.bin")
    whole, records = damaged.read_bytes(), first.metrics("pretrain").read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])

    done = long_desk.submit("pipeline", "--wait")
    long_desk.wait_idle()

    assert done.returncode == 0, done.stderr
    assert damaged.read_bytes() == whole
    assert [event["indices"] for event in events(first, "submit", "tokenize")] == [[0, 1, 2], [1]]
    assert first.metrics("pretrain").read_bytes() == records


def until_progress(run: RunDir, stage: str, index: int) -> Callable[[], bool]:
    """Return the condition that a task of a stage has begun its work."""
    return lambda: run.progress(stage, index).exists()


def until_step(run: RunDir, step: int) -> Callable[[], bool]:
    """Return the condition that training has passed a step."""
    return lambda: any(line.step > step for line in MetricsLog(run, "pretrain").read_new())


HIT = ("tokenize", "pretrain", "finetune", "generate")
ALL_HIT = ("curate", "tokenize", "pretrain", "finetune", "evaluate", "export", "generate")
"""The stage index has ended before it could be hit for certain."""


@pytest.mark.parametrize("stages", [HIT, full(ALL_HIT)], ids=len)
def test_a_run_killed_in_its_stages_ends_as_if_nothing_had_happened(
    long_desk: Desk, first: RunDir, stages: tuple[str, ...]
) -> None:
    done = long_desk.submit("pipeline", "--new", "--json")
    run = RunDir(Path(json.loads(done.stdout)["dir"]))
    moments = {
        "curate": until_progress(run, "curate", 0),
        "tokenize": until_progress(run, "tokenize", 1),
        "pretrain": until_step(run, 10),
        "finetune": until_progress(run, "finetune", 0),
        "evaluate": until_progress(run, "evaluate", 1),
        "export": until_progress(run, "export", 0),
        "generate": until_progress(run, "generate", 0),
    }

    for stage in stages:
        wait_until(moments[stage])
        long_desk.end_everything()
        state = long_desk.state(run)
        if state["state"] != "succeeded":  # the kill came later than the whole pipeline took
            assert state["state"] in ("failed", "stopped"), (stage, state)
        done = long_desk.submit("pipeline")
        assert done.returncode == 0, done.stderr
    done = long_desk.submit("pipeline", "--wait")
    assert done.returncode == 0, done.stderr
    long_desk.wait_idle()

    undisturbed, disturbed = report_of(long_desk, first), report_of(long_desk, run)
    for key in ("documents", "tokens"):
        assert disturbed["corpus"][key] == undisturbed["corpus"][key]
    for key in ("steps", "tokens", "loss_first", "loss_last", "validation_last"):
        assert disturbed["pretrain"][key] == undisturbed["pretrain"][key]
    scores = [
        [
            (item["mode"], item["checkpoint_step"], item["accuracy"])
            for item in report["evaluations"]
        ]
        for report in (undisturbed, disturbed)
    ]
    assert scores[0] == scores[1]
    finished = [len(list((run.stage(stage) / "done").iterdir())) for stage in STAGES]
    assert finished == [1, 3, 1, 1, 1, 1, 3, 2, 1]
    models = [
        [{key: value for key, value in model.items() if key != "goodput"} for model in found]
        for found in (disturbed["finetuned"], undisturbed["finetuned"])
    ]
    assert models[0] == models[1]
    doubled = [
        (stage, index)
        for stage in STAGES
        for index in range(3)
        if sum(e["index"] == index and e["code"] == 0 for e in events(run, "exit", stage)) > 1
    ]
    assert doubled == []


def test_after_cancel_no_process_remains_and_resume_continues(desk: Desk) -> None:
    done = desk.submit("pipeline", "--json", *ENDLESS)
    run = RunDir(Path(json.loads(done.stdout)["dir"]))
    wait_until(until_progress(run, "tokenize", 0))

    cancelled = desk("cancel", run.name)
    left, state = processes_about(desk.runs), desk.state(run)["state"]
    resumed = desk("resume", run.name)
    going = desk.state(run)["state"]
    desk("cancel", run.name)

    assert (cancelled.returncode, resumed.returncode) == (0, 0), resumed.stderr
    assert left == []
    assert (state, going) == ("cancelled", "running")
    assert "curate: finished already" in resumed.stdout
    assert processes_about(desk.runs) == []


def test_an_interrupted_wait_does_not_end_the_run(desk: Desk) -> None:
    waiting = desk.start(*desk.submit_words("pipeline", "--wait", *ENDLESS))
    assert waiting.stderr is not None
    following = next(line for line in waiting.stderr if line.startswith("pretrain: "))
    run = desk.run()

    waiting.send_signal(signal.SIGINT)
    _, stderr = waiting.communicate(timeout=PATIENCE)
    wait_until(run.done("tokenize", 0).exists)
    desk("cancel", run.name)

    assert re.match(r"pretrain: (pending|running) \d+/100000 steps", following)
    assert waiting.returncode == 130
    assert f"run {run.name} continues" in stderr


def test_two_equal_submits_at_once_both_succeed_and_submit_once(desk: Desk) -> None:
    both = [desk.start(*desk.submit_words("curate")) for _ in range(2)]
    outputs = [process.communicate(timeout=PATIENCE) for process in both]
    run = desk.run()
    desk.wait_idle()

    assert [process.returncode for process in both] == [0, 0], outputs
    assert len(events(run, "submit", "curate")) == 1


def test_when_the_background_processes_are_killed_a_submit_resumes(desk: Desk) -> None:
    for _ in range(9):  # until the kill comes before the task has ended
        done = json.loads(desk.submit("curate", "--new", "--json").stdout)
        run = RunDir(Path(done["dir"]))
        (job,) = done["jobs"]["curate"]
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(job.split(":")[2]), signal.SIGKILL)
        desk.wait_idle()
        if not run.done("curate", 0).exists():
            break

    assert desk.state(run)["state"] in ("failed", "stopped")
    assert desk("submit", "curate", "--run", run.name, "--wait").returncode == 0
    assert desk.state(run)["state"] == "succeeded"
