"""Cost of heartbeats per training step: the loop with them over the loop without, taking turns.

Both are ``jobs.engine.trainer`` in one process on one CPU thread; after each step the rank's heart
is silenced, or let beat again. Beside that, what one beat costs alone.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jobs.contract import rundir
from jobs.runtime import heartbeat
from tests.bench import Figure, environment, loop, ratio

BEATS = 200_000
ROUNDS = 60


def figures(rounds: int = ROUNDS) -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        run = rundir.RunDir(Path(folder))
        steps = 2 * (rounds + loop.WARM_UP_ROUNDS)
        loop.write_task(run, steps, 2 * steps)
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.heartbeat", folder],
            env=environment(OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore"),
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    found = json.loads(done.stdout.splitlines()[-1])
    beating, silent = found["beating"], found["silent"]
    step_us = 1e6 * statistics.median(silent["wall"])
    each = found["beat_ns"]
    beats = found["beats"] / found["steps"]
    share = beats * each / 1000 / step_us
    note = (
        f"{beats:.0f} beats in a step of {step_us / 1000:.0f} ms, {share:.6%} of it; measured by "
        f"processor time {ratio(beating['processor'], silent['processor']):.4f}"
    )
    return [
        Figure("heartbeat_overhead", ratio(beating["wall"], silent["wall"]), "< 1.005", note),
        Figure("heartbeat_ns", each, "≈ 1000", "one beat into the mapped file"),
    ]


class Silenceable(heartbeat.HeartbeatWriter):
    """Heartbeats that can be switched off, and a count of those written."""

    def __init__(self) -> None:
        super().__init__()
        self.silent = False
        self.beats = 0

    def beat(self, phase: heartbeat.Phase | None = None, step: int | None = None) -> None:
        if not self.silent:
            self.beats += 1
            super().beat(phase, step)


def measure(root: Path) -> dict[str, object]:
    """Train in this process."""
    from jobs.runtime.context import context_from

    heart = Silenceable()
    heart.open("meditron-bench", 0, heartbeat.folders({}))
    context = dataclasses.replace(context_from(root, "pretrain", 0, {}), heart=heart)
    turns = Turns(heart)
    loop.train(context, loop.prepare(context), turns)
    return {
        "beating": loop.by_kind(turns.times[False]),
        "silent": loop.by_kind(turns.times[True]),
        "beats": heart.beats,
        "steps": turns.beaten,
        "beat_ns": nanoseconds(),
    }


class Turns(loop.Observer):
    """An observer that switches heartbeats off every other step and keeps both sides' times."""

    def __init__(self, heart: Silenceable) -> None:
        self.heart = heart
        self.started = False
        self.beaten = 0
        """Steps with heartbeats."""
        self.clock = loop.Clock()
        self.times: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
        """By whether heartbeats were off."""

    def step(self) -> None:
        """Note the end of a step."""
        self.beaten += not self.heart.silent
        if self.started:
            self.times[self.heart.silent].append(self.clock.stop())
            self.heart.silent = not self.heart.silent
        self.started = True
        self.clock.start()


def nanoseconds() -> float:
    """Return the seconds of one heartbeat, the best of several rounds."""
    heart = heartbeat.HeartbeatWriter()
    heart.open("meditron-bench", 1, heartbeat.folders({}))
    rounds = []
    for _ in range(5):
        started = time.perf_counter_ns()
        for _ in range(BEATS):
            heart.beat()
        rounds.append((time.perf_counter_ns() - started) / BEATS)
    return min(rounds)


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
