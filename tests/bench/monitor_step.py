"""Cost of a node's monitor per training step: the loop beside it over the loop alone, taking turns.

``jobs.engine.trainer`` trains in one process on one CPU thread; beside it runs the monitor of eight
GPUs of the scripted NVML, on the same core, which real nodes do not force on it. It is stopped for
every other turn.

A sample every 15 s, as in a run, is lost in the noise of the steps. It takes two a second here,
and what its samples cost is divided by how much more of them there were. What it does between two
samples, which is to wait, is divided too.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from jobs.contract import rundir, specs
from jobs.contract.files import write_json
from jobs.runtime import heartbeat
from tests import fake_nvml
from tests.bench import REPOSITORY, Figure, confidence, environment, loop, ratios
from tests.bench.monitor import GPUS, INTERVAL, NODE, wait_for

ROUNDS = 16
BRISK = 0.5
"""Seconds between two samples here."""
SAMPLES = 6
"""Intervals in a turn."""
KINDS = ("wall", "processor")
STEP_SECONDS = 0.02
"""Least time of a step, by which the training is long enough."""


def figures(rounds: int = ROUNDS, interval: float = BRISK) -> list[Figure]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = rundir.RunDir(folder / "run")
        run.root.mkdir()
        steps = int(2 * (rounds + 1) * SAMPLES * interval / STEP_SECONDS)
        loop.write_task(run, steps, 2 * steps)
        task = dataclasses.replace(specs.load_task(run, "pretrain", 0), health={"gpus": GPUS})
        write_json(run.spec("pretrain", 0), specs.to_json(task))
        run.attempt("pretrain", 1).mkdir(parents=True)
        readings = fake_nvml.write_readings(folder / "readings", {"count": GPUS})
        library = fake_nvml.build(folder / "library")
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.monitor_step", name, str(rounds), str(interval)],
            env=environment(
                OMP_NUM_THREADS="1",
                PYTHONWARNINGS="ignore",
                SLURMD_NODENAME=NODE,
                LD_LIBRARY_PATH=str(library),
                FAKE_NVML=str(readings),
            ),
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    found = json.loads(done.stdout.splitlines()[-1])
    share = SAMPLES * interval / INTERVAL / found["samples"]
    walls, processors = (
        [1 + (ratio - 1) * share for ratio in ratios(found["beside"][kind], found["alone"][kind])]
        for kind in KINDS
    )
    low, high = confidence(walls)
    step = 1000 * statistics.median(found["alone"]["wall"])
    note = (
        f"of processor time {statistics.median(processors):.4f}; {low:.4f} to {high:.4f} at 95 % "
        f"over {len(walls)} pairs of {SAMPLES * interval:g} s on one core, each with "
        f"{found['samples']:.1f} samples, as for one every {INTERVAL:g} s; "
        f"a step takes {step:.0f} ms"
    )
    return [Figure("monitor_step_ratio", statistics.median(walls), "< 1.005", note)]


class Enough(Exception):
    """All turns are over."""


class Turns(loop.Observer):
    """An observer that stops the monitor for every other turn, and keeps the seconds per step."""

    def __init__(self, monitor: int, rounds: int, seconds: float) -> None:
        self.monitor = monitor
        self.rounds = rounds
        self.seconds = seconds
        self.is_beside = True
        self.steps = 0
        self.is_warm = False
        self.clock = loop.Clock()
        self.clock.start()
        self.turns: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
        """Seconds per step, of wall and processor time, by whether the monitor ran beside."""

    def step(self) -> None:
        """Note the end of a step, and of a turn."""
        self.steps += 1
        wall, processor = self.clock.stop()
        if wall < self.seconds:
            return
        if self.is_warm:
            self.turns[self.is_beside].append((wall / self.steps, processor / self.steps))
            self.is_beside = not self.is_beside
        if len(self.turns[False]) == len(self.turns[True]) == self.rounds:
            raise Enough
        self.is_warm, self.steps = True, 0
        os.kill(self.monitor, signal.SIGCONT if self.is_beside else signal.SIGSTOP)
        self.clock.start()


def measure(root: Path, rounds: int, interval: float) -> dict[str, Any]:
    """Train in this process, with the monitor on its core; return the seconds of each turn, and the
    samples in one.
    """
    from jobs.runtime.context import context_from

    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    run = rundir.RunDir(root)
    heart = heartbeat.HeartbeatWriter()
    label = heartbeat.label(run, "pretrain", 0, 1, NODE)
    heart.open(label, 0, heartbeat.folders({}))
    context = dataclasses.replace(context_from(root, "pretrain", 0, {}), heart=heart)
    place = loop.prepare(context)
    words = [str(root), "pretrain", "0", "1", "--interval", str(interval)]
    command = [sys.executable, "-m", "jobs.health.monitor", *words]
    monitor = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    try:
        first = wait_for(run.attempt("pretrain", 1), 1)["samples"]
        turns = Turns(monitor.pid, rounds, SAMPLES * interval)
        with suppress(Enough):
            loop.train(context, place, turns)
        samples = wait_for(run.attempt("pretrain", 1), 1)["samples"] - first
    finally:
        monitor.kill()
        monitor.wait()
    pairs = min(map(len, turns.turns.values()))
    sides = {"beside": turns.turns[True][:pairs], "alone": turns.turns[False][:pairs]}
    return {
        "samples": max(1, samples) / (pairs + 1),  # one turn more warms the loop up
        **{
            name: dict(zip(KINDS, zip(*side, strict=True), strict=True))
            for name, side in sides.items()
        },
    }


if __name__ == "__main__":
    folder, count, seconds = sys.argv[1:]
    print(json.dumps(measure(Path(folder) / "run", int(count), float(seconds))), flush=True)
    os._exit(0)  # the training was left in the middle
