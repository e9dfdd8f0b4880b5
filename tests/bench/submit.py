"""Seconds from ``submit`` to the first training step on this machine, on the starter's corpus."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jobs.contract.rundir import RunDir
from tests.bench import Figure, environment

ROUNDS = 3
PATIENCE_SECONDS = 300


def figures() -> list[Figure]:
    rounds = [first_step() for _ in range(ROUNDS)]
    middle = statistics.median(rounds)
    note = f"pipeline on local with the sample, {min(rounds):.1f} to {max(rounds):.1f} s"
    return [Figure("submit_to_first_step_s", middle, "", note)]


def first_step() -> float:
    """Return the seconds from ``submit`` in a new experiment to the first line of its metrics."""
    with tempfile.TemporaryDirectory() as folder:
        meditron(folder, "init")
        started = time.perf_counter()
        answer = meditron(folder, "submit", "pipeline", "--cluster=local", "--size=tiny", "--json")
        found = json.loads(answer)
        try:
            wait_for_step(RunDir(Path(found["dir"])), started)
            return time.perf_counter() - started
        finally:
            meditron(folder, "cancel", found["run"])


def wait_for_step(run: RunDir, started: float) -> None:
    """Wait for the first training step to be on record.

    Raises:
        TimeoutError: none came.
    """
    while time.perf_counter() - started < PATIENCE_SECONDS:
        if run.metrics("pretrain").exists() and '"loss"' in run.metrics("pretrain").read_text():
            return
        time.sleep(0.02)
    raise TimeoutError(f"no step in {run.root} after {PATIENCE_SECONDS} s")


def meditron(folder: str, *words: str) -> str:
    """Return the output of a meditron command that runs in a folder."""
    done = subprocess.run(
        [sys.executable, "-m", "meditron_cli", *words],
        cwd=folder,
        env=environment(MEDITRON_RUNS=str(Path(folder) / "runs")),
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout
