"""Heartbeats of ranks, read by other processes of their node."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.contract import rundir
from jobs.runtime import heartbeat, processes
from jobs.runtime.heartbeat import HeartbeatWriter, Phase

from ...ranks import wait_until

RANK = """
import os, sys, time
from pathlib import Path
from jobs.runtime import heartbeat
heart = heartbeat.HeartbeatWriter()
heart.open(sys.argv[1], int(sys.argv[2]), heartbeat.folders(os.environ))
heart.beat(heartbeat.Phase.CHECKPOINT, 40)
"""


@pytest.fixture
def run(tmp_path: Path) -> rundir.RunDir:
    return rundir.RunDir(tmp_path / "run")


@pytest.fixture
def start(run: rundir.RunDir) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a process that sends heartbeats as a rank, runs some lines, and sleeps."""
    started = []

    def start(rank: int, *lines: str, attempt: int = 1, node: str = "") -> subprocess.Popen[bytes]:
        name = heartbeat.label(run, "pretrain", 0, attempt, node or os.uname().nodename)
        program = "\n".join([RANK, *lines, "time.sleep(600)"])
        process = subprocess.Popen([sys.executable, "-c", program, name, str(rank)])
        started.append(process)
        wait_until(lambda: rank in (found := find(run, attempt, node)) and found[rank].step)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def find(run: rundir.RunDir, attempt: int = 1, node: str = "") -> dict[int, heartbeat.Heartbeat]:
    return heartbeat.find(run, "pretrain", 0, attempt, node, {})


def begin(run: rundir.RunDir, rank: int = 0) -> HeartbeatWriter:
    """Send heartbeats in this process."""
    heart = HeartbeatWriter()
    name = heartbeat.label(run, "pretrain", 0, 1, os.uname().nodename)
    heart.open(name, rank, heartbeat.folders({}))
    return heart


def test_a_beat_reports_phase_step_and_the_process(run: rundir.RunDir) -> None:
    heart = begin(run, rank=3)

    before = time.monotonic()
    heart.beat(Phase.STEP, 7)
    heart.beat()

    beat = find(run)[3]
    assert (beat.phase, beat.step, beat.ticks) == (Phase.STEP, 7, 3)
    assert before <= beat.time <= time.monotonic()
    own = processes.read(os.getpid())
    assert own is not None
    assert (beat.pid, beat.started) == (os.getpid(), own.started)

    heart.touch()
    touched = find(run)[3]
    assert touched.time > beat.time
    assert (touched.phase, touched.step, touched.ticks) == (Phase.STEP, 7, 3)


def test_a_phase_inside_another_ends_in_that_one(run: rundir.RunDir) -> None:
    heart = begin(run)

    with heart.during(Phase.CHECKPOINT):
        inside = find(run)[0].phase

    assert (inside, find(run)[0].phase) == (Phase.CHECKPOINT, Phase.STARTUP)


def test_a_heartbeat_that_was_not_opened_writes_nothing(run: rundir.RunDir) -> None:
    HeartbeatWriter().beat(Phase.STEP, 1)

    assert find(run) == {}


def test_nodes_of_one_host_and_attempts_are_kept_apart(run, start) -> None:
    start(0, node="gpu01")
    start(1, node="gpu02")
    start(2, node="gpu01", attempt=2)
    start(3, node="gpu01", attempt=21)

    assert list(find(run, node="gpu01")) == [0]
    assert list(find(run, node="gpu02")) == [1]
    assert list(find(run, node="gpu01", attempt=2)) == [2]


def test_a_known_file_is_read_again_without_a_search(run, start) -> None:
    start(0, "while True: heart.beat(); time.sleep(0.01)")
    beat = find(run)[0]

    wait_until(lambda: heartbeat.read(beat.file).ticks > beat.ticks)

    assert heartbeat.read(beat.file).phase is Phase.CHECKPOINT


def test_a_stopped_rank_is_still_found(run, start) -> None:
    stopped = start(0)

    stopped.send_signal(signal.SIGSTOP)

    assert find(run)[0].step == 40


def test_after_a_killed_rank_nothing_remains(run, start) -> None:
    killed = start(5)
    file = find(run)[5].file

    killed.kill()
    killed.wait()

    assert find(run) == {}
    assert heartbeat.read(file) is None
    name = heartbeat.label(run, "pretrain", 0, 1, os.uname().nodename)
    assert [path for path in Path("/dev/shm").iterdir() if path.name.startswith(name)] == []


def test_a_process_forked_by_a_rank_is_not_the_rank(run, start) -> None:
    rank = start(0, "child = os.fork()", "heart.beat(heartbeat.Phase.STEP, 50 if child else 99)")
    wait_until(lambda: find(run)[0].phase is Phase.STEP)

    beat = find(run)[0]

    assert (beat.pid, beat.step) == (rank.pid, 50)
    (child,) = Path(f"/proc/{rank.pid}/task/{rank.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)


def test_the_files_of_others_are_not_read_even_when_they_took_the_place(run, start) -> None:
    start(0)
    known = find(run)[0].file

    for file in known.parent.iterdir():  # standard streams, and whatever else it has open
        assert (heartbeat.read(file) is None) == ("meditron-" not in os.readlink(file))


def test_the_second_place_does_where_the_first_takes_nothing(
    run: rundir.RunDir, tmp_path: Path
) -> None:
    heart = HeartbeatWriter()
    name = heartbeat.label(run, "pretrain", 0, 1, os.uname().nodename)

    heart.open(name, 4, (Path("/proc"), tmp_path))

    assert list(find(run)) == [4]
    assert list(tmp_path.iterdir()) == []


def test_a_node_that_takes_no_file_is_reported(run: rundir.RunDir) -> None:
    heart = HeartbeatWriter()

    with pytest.raises(OSError, match="/proc"):
        heart.open("name", 0, (Path("/proc"),))

    heart.beat(Phase.STEP, 1)


def test_places_are_memory_and_temporary_files() -> None:
    assert heartbeat.folders({"TMPDIR": "/scratch"}) == (Path("/dev/shm"), Path("/scratch"))
    assert heartbeat.folders({})[1] == Path("/tmp")
