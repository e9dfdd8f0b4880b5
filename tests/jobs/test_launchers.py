"""How ranks are started and known."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import launchers, rundir
from jobs.attempt import Place


def test_a_reserved_port_is_refused_to_everybody_but_the_rank_that_reuses_it() -> None:
    with launchers.reserved_port() as port, socket.socket() as stranger, socket.socket() as rank:
        rank.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

        with pytest.raises(OSError, match="Address already in use"):
            stranger.bind(("", port))
        rank.bind(("", port))
        rank.listen()

    assert port in launchers.PORTS


def test_torch_listens_on_a_reserved_port() -> None:
    program = (
        "import torch.distributed as d; d.init_process_group('gloo'); d.destroy_process_group()"
    )
    with launchers.reserved_port() as port:
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        rank = {"RANK": "0", "WORLD_SIZE": "1", **meeting}
        done = subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, **rank}, capture_output=True
        )

    assert done.returncode == 0, done.stderr


def test_a_process_is_known_by_its_start_and_a_zombie_is_none() -> None:
    child = subprocess.Popen(["sleep", "600"])
    name = launchers.process_name(child.pid)
    alive = launchers.is_alive(name)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody reaped it

    zombie = launchers.look_up(child.pid)
    child.wait()

    assert alive
    assert zombie is None
    assert not launchers.is_alive(name)
    host, pid, started = launchers.process_name(os.getpid()).rsplit(":", 2)
    assert (host, int(pid)) == (os.uname().nodename, os.getpid())
    assert not launchers.is_alive(f"{host}:{pid}:{int(started) - 1}")


def test_a_processs_name_with_blanks_and_brackets_is_read_past(tmp_path: Path) -> None:
    odd = tmp_path / "a ) R 1 (b"
    odd.symlink_to(shutil.which("sleep") or "")
    child = subprocess.Popen([str(odd), "600"])
    try:
        found = launchers.look_up(child.pid)
    finally:
        child.kill()
        child.wait()

    assert found is not None
    assert found.session == os.getsid(0)


def test_collectives_that_time_out_are_recorded_in_the_attempt(tmp_path: Path) -> None:
    place = Place(rundir.RunDir(tmp_path), "pretrain", 0, 3, 0.0)

    variables = launchers.flight_recorder(place)

    files = str(tmp_path / "stages/pretrain/attempts/3/flight-00000-")
    names = [name for name, value in variables.items() if value == files]
    assert names == ["TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE"]
