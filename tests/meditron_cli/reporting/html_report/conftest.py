"""A run with something in every section of its page."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from jobs.contract.corpus.folder import MANIFEST_PATH
from jobs.contract.events import read_events
from jobs.contract.files import write_json
from jobs.contract.rundir import RunDir
from jobs.health.monitor.records import report_path

from .... import chromium
from ....chromium import Chromium
from ....conftest import Bench
from ....metric_lines import append, period, step, validation
from ....monitor_reports import write_report
from ...task_records import TaskRecords

STEPS = 2500
SPIKE = 1777
HOUR = 3600.0
SOURCE = {
    "name": "guidelines", "in": 100, "kept": 70, "documents": 70, "train": 68, "validation": 2,
    "bytes": 1000, "duplicate": 20, "language": 10,
}  # fmt: skip
SCORE = {
    "benchmark": "pm", "kind": "pubmedqa", "mode": "top-token", "ci95": [0.6, 0.8], "chance": 1 / 3,
    "majority": 0.55, "n": 40, "p_value": 1e-9, "ties": 0, "truncated": 0, "constant": None,
    "digests": {"benchmark": "d" * 64},
}  # fmt: skip


@pytest.fixture(scope="session")
def browser() -> Iterator[Chromium]:
    """Yield a browser; where it cannot be had, skip with the reason, or fail when ``CI`` is
    ``true``.
    """
    if reason := chromium.install():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    program = Chromium()
    yield program
    program.close()


@pytest.fixture
def trained(meditron: Bench, finish: Callable[..., None]) -> Bench:
    """Return a finished run of 2,500 steps in three attempts, one of which lost a GPU."""
    meditron.submit()
    write_run(meditron.run(), finish)
    return meditron


def write_run(run: RunDir, finish: Callable[..., None]) -> None:
    """Write what a run leaves."""
    finish(run, "curate", 0, documents=70)
    for index, tokens in enumerate((30_000, 40_000, 2000)):
        finish(run, "tokenize", index, tokens=tokens)
    finish(run, "index", 0)
    write_json(run.path(MANIFEST_PATH), {"sources": [SOURCE]})
    write_training(run)
    finish(run, "pretrain", 0)
    for place, number, accuracy in (("first", 0, 0.5), ("last", 600, 0.7)):
        score = {**SCORE, "checkpoint_step": number, "accuracy": accuracy}
        write_json(run.path(f"evaluations/pm/{place}/results.json"), score)
    finish(run, "evaluate", 0, 1)


def write_training(run: RunDir) -> None:
    """Write a training that was preempted after 1,000 steps and lost a GPU after 2,000."""
    submitted = (event for event in read_events(run) if event["event"] == "submit")
    records = TaskRecords(run, next(e["time"] for e in submitted if e["stage"] == "pretrain"))
    ends = (
        (1, 1000, "preempted", "requeue", ""),
        (2, 2000, "gpu_hardware", "submit", "node2"),
        (3, STEPS, "completed", "finish", ""),
    )
    first = 0
    for attempt, last, cause, action, node in ends:
        began = first * 4.0 + attempt * HOUR
        records.start(attempt, began, step=first)
        append(run, *lines(attempt, first, last, records.zero + began))
        message = "XID 79 on GPU 3 </script><b>" if node else f"it ended: {cause}"
        end = {"node": node, "message": message, "reason": message, "last_step": last}
        records.exit(attempt, began + (last - first) * 4.0 + 60, cause, action, **end)
        first = last
    records.event(
        "alarm", 3 * HOUR, stage="pretrain", index=0, attempt=2, code="straggler", verdict="WARN",
        node="node1", message="its ranks take 1.4 times the median",
    )  # fmt: skip
    write_health(run, 2, "node1", [])
    write_health(run, 2, "node2", [finding("FATAL", 3), finding("WARN", 1)])
    damaged = report_path(run.attempt("pretrain", 3), 0, "node1")
    damaged.parent.mkdir(parents=True)
    damaged.write_text('{"node": "node1"')


def lines(attempt: int, first: int, last: int, began: float) -> Iterator[Any]:
    """Yield the metric lines of an attempt, with one spike."""
    for number in range(first + 1, last + 1):
        loss = 2 + 6 * math.exp(-number / 500) + (5.0 if number == SPIKE else 0.0)
        time = began + 4.0 * (number - first)
        yield step(number, attempt, loss=loss, tokens=number * 2048, seconds=4.0, time=time)
        if number % 10 == 0:
            yield period(number, attempt, mfu=0.4, mfu_without_attention=0.3, time=time)
        if number % 500 == 0:
            both = {name: {"loss": loss, "perplexity": 9.0} for name in ("med", "replay")}
            yield validation(number, attempt, loss=loss, corpora=both, time=time)


def finding(verdict: str, gpu: int) -> dict[str, Any]:
    """Return a finding of a monitor."""
    subject = {"node": "node2", "gpu": gpu, "uuid": f"GPU-{gpu}"}
    return {"code": "xid", "verdict": verdict, "subject": subject, "message": f"XID on GPU {gpu}"}


def write_health(run: RunDir, attempt: int, node: str, findings: list[dict[str, Any]]) -> None:
    """Write the report of a node's monitor."""
    readings = {"mean": 90.0, "min": 10.0, "max": 99.0}
    gpus = [
        {"index": index, "uuid": f"GPU-{index}", "utilisation": readings, "power_w": readings}
        for index in range(4)
    ]
    write_report(run.attempt("pretrain", attempt), node, findings=findings, gpus=gpus)


class Made(NamedTuple):
    """The page of the run, and what ``report --json`` prints of it."""

    page: Path
    results: dict[str, Any]


@pytest.fixture(scope="session")
def kept() -> list[Made]:
    """Return what was made: most tests only read it."""
    return []


@pytest.fixture
def made(
    kept: list[Made], request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Made:
    """Return the page of the run, which the first test makes."""
    if not kept:
        meditron: Bench = request.getfixturevalue("trained")
        page = written(meditron, tmp_path_factory.mktemp("page") / "page.html")
        results = json.loads(meditron("report", meditron.run().name, "--json").stdout)
        kept.append(Made(page, results))
    return kept[0]


@pytest.fixture
def comparison(trained: Bench, finish: Callable[..., None], tmp_path: Path) -> Path:
    """Return the page of two runs, of which the second answers 18 questions more."""
    first = trained.run()
    trained.submit("--set", "pretrain.learning_rate=0.001")
    (second,) = (run for run in (trained.run(0), trained.run(1)) if run.root != first.root)
    write_run(second, finish)
    for run, right in ((first, 10), (second, 28)):
        points = [{"id": f"q{item}", "points": float(item < right)} for item in range(40)]
        file = run.path("evaluations/pm/last/questions.jsonl")
        file.write_text("".join(json.dumps(one) + "\n" for one in points))
    return written(trained, tmp_path / "page.html", first.name, second.name)


@pytest.fixture
def page(made: Made) -> Path:
    """Return the page of the run."""
    return made.page


def written(meditron: Bench, file: Path, *runs: str) -> Path:
    """Return the page that ``meditron report`` wrote."""
    result = meditron("report", *(runs or (meditron.run().name,)), "--html", str(file))
    assert (result.exit_code, result.stdout) == (0, f"{file}\n"), result.output
    return file
