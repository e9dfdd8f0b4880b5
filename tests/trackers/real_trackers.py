"""`meditron sync` with the real libraries: MLflow on SQLite, and wandb with a server of our own.

They are no part of `make setup`: `make test-trackers` installs them beside, and runs this file.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.contract.rundir import RunDir

from .. import metric_lines
from ..conftest import Bench
from ..metric_lines import health, save, step, validation
from .wandb_server import WandbServer

ROOT = Path(__file__).parents[2]
LIBRARIES = ROOT / ".venv/trackers"
STEPS = 3000
Start = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def run(meditron: Bench) -> RunDir:
    meditron.submit()
    lines = [step(number, loss=5 / number, time=1e9 + number) for number in range(1, STEPS + 1)]
    metric_lines.append(meditron.run(), *lines, validation(STEPS), save(STEPS), health(STEPS))
    return meditron.run()


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield served
        served.shutdown()


@pytest.fixture
def start(run: RunDir, server: WandbServer, tmp_path: Path) -> Iterator[Start]:
    """Start `meditron sync` with a tracker; end what still runs after the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(tracker: str) -> subprocess.Popen[str]:
        environ = {
            "PYTHONPATH": f"{ROOT}:{LIBRARIES}",
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "TMPDIR": str(tmp_path),
            "MEDITRON_RUNS": str(run.root.parent),
            "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
            "WANDB_BASE_URL": server.url,
            "WANDB_API_KEY": "k" * 40,
        }
        words = [sys.executable, "-m", "meditron_cli", "sync", run.name, "--tracker", tracker]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(words, env=environ, text=True, **pipes))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def finish(process: subprocess.Popen[str]) -> str:
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    return stdout


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("nothing arrived")


def test_mlflow_has_every_step_once_after_a_kill_and_a_repetition(
    start: Start, run: RunDir, tmp_path: Path
) -> None:
    database = tmp_path / "mlflow.db"

    def losses() -> list[tuple[int, float]]:
        query = "select step, value from metrics where key = 'train/loss' order by timestamp, step"
        try:
            with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as opened:
                return opened.execute(query).fetchall()
        except sqlite3.OperationalError:  # the tables are being made
            return []

    killed = start("mlflow")
    wait_until(lambda: len(losses()) > 0, killed)
    killed.kill()
    killed.communicate()
    assert 0 < len(losses()) < STEPS

    assert finish(start("mlflow")).startswith(f"run {run.name}: ")
    assert losses() == [(number, 5 / number) for number in range(1, STEPS + 1)]
    assert finish(start("mlflow")) == f"run {run.name}: 0 lines sent to mlflow\n"
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as opened:
        query = "select step, value from metrics where key = 'health/power_w'"
        assert opened.execute(query).fetchall() == [(STEPS, 5500.0)]


def test_wandb_has_every_line_once_in_order_after_a_kill_and_a_repetition(
    start: Start, run: RunDir, server: WandbServer
) -> None:
    assert finish(start("wandb")) == f"run {run.name}: {STEPS + 3} lines sent to wandb\n"
    assert finish(start("wandb")) == f"run {run.name}: 0 lines sent to wandb\n"
    more = [step(number, attempt=2, loss=1.0, time=2e9 + number) for number in range(2900, 40000)]
    metric_lines.append(run, *more)
    before = len(server.rows)

    killed = start("wandb")
    wait_until(lambda: len(server.rows) > before, killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    finish(start("wandb"))

    rows = server.history()
    assert [row["_step"] for row in rows] == list(range(1, STEPS + 3 + len(more) + 1))
    assert rows[0]["training_step"] == 1
    assert (rows[STEPS + 2]["training_step"], rows[STEPS + 2]["health/power_w"]) == (STEPS, 5500.0)
    assert (rows[-1]["training_step"], rows[-1]["train/loss"]) == (39999, 1.0)
    assert rows[-1]["_timestamp"] == 2e9 + 39999
    assert server.config["model.layers"]["value"] == 4


def test_the_key_is_in_no_file(start: Start, tmp_path: Path) -> None:
    finish(start("wandb"))

    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if b"k" * 40 in path.read_bytes()] == []
