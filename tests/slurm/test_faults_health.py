"""GPUs that fail while ranks run, through the real nvidia-ml-py on a library with readings."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.contract.files import write_bytes
from jobs.health import node_ledger

from ..fake_nvml import build, write_readings
from ..message_servers import program
from .faults import Laboratory, Trial, Truth, check_reached

pytestmark = pytest.mark.slurm

WELL = {"count": 4}
CLUSTER = "monitored"


@pytest.fixture
def readings(laboratory: Laboratory, tmp_path: Path) -> Iterator[Path]:
    """Return the folder of the nodes' readings, all well; the ranks train on processors."""
    library = build(tmp_path / "nvml")
    for number in range(1, 7):
        write_readings(tmp_path / f"gpu{number:02d}", WELL)
    variables = (
        f"  set:\n    LD_LIBRARY_PATH: {library}\n    FAKE_NVML: {tmp_path}/%s\n"
        "    FAULT_DEVICE: cpu\n"
    )
    page = program(tmp_path / "page", f"cat >>{tmp_path}/messages")
    write_bytes(tmp_path / "secrets", f"PAGER=command:{page}\n".encode(), 0o600)
    secrets = f"environment:\n  secrets_file: {tmp_path}/secrets\n"
    laboratory.profile(
        CLUSTER,
        ("device: cpu", "device: cuda"),
        ("environment:\n", secrets),
        ("  set:\n", variables),
    )
    yield tmp_path
    node_ledger.ledger(laboratory.desk.runs, CLUSTER).unlink(missing_ok=True)


def begin(laboratory: Laboratory, name: str, *overrides: str) -> Trial:
    return laboratory.begin(name, "pretrain.precision=fp32", *overrides, hold=7, cluster=CLUSTER)


def test_a_gpu_that_falls_off_the_bus_moves_the_run_off_its_node(
    laboratory: Laboratory, truth: Truth, readings: Path
) -> None:
    events = "node_excluded, resumed, finished"
    trial = begin(laboratory, "off-the-bus", f"notify=[{{to: PAGER, events: [{events}]}}]")
    attempt = trial.reach(7)
    node = trial.nodes()[1]
    since = time.time()

    write_readings(readings / node, {**WELL, "gpu.error": 15, "event.0": "0 79"})

    ended = trial.wait_exit(attempt)
    trial.hold()
    check_reached(trial, truth)
    laboratory.record("a GPU falls off the bus", ended, since, "gpu_hardware", node)
    assert (ended.cause, ended.node) == ("gpu_hardware", node), trial.describe()
    assert "fallen off the bus" in ended.exit["message"]
    later = [event for event in trial.events("start") if event["attempt"] > attempt]
    assert later
    assert all(node not in event["nodes"] for event in later)
    desk = laboratory.desk
    assert node in desk("nodes", "--cluster", CLUSTER).stdout
    assert "fallen off the bus" in desk("nodes", "--cluster", CLUSTER, "--ticket", node).stdout
    messages = readings / "messages"
    trial.wait_for(messages.exists, "the first message")
    trial.wait_for(lambda: "pretrain finished" in messages.read_text(), "the last message")
    excluded, resumed = sorted(
        (line for line in messages.read_text().splitlines() if "off the bus" in line),
        key=lambda line: "resumed" in line,
    )
    assert f"{node} is left out of the next job: " in excluded
    assert f"pretrain resumed from step {ended.exit['step_after']} on " in resumed


def test_a_node_that_degrades_is_left_after_the_next_checkpoint(
    laboratory: Laboratory, truth: Truth, readings: Path
) -> None:
    trial = begin(laboratory, "degrading")
    attempt = trial.reach(7)
    node = trial.nodes()[1]

    write_readings(readings / node, {**WELL, "gpu.ecc.volatile": 1, "event.0": "0 43"})
    trial.wait_for(
        lambda: "move away after the next checkpoint" in supervisor_log(trial, attempt),
        "the decision to leave",
    )
    trial.hold(12)
    ended = trial.wait_exit(attempt)
    trial.hold()
    check_reached(trial, truth)
    laboratory.record("a GPU has uncorrected errors", ended, None, "unhealthy", node)

    assert (ended.cause, ended.node) == ("unhealthy", node), trial.describe()
    assert (ended.exit["last_step"] or 0) >= 10
    assert ended.redone == 0
    later = [event for event in trial.events("start") if event["attempt"] > attempt]
    assert all(node not in event["nodes"] for event in later)


def supervisor_log(trial: Trial, attempt: int) -> str:
    folder = trial.run.attempt("pretrain", attempt)
    return "".join(path.read_text() for path in folder.glob("*_log.out"))
