"""What ranks leave in their node's memory, as others see it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import heartbeat, processes, rundir
from jobs.heartbeat import Heart, Phase


@pytest.fixture
def run(tmp_path: Path) -> Iterator[rundir.RunDir]:
    run = rundir.RunDir(tmp_path / "run")
    yield run
    for index in range(2):
        for node in ("", "gpu01", "gpu02"):
            heartbeat.forget(run, "pretrain", index, environ=at(node))


def at(node: str) -> dict[str, str]:
    return {"SLURMD_NODENAME": node}


def begin(run: rundir.RunDir, rank: int = 0, attempt: int = 1, node: str = "") -> Heart:
    heart = Heart()
    name = heartbeat.folder_name(run, "pretrain", 0, attempt, node or os.uname().nodename)
    assert heartbeat.begin(heart, name, rank, at(node)) == ""
    return heart


def find(run: rundir.RunDir, attempt: int = 1, node: str = "") -> dict[int, heartbeat.Beat]:
    return heartbeat.find(run, "pretrain", 0, attempt, node, {})


def test_a_beat_tells_phase_step_and_the_process(run: rundir.RunDir) -> None:
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


def test_a_phase_inside_another_ends_in_that_one(run: rundir.RunDir) -> None:
    heart = begin(run)

    with heart.during(Phase.CHECKPOINT):
        inside = find(run)[0].phase

    assert (inside, find(run)[0].phase) == (Phase.CHECKPOINT, Phase.STARTUP)


def test_nodes_of_one_host_and_attempts_are_kept_apart(run: rundir.RunDir) -> None:
    begin(run, rank=0, node="gpu01")
    begin(run, rank=1, node="gpu02")
    begin(run, rank=2, attempt=2, node="gpu01")

    assert list(find(run, node="gpu01")) == [0]
    assert list(find(run, node="gpu02")) == [1]
    assert list(find(run, attempt=2, node="gpu01")) == [2]


def test_only_their_owner_reads_the_beats(run: rundir.RunDir) -> None:
    begin(run)

    file = find(run)[0].file
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_the_last_rank_to_close_takes_the_folder_along(run: rundir.RunDir) -> None:
    first, second = begin(run, 0), begin(run, 1)
    folder = find(run)[0].file.parent

    first.close()
    left = list(find(run))
    second.close()

    assert left == [1]
    assert not folder.exists()


def test_a_closed_heart_still_beats_for_nobody(run: rundir.RunDir) -> None:
    heart = begin(run)
    heart.close()

    heart.beat(Phase.LEAVING)

    assert find(run) == {}


def test_dead_attempts_are_forgotten_and_the_living_kept(run: rundir.RunDir) -> None:
    begin(run, attempt=1)
    begin(run, attempt=2)

    heartbeat.forget(run, "pretrain", 0, keep=2, environ={})

    assert find(run, attempt=1) == {}
    assert list(find(run, attempt=2)) == [0]


def test_other_tasks_of_the_run_are_not_forgotten(run: rundir.RunDir) -> None:
    begin(run)

    heartbeat.forget(run, "pretrain", 1, environ={})

    assert list(find(run)) == [0]


def test_a_place_that_takes_nothing_is_said(run: rundir.RunDir) -> None:
    heart = Heart()

    reason = heartbeat.begin(heart, "no-such-folder/beats", 0, {"TMPDIR": "/proc"})

    assert "No such file or directory" in reason
    heart.beat(Phase.STEP, 1)  # into memory nobody reads


def test_temporary_files_are_the_second_place(run: rundir.RunDir, tmp_path: Path) -> None:
    environ = {"TMPDIR": str(tmp_path)}
    name = heartbeat.folder_name(run, "pretrain", 0, 1, os.uname().nodename)
    heart = Heart()
    (tmp_path / name).mkdir(mode=0o700)
    heart.open(tmp_path / name / "00000.beat", 0)

    found = heartbeat.find(run, "pretrain", 0, 1, environ=environ)
    heartbeat.forget(run, "pretrain", 0, environ=environ)

    assert found[0].pid == os.getpid()
    assert not (tmp_path / name).exists()


def test_a_link_somebody_put_there_is_not_followed(run: rundir.RunDir, tmp_path: Path) -> None:
    name = heartbeat.folder_name(run, "pretrain", 0, 1, os.uname().nodename)
    (tmp_path / "elsewhere").mkdir()
    Path("/dev/shm", name).symlink_to(tmp_path / "elsewhere")
    try:
        reason = heartbeat.begin(Heart(), name, 0, {"TMPDIR": "/proc"})
    finally:
        Path("/dev/shm", name).unlink()

    assert reason
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_rubbish_in_the_folder_is_no_beat(run: rundir.RunDir) -> None:
    begin(run)
    folder = find(run)[0].file.parent
    (folder / "00001.beat").write_bytes(b"short")
    (folder / "00002.beat").write_bytes(bytes(heartbeat.SIZE))

    assert list(find(run)) == [0]


def test_the_beats_of_a_killed_rank_stay_and_tell_where_it_was(run: rundir.RunDir) -> None:
    program = (
        "import os, signal, sys\n"
        "from jobs import heartbeat\n"
        "heart = heartbeat.Heart()\n"
        "assert not heartbeat.begin(heart, sys.argv[1], 5, {})\n"
        "heart.beat(heartbeat.Phase.CHECKPOINT, 40)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    name = heartbeat.folder_name(run, "pretrain", 0, 1, os.uname().nodename)

    done = subprocess.run([sys.executable, "-c", program, name])

    assert done.returncode == -9
    beat = find(run)[5]
    assert (beat.phase, beat.step) == (Phase.CHECKPOINT, 40)
    assert processes.read(beat.pid) is None
