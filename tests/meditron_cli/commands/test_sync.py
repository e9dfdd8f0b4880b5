"""`meditron sync`: a training's metrics in MLflow, of which a stand-in is installed, and W&B."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.contract.locks import locked
from jobs.contract.metrics_log import MetricsLog
from jobs.contract.rundir import RunDir
from meditron_cli.commands.sync import send_until_end
from meditron_cli.tracking.replay import CHUNK, Replay

from ... import metric_lines
from ...conftest import Bench
from ...metric_lines import save, step, validation
from ..tracking.test_replay import FakeTracker

ROOT = Path(__file__).parents[3]
Sync = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(meditron: Bench) -> RunDir:
    """Return a run whose training has written metrics."""
    meditron.submit()
    metric_lines.append(meditron.run(), step(1), step(2), validation(2), save(2))
    return meditron.run()


@pytest.fixture
def sync(run: RunDir, tmp_path: Path) -> Sync:
    """Run the command in a process that can import the stand-in."""

    def start(*words: str, tracker: str = "mlflow", **variables: str):
        environ = {
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests/fake_mlflow'}",
            "PATH": "/usr/bin:/bin",
            "MEDITRON_RUNS": str(run.root.parent),
            "MLFLOW_TRACKING_URI": f"fake:{tmp_path / 'server.json'}",
            **variables,
        }
        program = [sys.executable, "-m", "meditron_cli", "sync", run.name, "--tracker", tracker]
        return subprocess.run(
            [*program, *words], env=environ, capture_output=True, text=True, check=False
        )

    return start


def tracked(tmp_path: Path, project: str = "meditron") -> dict[str, Any]:
    """Return the only run of the stand-in."""
    [run] = json.loads((tmp_path / "server.json").read_text())[project].values()
    return run


def losses(run: dict[str, Any]) -> list[tuple[int, float]]:
    return [(step, value) for name, value, _, step in run["metrics"] if name == "train/loss"]


def test_all_attempts_are_one_run_of_the_tracker(sync: Sync, run: RunDir, tmp_path: Path) -> None:
    done = sync("--json")
    metric_lines.append(run, step(3, attempt=2, loss=1.5, time=12.5))
    again, third = sync("--json"), sync()

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sent"] == 4
    assert json.loads(again.stdout)["sent"] == 1
    assert third.stdout == f"run {run.name}: 0 lines sent to mlflow\n"
    held = tracked(tmp_path)
    assert held["name"] == run.name
    assert losses(held) == [(1, 2.0), (2, 2.0), (3, 1.5)]
    assert ["train/loss", 1.5, 12500, 3] in held["metrics"]
    assert held["params"]["model.layers"] == "4"
    assert not [key for key in held["params"] if "prefix" in key or "path" in key]


def test_a_sync_continues_where_another_was_killed(sync: Sync, run: RunDir, tmp_path: Path) -> None:
    metric_lines.append(run, *(step(number) for number in range(3, 3 * CHUNK)))

    killed = sync(FAKE_MLFLOW_KILL="3")
    before = len(tracked(tmp_path)["metrics"])
    done = sync()

    assert killed.returncode == -signal.SIGKILL
    assert done.returncode == 0, done.stderr
    held = tracked(tmp_path)
    assert 0 < before < len(held["metrics"])
    assert [number for number, _ in losses(held)] == list(range(1, 3 * CHUNK))


def test_a_finished_training_is_a_finished_run_of_mlflow(
    sync: Sync, run: RunDir, tmp_path: Path, finish: Callable[..., None]
) -> None:
    sync()
    assert tracked(tmp_path)["status"] == "RUNNING"

    finish(run, "pretrain", 0)
    sync()

    assert tracked(tmp_path)["status"] == "FINISHED"


def test_to_follow_is_to_send_what_training_adds_until_the_run_has_ended(
    meditron: Bench, training: RunDir
) -> None:
    metric_lines.append(training, step(1))
    tracker, replay = FakeTracker(), Replay(MetricsLog(training, "pretrain"))
    replay.send_new(tracker)

    def train() -> None:
        metric_lines.append(training, step(len(tracker.received) + 1))
        if len(tracker.received) == 3:
            meditron.scheduler.end_all()

    meditron.clock.when_slept = train
    sent = send_until_end(meditron.services(), training, replay, tracker)

    assert sent == 3
    assert [point.step for point in tracker.received] == [1, 2, 3, 4]


def test_one_sync_at_a_time(sync: Sync, run: RunDir) -> None:
    with locked(run.sync_lock("pretrain", "mlflow")):
        done = sync()

    assert done.returncode == 2
    assert "another `meditron sync` copies run" in done.stderr


def test_a_missing_library_is_named_with_the_extra_that_has_it(sync: Sync) -> None:
    done = sync(tracker="wandb")

    assert done.returncode == 2
    assert "error: the library wandb is not installed" in done.stderr
    assert "hint: `pip install 'meditron[wandb]'`" in done.stderr


def test_an_offline_segment_of_wandb_is_refused(sync: Sync) -> None:
    done = sync(tracker="wandb", WANDB_MODE="offline")

    assert done.returncode == 2
    assert "WANDB_MODE is `offline`" in done.stderr


def test_mlflow_without_a_server_is_refused(sync: Sync) -> None:
    done = sync(MLFLOW_TRACKING_URI="")

    assert done.returncode == 2
    assert "hint: `export MLFLOW_TRACKING_URI=http" in done.stderr


def test_an_error_of_the_server_shows_no_password(sync: Sync) -> None:
    done = sync(MLFLOW_TRACKING_URI="http://ann:hunter2@server")

    assert done.returncode == 1
    assert done.stderr.startswith("error: mlflow: no answer from http://***@server\n")
    assert "hunter2" not in done.stderr


def test_a_run_without_training_is_refused(meditron: Bench) -> None:
    meditron.submit(stage="curate")

    done = meditron("sync", meditron.run().name, "--tracker", "mlflow")

    assert done.exit_code == 2
    assert "has no training" in done.stderr
