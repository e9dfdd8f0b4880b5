"""From a fault to the first step after it, on this machine: one run of two ranks, hit by turns.

A rank is killed, or raises an exception; the supervisor finds out, decides, and starts
the ranks again in place. The figures are medians over the faults. Beside them, what the supervisor
itself takes while ranks work.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from jobs.contract.events import read_events
from jobs.contract.metrics_log import MetricsLog, StepLine
from jobs.contract.rundir import RunDir
from jobs.runtime import heartbeat
from tests.bench import REPOSITORY, Figure
from tests.bench.submit import meditron

FAULTS = ("killed", "exception", "killed", "exception", "killed")
EVERY = 10
"""Steps between checkpoints."""
BEYOND = 4
"""Steps done after a checkpoint when the fault comes."""
WATCHED_SECONDS = 30.0
PATIENCE_SECONDS = 300.0

SETTINGS = {
    "name": "bench",
    "pretrain.train_steps": 1_000_000,
    "pretrain.max_epochs": "null",
    "pretrain.save_interval": EVERY,
    "pretrain.validation_interval": 0,
    "parallel.data": 2,
    "supervision.retry_delay_seconds": 0,
}

HOOKS = """
import time

def before_step(trainer):
    if trainer.context.rank == 1 and (FOLDER / "raise").exists():
        (FOLDER / "raise").rename(FOLDER / "raised")
        (FOLDER / "raised").write_text(str(time.time()))
        raise RuntimeError("asked for by the benchmark")
"""
"""Lines for ``tests/slurm/fault_hooks``, which runs them in the ranks."""


@dataclass(frozen=True)
class Recovery:
    """The outcome of one fault; times in seconds."""

    fault: str
    detect: float
    """From the fault to the exit record."""
    restart: float
    """From the exit record to the first step of the next attempt."""
    redone: int
    """Steps trained again."""


def figures(faults: Sequence[str] = FAULTS) -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(Path(folder))
        try:
            first = trial.first_start()
            processor, memory = trial.supervisor_takes()
            found = [trial.recover(fault) for fault in faults]
        finally:
            trial.end()
    restart = statistics.median(item.restart for item in found)
    steps = statistics.median(item.redone for item in found)
    return [
        Figure("detect_s", median(found, "killed"), "< 30", "kill -9 of one of two ranks"),
        Figure("detect_exception_s", median(found, "exception"), "< 30", "in one of two ranks"),
        Figure("restart_over_first_start", restart / first, "< 1", note_of(first, restart)),
        Figure("steps_redone", steps, f"≤ {EVERY}", f"a checkpoint every {EVERY} steps"),
        Figure("supervisor_cpu_s_per_hour", processor, "< 36", "processor seconds"),
        Figure("supervisor_rss_mb", memory, "", "with submitit, which starts it"),
    ]


def median(found: list[Recovery], fault: str) -> float:
    return statistics.median(item.detect for item in found if item.fault == fault)


def note_of(first: float, restart: float) -> str:
    return f"{restart:.1f} s from the end of an attempt to a step; first start {first:.1f} s"


class Trial:
    """One run on this machine, and the faults that hit it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "fault_hooks" / "bench"
        self.folder.mkdir(parents=True)
        (self.folder / "hooks.py").write_text(HOOKS)
        self.project = str(folder / "project")
        meditron(str(folder), "init", self.project)
        overrides = [f"--set={key}={value}" for key, value in SETTINGS.items()]
        cluster = self.cluster()
        answer = self.meditron(
            "submit", "pipeline", "--size=tiny", f"--cluster={cluster}", *overrides, "--json"
        )
        self.run = RunDir(Path(json.loads(answer)["dir"]))
        self.attempt = 1
        shutil.copy(
            REPOSITORY / "tests" / "slurm" / "fault_hooks" / "sitecustomize.py", self.run.code
        )

    def meditron(self, *words: str) -> str:
        return meditron(self.project, *words)

    def cluster(self) -> Path:
        """Return a profile of this machine that installs the hooks in ranks."""
        profile = (REPOSITORY / "clusters" / "local.yaml").read_text()
        variables = {"FAULT_HOOKS": str(self.folder.parent)}
        path = Path(self.project, "local.yaml")
        path.write_text(profile + f"environment: {json.dumps({'set': variables})}\n")
        return path

    def end(self) -> None:
        self.meditron("cancel", self.run.name)

    def first_start(self) -> float:
        """Return the seconds from the start of the first attempt to its first step."""
        line = until(lambda: self.steps(1))[0]
        return float(line.time - self.event("start")["began"])

    def supervisor_takes(self) -> tuple[float, float]:
        """Return processor seconds per hour and memory in MB of the process that starts ranks."""
        supervisor = psutil.Process(psutil.Process(self.rank(0).pid).ppid())
        before, started = sum(supervisor.cpu_times()[:2]), time.monotonic()
        time.sleep(WATCHED_SECONDS)
        used = sum(supervisor.cpu_times()[:2]) - before
        memory = supervisor.memory_info().rss / 1e6
        return 3600 * used / (time.monotonic() - started), memory

    def recover(self, fault: str) -> Recovery:
        """Hit the running attempt some steps after a checkpoint, and wait until it has ended and
        another begin.
        """
        self.wait_beyond_checkpoint()
        moment = self.kill() if fault == "killed" else self.raise_exception()
        end = until(lambda: self.event("exit"))
        last = self.steps(self.attempt)[-1].step
        self.attempt += 1
        line = until(lambda: self.steps(self.attempt))[0]
        redone = last - line.step + 1
        return Recovery(fault, end["time"] - moment, line.time - end["time"], redone)

    def wait_beyond_checkpoint(self) -> None:
        begun = until(lambda: self.steps(self.attempt))[0].step
        wanted = begun + EVERY
        wanted += BEYOND - wanted % EVERY
        until(lambda: self.steps(self.attempt)[-1].step >= wanted)

    def kill(self) -> float:
        os.kill(self.rank(1).pid, signal.SIGKILL)
        return time.time()

    def raise_exception(self) -> float:
        (self.folder / "raise").touch()
        raised = self.folder / "raised"
        moment = until(lambda: raised.read_text() if raised.exists() else "")
        raised.unlink()
        return float(moment)

    def rank(self, number: int) -> heartbeat.Heartbeat:
        return heartbeat.find(self.run, "pretrain", 0, self.attempt)[number]

    def steps(self, attempt: int) -> list[StepLine]:
        """Return the metric lines of an attempt's training steps."""
        lines = MetricsLog(self.run, "pretrain").read_new()
        return [line for line in lines if isinstance(line, StepLine) and line.attempt == attempt]

    def event(self, kind: str) -> dict[str, Any]:
        """Return the event of an attempt of training; empty as long as there is none."""
        for event in read_events(self.run):
            names = (event["event"], event.get("stage"), event.get("attempt"))
            if names == (kind, "pretrain", self.attempt):
                return event
        return {}


def until(fact: Callable[[], Any]) -> Any:
    """Wait for a condition, and return its value.

    Raises:
        TimeoutError: it never was.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if found := fact():
            return found
        time.sleep(0.02)
    raise TimeoutError(f"nothing after {PATIENCE_SECONDS:.0f} s")
