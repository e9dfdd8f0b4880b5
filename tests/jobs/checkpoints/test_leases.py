"""One writer and many readers of a folder of checkpoints, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.checkpoints import leases
from jobs.contract import rundir
from jobs.contract.errors import FAILED
from jobs.runtime.context import Context

from ...permissions import WITHOUT_ROOTS_EYES
from ...ranks import wait_until

HOLDER = leases.Holder("pretrain", 0, 2, "4711", "n01", 99)

WRITE = """
import sys, time
from pathlib import Path
from jobs.checkpoints import leases
with leases.sole_writer(Path(sys.argv[1]), leases.Holder("pretrain", 0, 7, "12", "n02", 34)):
    print("writing", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other_writer(tmp_path):
    """Another process that writes until it is killed."""
    folder = tmp_path / "checkpoints"
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "writing\n"
    yield folder, process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_writer_exits_with_the_name_of_the_first(other_writer):
    folder, _ = other_writer

    with (
        pytest.raises(leases.WriterHeld) as refused,
        leases.sole_writer(folder, HOLDER, seconds=0.5),
    ):
        pass

    assert refused.value.code == FAILED
    assert refused.value.message == (
        f"{folder}: another training still writes there: "
        "pretrain task 0 (job 12, attempt 7, on n02), pid 34"
    )


def test_a_writer_that_is_killed_holds_nothing(other_writer):
    folder, process = other_writer
    assert leases.read_writer(folder) == leases.Holder("pretrain", 0, 7, "12", "n02", 34)

    os.kill(process.pid, signal.SIGKILL)

    with leases.sole_writer(folder, HOLDER):
        assert leases.read_writer(folder) == HOLDER
    assert leases.read_writer(folder) is None


def test_a_folder_without_a_lock_has_no_writer(tmp_path):
    assert leases.read_writer(tmp_path) is None
    assert leases.read_leases(tmp_path, time.time()) == []


def test_a_lease_has_holder_and_checkpoint_and_is_renewed_until_released(tmp_path):
    with leases.leased(tmp_path, "iter_0000010", HOLDER, seconds=1.0):
        (lease,) = leases.read_leases(tmp_path, 0.0)
        assert (lease.checkpoint, lease.holder) == ("iter_0000010", HOLDER)
        wait_until(lambda: leases.read_leases(tmp_path, lease.expires + 0.2))
    assert list((tmp_path / "leases").iterdir()) == []


def test_a_lease_whose_owner_was_killed_expires(tmp_path):
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from jobs.checkpoints import leases\n"
        "holder = leases.Holder('evaluate', 1, 1, '', 'n01', 2)\n"
        "with leases.leased(Path(sys.argv[1]), 'iter_0000010', holder):\n"
        "    print('leased', flush=True)\n"
        "    time.sleep(600)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with process.stdout as output:
        assert output.readline() == "leased\n"
    process.kill()
    process.wait()

    (file,) = (tmp_path / "leases").iterdir()
    expires = json.loads(file.read_text())["expires"]
    assert leases.read_leases(tmp_path, expires + 0.1) == []
    leases.forget_expired(tmp_path, expires - 0.1)
    assert file.exists()
    leases.forget_expired(tmp_path, expires)
    assert not file.exists()


@pytest.mark.parametrize(
    ("environ", "job", "node"),
    [
        ({"SLURM_JOB_ID": "12", "SLURMD_NODENAME": "n03"}, "12", "n03"),
        ({"MEDITRON_LOCAL_JOB": "local:h:1:2"}, "local:h:1:2", os.uname().nodename),
        ({}, "", os.uname().nodename),
    ],
)
def test_a_holder_names_its_job_and_node(tmp_path, environ, job, node):
    class Task:
        stage, index = "evaluate", 4

    context = Context(rundir.RunDir(Path(tmp_path)), Task(), 3, 0, 1, 0)

    assert leases.holder_of(context, environ) == leases.Holder(
        "evaluate", 4, 3, job, node, os.getpid()
    )
    assert str(leases.Holder("evaluate", 4, 3, "", "n01", 1)) == (
        "evaluate task 4 (attempt 3, on n01)"
    )


READ = """
import sys
from pathlib import Path
from jobs.checkpoints import leases
with leases.leased_if_writable(Path(sys.argv[1]), "iter_0000500", leases.Holder(*sys.argv[:6])):
    print("read", len(leases.read_leases(Path(sys.argv[1]), 0.0)))
"""


@pytest.mark.parametrize(("mode", "said"), [(0o755, ["read 1"]), (0o555, ["", "read 0"])])
def test_a_checkpoint_in_a_folder_that_is_read_only_is_read_without_a_lease(
    tmp_path: Path, mode: int, said: list[str]
) -> None:
    tmp_path.chmod(mode)

    command = [*WITHOUT_ROOTS_EYES, sys.executable, "-c", READ, str(tmp_path), *"12345"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    lines = done.stdout.splitlines()
    assert lines[-1] == said[-1]
    assert len(lines) == len(said)
    assert all("is read-only: iter_0000500 is read without a lease" in line for line in lines[:-1])
