"""A node whose ranks are slower than their peers, in minutes of real windows."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from jobs.contract.files import write_bytes
from jobs.health import node_ledger

from ..message_servers import program
from .desk import rank_processes
from .faults import Laboratory, Record, Trial, check_reached, truth_of

pytestmark = [pytest.mark.slurm, pytest.mark.full, pytest.mark.timeout(3600)]

CLUSTER = "straggling"
STEPS = 800
SETTINGS = (f"pretrain.train_steps={STEPS}", "pretrain.precision=fp32")
SECONDS = 1200.0
"""For each part of the trainings on a busy machine."""
RUNNING_SECONDS, STOPPED_SECONDS = 0.005, 2.5
"""Of a slow process, in turn: a step takes seconds, so that the rest of the training costs more
than a restart."""


@pytest.fixture
def messages(laboratory: Laboratory, tmp_path: Path) -> Iterator[Path]:
    """Return the file of the notifications of trainings with two ranks on each of two nodes."""
    page = program(tmp_path / "page", f"cat >>{tmp_path}/messages")
    write_bytes(tmp_path / "secrets", f"PAGER=command:{page}\n".encode(), 0o600)
    secrets = f"environment:\n  secrets_file: {tmp_path}/secrets\n"
    laboratory.profile(
        CLUSTER,
        ("environment:\n", secrets),
        ("    gpus: 1 ", "    gpus: 2 "),
        ("    data: 2\n", "    data: 4\n"),
    )
    yield tmp_path / "messages"
    node_ledger.ledger(laboratory.desk.runs, CLUSTER).unlink(missing_ok=True)


@contextmanager
def slowed(*pids: int) -> Iterator[None]:
    """Let processes run for a small part of the time, as cpulimit does, until they end."""
    handles = [os.pidfd_open(pid) for pid in pids]
    is_over = threading.Event()

    def send(number: signal.Signals) -> None:
        for handle in handles:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, number)

    def pulse() -> None:
        while not is_over.is_set():
            send(signal.SIGSTOP)
            is_over.wait(STOPPED_SECONDS)
            send(signal.SIGCONT)
            time.sleep(RUNNING_SECONDS)

    thread = threading.Thread(target=pulse)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        for handle in handles:
            os.close(handle)


def test_a_node_that_slows_the_training_down_is_named_and_left(
    laboratory: Laboratory, messages: Path
) -> None:
    undisturbed = laboratory.begin("steady", *SETTINGS, cluster=CLUSTER)
    undisturbed.wait_for(lambda: not undisturbed.jobs(), "its end", SECONDS)
    truth = truth_of(undisturbed, STEPS)
    events = "node_excluded, resumed, finished"
    notify = f"notify=[{{to: PAGER, events: [{events}]}}]"
    trial = laboratory.begin("straggling", *SETTINGS, notify, hold=7, cluster=CLUSTER)
    attempt = trial.reach(7)
    node = trial.nodes()[1]
    processes = rank_processes(trial.run)
    since = time.time()
    desk = laboratory.desk

    with slowed(processes[2], processes[3]):
        trial.hold()
        trial.wait_for(lambda: alarms(trial), "the alarm", SECONDS)
        named = desk("status", trial.run.name).stdout
        trial.wait_for(lambda: attempt in trial.exits(), "the end of the attempt", SECONDS)
    trial.wait_for(lambda: not trial.jobs(), "the end of the run", SECONDS)

    ended = trial.attempt(attempt)
    check_reached(trial, truth)
    laboratory.record("the ranks of a node are slow", ended, since, "unhealthy", node)
    assert {event["node"] for event in alarms(trial)} == {node}
    worst = alarms(trial)[-1]
    sentence = worst["message"]
    assert worst["verdict"] == "DRAIN"
    assert re.match(r"ranks? \S+ takes? \S+ times as long as peers for a step, ", sentence)
    assert re.search(rf"straggler +{node} +ranks? ", named)
    assert (ended.cause, ended.node) == ("unhealthy", node), trial.describe()
    assert sentence in ended.exit["message"]
    later = [event for event in trial.events("start") if event["attempt"] > attempt]
    assert later
    assert all(node not in event["nodes"] for event in later)
    assert sentence in desk("nodes", "--cluster", CLUSTER, "--ticket", node).stdout
    trial.wait_for(lambda: "pretrain finished" in messages.read_text(), "the last message")
    excluded, resumed = (line for line in messages.read_text().splitlines() if sentence in line)
    assert f"{node} is left out of the next job: " in excluded
    assert f"pretrain resumed from step {ended.exit['step_after']} on " in resumed


def alarms(trial: Trial) -> list[Record]:
    """Return the alarms about slow ranks, which are repeated when they are worse."""
    return [event for event in trial.events("alarm") if event["code"] == "straggler"]
