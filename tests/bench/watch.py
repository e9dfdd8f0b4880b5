"""Processor time and queries of Slurm in an hour of ``meditron status --watch RUN``.

The run has 300 attempts and 23,000 steps, and trains on: a step every ten seconds, a report of each
of its four nodes every fifteen. The clock is one that the view's own waiting advances.
"""

from __future__ import annotations

import io
import json
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.text import Text

from jobs.contract.files import FORMAT, append_lines
from jobs.contract.metrics_log import to_json
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import PRETRAIN
from meditron_cli.reporting.live.run_screen import run_screen
from meditron_cli.reporting.live.terminal import QUIT
from meditron_cli.reporting.live.watch import show
from meditron_cli.reporting.live.watched import WatchedRun
from meditron_cli.services import Services
from tests import metric_lines
from tests.bench import Figure, environment
from tests.bench.status import (
    DONE_BEFORE_TRAINING,
    ENDINGS,
    NUMBER,
    START,
    job_ids,
    make_plan,
    make_run,
)
from tests.monitor_reports import write_report

HOUR = 3600.0
ATTEMPTS = 300
STEPS = 23_000
STEP_SECONDS = 10
BEGAN = time.time() - STEPS * STEP_SECONDS
EARLIER = {"time": BEGAN - 200, "began": BEGAN - 150, "started": BEGAN - 150, "ended": BEGAN - 50}
"""The times of the events before training."""
REPORT_SECONDS = 15
SIZE = (160, 48)
NODES = ("node1", "node2", "node3", "node4")
RUN = "7"
"""The number of the run in the ids of its jobs."""


def figures(attempts: int = ATTEMPTS, steps: int = STEPS) -> list[Figure]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = long_run(folder, attempts, steps)
        path = os.environ["PATH"]
        os.environ["PATH"] = f"{folder}/bin:{path}"
        try:
            hour = Hour(run, steps)
            services = Services(clock=hour)
            watched = WatchedRun(services, run)
            page = watched.read(hour.now())
            before = cpu_seconds()
            show(services, watched, run_screen, hour, page)
            seconds = cpu_seconds() - before - hour.written
        finally:
            os.environ["PATH"] = path
    note = f"{attempts} attempts, {steps} steps, drawn {hour.drawn} times; state {page.view.state}"
    return [
        Figure("watch_cpu_s_per_hour", seconds, "< 72", note),
        Figure("watch_queries_per_hour", watched.poll.calls, "< 30", "squeue alone"),
    ]


class Hour:
    """A clock and a terminal: an hour passes while the view waits, and the run trains."""

    def __init__(self, run: RunDir, steps: int) -> None:
        self.drawn = 0
        self.written = 0.0
        """Processor time of what the run itself writes here."""
        self._run, self._step = run, steps
        self._time = self._began = BEGAN + steps * STEP_SECONDS
        self._reported = 0.0
        self._console = Console(file=io.StringIO(), force_terminal=True, width=SIZE[0])

    def now(self) -> float:
        return self._time

    def sleep(self, seconds: float) -> None:
        self._time += seconds

    @property
    def size(self) -> tuple[int, int]:
        return SIZE

    @property
    def ascii_only(self) -> bool:
        return False

    def draw(self, lines: Sequence[Text]) -> None:
        self.drawn += 1
        self._console.file = io.StringIO()
        self._console.print(Group(*lines))

    def wait(self, seconds: float) -> int:
        before = cpu_seconds()
        self.sleep(seconds)
        while BEGAN + (self._step + 1) * STEP_SECONDS <= self._time:
            self._step += 1
            append_steps(self._run, ATTEMPTS, self._step, self._step)
        if self._time >= self._reported + REPORT_SECONDS:
            self._reported = self._time
            write_reports(self._run, self._time)
        self.written += cpu_seconds() - before
        return QUIT if self._time >= self._began + HOUR else 0


def long_run(folder: Path, attempts: int, steps: int) -> RunDir:
    """Return a run in training whose attempts were preempted, one after the other, and write a
    squeue that lists its jobs to ``folder/bin``.
    """
    plan = make_plan(folder, environment(MEDITRON_RUNS=str(folder / "runs")))
    run = make_run(folder / "runs", "training", plan, (*DONE_BEFORE_TRAINING, "index"))
    earlier = [
        {**event, **{name: at for name, at in EARLIER.items() if name in event}}
        for event in map(json.loads, run.events.read_text().replace(NUMBER, RUN).splitlines())
    ]
    run.events.write_text("".join(f"{json.dumps(event)}\n" for event in earlier))
    (training,) = job_ids(plan.stage(PRETRAIN), RUN)
    queue = [f"{training}|RUNNING|N/A|{run.name}.{PRETRAIN}||None"]
    for stage in ("evaluate", "export"):
        ids = job_ids(plan.stage(stage), RUN)
        queue += [f"{job}|PENDING|N/A|{run.name}.{stage}||Dependency" for job in ids]
    program = folder / "bin/squeue"
    program.parent.mkdir()
    program.write_text("\n".join(["#!/bin/sh", *(f"echo '{row}'" for row in queue), ""]))
    program.chmod(0o755)
    events, each = [], steps // attempts
    for number in range(1, attempts + 1):
        first = (number - 1) * each
        last = steps if number == attempts else first + each
        began, ended = BEGAN + first * STEP_SECONDS, BEGAN + last * STEP_SECONDS
        names = {"stage": PRETRAIN, "index": 0, "attempt": number, "job_id": training}
        events.append({**START, **names, "event": "start", "began": began, "nodes": NODES,
                       "step": first, "time": began})  # fmt: skip
        append_steps(run, number, first + 1, last)
        if number < attempts:
            events.append({**ENDINGS[0], **names, "event": "exit", "started": began,
                           "ended": ended, "time": ended})  # fmt: skip
    append_lines(run.events, [json.dumps({"format": FORMAT, **event}) for event in events])
    run.attempt(PRETRAIN, attempts).mkdir(parents=True, exist_ok=True)
    return run


def append_steps(run: RunDir, attempt: int, first: int, last: int) -> None:
    """Append the lines of some steps, and of a period for every ten."""
    with run.metrics(PRETRAIN).open("a") as file:
        for step in range(first, last + 1):
            time = BEGAN + step * STEP_SECONDS
            line = metric_lines.step(step, attempt, loss=2 + 1 / step, seconds=9.0, time=time)
            file.write(json.dumps(to_json(line)) + "\n")
            if step % 10 == 0:
                period = metric_lines.period(step, attempt, mfu=0.4, time=time)
                file.write(json.dumps(to_json(period)) + "\n")


def write_reports(run: RunDir, time: float) -> None:
    """Write the reports of the nodes' monitors."""
    gpus = [
        {"index": index, "utilisation": 98, "temperature": 60, "power": 650_000}
        for index in range(8)
    ]
    for node in NODES:
        write_report(run.attempt(PRETRAIN, ATTEMPTS), node, time=time, newest=gpus)


def cpu_seconds() -> float:
    """Return the processor time of this process and of its children that have ended."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )
