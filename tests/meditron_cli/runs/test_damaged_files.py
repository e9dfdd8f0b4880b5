"""Files of a run that are JSON without the fields they should have."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from jobs.contract.files import read_json, write_json
from jobs.contract.rundir import RunDir

from ...conftest import Bench
from ...progress_files import write_progress

RESULT = {
    "benchmark": "quiz",
    "checkpoint_step": 0,
    "n": 4,
    "accuracy": 0.25,
    "ci95": [0.1, 0.5],
    "chance": 0.25,
    "p_value": 0.5,
}


def without(*keys: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Return a change of a JSON object that removes keys."""
    return lambda value: {key: item for key, item in value.items() if key not in keys}


def having(**fields: Any) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Return a change of a JSON object that sets fields."""
    return lambda value: {**value, **fields}


PLAN = {"tasks": "x", "after": [], "resources": {"nodes": 1, "gpus_per_node": 0}}

DAMAGES: dict[str, tuple[Callable[[RunDir], Path], Callable[..., dict[str, Any]]]] = {
    "a marker without its spec": (lambda run: run.done("curate", 0), without("spec")),
    "a marker without inputs": (lambda run: run.done("curate", 0), without("inputs")),
    "a marker of inputs that are none": (
        lambda run: run.done("curate", 0),
        having(inputs=[{"file": "x"}]),
    ),
    "a marker without its summary": (lambda run: run.done("curate", 0), without("summary")),
    "a marker with a count of text": (
        lambda run: run.done("curate", 0),
        having(summary={"documents": "many"}),
    ),
    "progress with a loss of text": (lambda run: run.progress("pretrain", 0), having(loss="b")),
    "progress without steps": (lambda run: run.progress("pretrain", 0), without("done", "total")),
    "a plan with a number of text": (lambda run: run.plan, having(stages={"curate": PLAN})),
    "a record without its config file": (lambda run: run.record, without("config_file")),
    "a record of a cluster of text": (lambda run: run.record, having(cluster="local")),
    "code.json without files": (lambda run: run.code_record, without("files")),
    "code.json of files that are none": (lambda run: run.code_record, having(files=[3])),
    "a result without its benchmark": (
        lambda run: run.path("evaluations/quiz/0/results.json"),
        without("benchmark"),
    ),
    "a result of text": (
        lambda run: run.path("evaluations/quiz/0/results.json"),
        having(accuracy="good", ci95="wide"),
    ),
}


@pytest.fixture
def begun(meditron: Bench, finish: Callable[..., None]) -> RunDir:
    """Return a run that is training, and has one evaluation."""
    meditron.submit()
    run = meditron.run()
    finish(run, "curate", 0, documents=1)
    finish(run, "tokenize", 0, 1, 2, tokens=3)
    finish(run, "index", 0)
    write_progress(run, "pretrain", loss=2.5)
    write_json(run.path("evaluations/quiz/0/results.json"), RESULT)
    return run


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_without_its_fields_is_damaged_and_no_fault_of_meditron(
    meditron: Bench, begun: RunDir, damage: str
) -> None:
    place, change = DAMAGES[damage]
    path = place(begun)
    write_json(path, change(read_json(path)))

    results = [
        meditron("status"),
        meditron("status", begun.name),
        meditron("report", begun.name),
        meditron("resume", begun.name),
        meditron.submit(),
    ]

    assert [result.stderr for result in results if "internal error" in result.stderr] == []
    assert all(result.exit_code in (0, 2) for result in results)
    assert begun.name in results[0].stdout


@pytest.mark.parametrize("damage", ["a marker without its spec", "a marker without inputs"])
def test_resume_repeats_a_task_whose_marker_is_damaged(
    meditron: Bench, begun: RunDir, damage: str
) -> None:
    place, change = DAMAGES[damage]
    path = place(begun)
    write_json(path, change(read_json(path)))
    meditron.scheduler.end_all()

    assert meditron("resume", begun.name).exit_code == 0
    assert not path.exists()


def test_lines_of_metrics_without_their_fields_are_skipped(meditron: Bench, begun: RunDir) -> None:
    lines = (
        {"step": 21, "loss": 1.0},
        {"step": 5, "save": 1},
        {"step": 21, "validation_loss": 1},
        {"loss": 1, "seconds": 1},
        {"step": "x", "loss": "y", "seconds": "z", "time": "q"},
    )
    begun.metrics("pretrain").parent.mkdir(parents=True, exist_ok=True)
    begun.metrics("pretrain").write_text("".join(f"{json.dumps(line)}\n" for line in lines))

    results = [meditron(word, begun.name) for word in ("status", "report", "resume")]

    assert [result.exit_code for result in results] == [0, 0, 0]
    assert json.loads(meditron("report", begun.name, "--json").stdout)["pretrain"]["steps"] is None
