"""Size of the HTML report and time to write it: a run of 23,000 steps in 300 attempts."""

from __future__ import annotations

import json
import math
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs.contract.files import FORMAT
from jobs.contract.rundir import RunDir
from tests import metric_lines
from tests.bench import Figure, children_cpu_seconds, environment, seconds_of
from tests.bench.status import ENDINGS, NUMBER, START, make_plan, make_run

STEPS, ATTEMPTS, ROUNDS = 23_000, 300, 5
STEP_SECONDS = 14.0
GAP_SECONDS = 600.0
BEGAN = 1_700_000_000.0


def figures(steps: int = STEPS, attempts: int = ATTEMPTS, rounds: int = ROUNDS) -> list[Figure]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environ = environment(MEDITRON_RUNS=str(folder / "runs"))
        run = make_run(folder / "runs", "long", make_plan(folder, environ), ())
        train(run, steps, attempts)
        page = folder / "page.html"
        words = ["report", run.name, "--html", str(page)]
        command = [sys.executable, "-m", "meditron_cli", *words]
        seconds_of(command, environ, folder)  # bytecode is written now, and the page cache is warm
        used = children_cpu_seconds()
        seconds = [seconds_of(command, environ, folder) for _ in range(rounds)]
        used = (children_cpu_seconds() - used) / rounds
        size = page.stat().st_size / 1e6
    note = f"{steps} steps, {attempts} attempts; best {min(seconds):.2f} s, processor {used:.2f} s"
    return [
        Figure("report_html_s", statistics.median(seconds), "< 3", note),
        Figure("report_html_mb", size, "< 5", "of which 0.83 are the programs that draw"),
    ]


def train(run: RunDir, steps: int, attempts: int) -> None:
    """Write a training whose attempts were preempted one after another."""
    lines, each = list[Any](), -(-steps // attempts)
    with run.events.open("a") as file:
        for attempt in range(1, attempts + 1):
            first, last = (attempt - 1) * each, min(attempt * each, steps)
            began = BEGAN + first * STEP_SECONDS + attempt * GAP_SECONDS
            ended = began + (last - first) * STEP_SECONDS
            lines += steps_of(attempt, first, last, began)
            facts = {"format": FORMAT, "stage": "pretrain", "index": 0, "attempt": attempt}
            start = {**START, "began": began, "step": first}
            end = {**ENDINGS[last == steps], "started": began, "ended": ended}
            for kind, time, fields in (("start", began, start), ("exit", ended, end)):
                event = {**fields, **facts, "event": kind, "time": time, "job_id": NUMBER}
                file.write(json.dumps(event) + "\n")
    metric_lines.append(run, *lines)


def steps_of(attempt: int, first: int, last: int, began: float) -> Iterator[Any]:
    """Yield the metric lines of an attempt."""
    for step in range(first + 1, last + 1):
        time = began + (step - first) * STEP_SECONDS
        loss = 1.8 + 6 * math.exp(-step / 900) + 0.03 * math.sin(step * 1.7)
        yield metric_lines.step(
            step, attempt, loss=loss, tokens=step << 22, seconds=STEP_SECONDS, time=time
        )
        if step % 10 == 0:
            yield metric_lines.period(step, attempt, time=time)
        if step % 250 == 0:
            corpora = {name: {"loss": loss, "perplexity": 7.0} for name in ("med", "replay")}
            yield metric_lines.validation(step, attempt, loss=loss, corpora=corpora, time=time)
