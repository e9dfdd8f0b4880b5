"""Cost of a node's monitor: processor time and memory, with eight GPUs of the scripted NVML.

The library answers at once, so that what is measured is the monitor's own part: reading, rules, and
writing. A driver's calls cost what they cost.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from jobs.contract import rundir, specs
from jobs.contract.files import write_json
from jobs.health.monitor import records
from tests import fake_nvml
from tests.bench import REPOSITORY, Figure
from tests.corpus_specs import curate_spec
from tests.task_specs import task_spec

GPUS = 8
INTERVAL = 15.0
"""Seconds between two samples, as in a run."""
NODE = "bench"
START_SECONDS = 60.0


def figures(seconds: float = 90.0, interval: float = INTERVAL) -> list[Figure]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = rundir.RunDir(folder / "run")
        attempt = run.attempt("curate", 1)
        attempt.mkdir(parents=True)
        task = task_spec("curate", curate_spec(), health={})
        write_json(run.spec("curate", 0), specs.to_json(task))
        readings = fake_nvml.write_readings(folder / "readings", {"count": GPUS})
        environ = fake_nvml.environment(fake_nvml.build(folder / "library"), readings)
        words = [str(run.root), "curate", "0", "1", "--interval", str(interval)]
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs.health.monitor", *words],
            cwd=REPOSITORY,
            env={**environ, "SLURMD_NODENAME": NODE},
            stderr=subprocess.DEVNULL,
        )
        try:
            first = wait_for(attempt, 2)
            time.sleep(seconds)
            last = wait_for(attempt, first["samples"] + 1)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
        size = os.path.getsize(records.log_path(attempt, 0, NODE)) / last["samples"]
    share = (last["cpu_s"] - first["cpu_s"]) / (last["time"] - first["time"])
    samples = last["samples"] - first["samples"]
    total = f"{last['cpu_s']:.2f} s in all"
    note = f"of one core, {GPUS} GPUs, {samples} samples of {interval:g} s; {total}"
    return [
        Figure("monitor_cpu_share", share, "< 0.005", note),
        Figure("monitor_peak_mb", last["peak_bytes"] / 2**20, "< 60", "MiB resident"),
        Figure("monitor_line_bytes", size, "", f"of a sample of {GPUS} GPUs and a node"),
    ]


def wait_for(attempt: Path, samples: int) -> dict[str, Any]:
    """Return the first report of so many samples."""
    deadline = time.monotonic() + START_SECONDS + INTERVAL
    while time.monotonic() < deadline:
        for report in records.read_reports(attempt, 0, [NODE]):
            if report["samples"] >= samples:
                return report
        time.sleep(0.05)
    raise TimeoutError(f"no report of {samples} samples")
