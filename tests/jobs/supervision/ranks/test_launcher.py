"""Launchers of ranks: start, environment, names of processes."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jobs.contract import rundir
from jobs.contract.specs import SiteSpec, TaskSpec
from jobs.contract.stage_specs import PretrainSpec, SelftestSpec
from jobs.slurm.client import Client
from jobs.supervision.attempt_records import AttemptRef
from jobs.supervision.ranks import launcher, local_ranks, srun_ranks

from .... import fake_slurm
from ....corpus_specs import curate_spec
from ....ranks import wait_until
from ....task_specs import task_spec
from ...conftest import Workbench


def test_a_reserved_port_is_refused_to_everybody_but_the_rank_that_reuses_it() -> None:
    with launcher.reserved_port() as port, socket.socket() as stranger, socket.socket() as rank:
        rank.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

        with pytest.raises(OSError, match="Address already in use"):
            stranger.bind(("", port))
        rank.bind(("", port))
        rank.listen()

    assert port in launcher.PORTS


def test_torch_listens_on_a_reserved_port() -> None:
    program = (
        "import torch.distributed as d; d.init_process_group('gloo'); d.destroy_process_group()"
    )
    with launcher.reserved_port() as port:
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        rank = {"RANK": "0", "WORLD_SIZE": "1", **meeting}
        done = subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, **rank}, capture_output=True
        )

    assert done.returncode == 0, done.stderr


def test_a_process_is_known_by_its_start_and_a_zombie_is_none() -> None:
    child = subprocess.Popen(["sleep", "600"])
    name = local_ranks.process_name(child.pid)
    alive = local_ranks.is_alive(name)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended and is not reaped

    zombie = local_ranks.look_up(child.pid)
    child.wait()

    assert alive
    assert zombie is None
    assert not local_ranks.is_alive(name)
    host, pid, started = local_ranks.process_name(os.getpid()).rsplit(":", 2)
    assert (host, int(pid)) == (os.uname().nodename, os.getpid())
    assert not local_ranks.is_alive(f"{host}:{pid}:{int(started) - 1}")


@pytest.fixture
def programs(tmp_path: Path) -> fake_slurm.FakeSlurm:
    """Install a Slurm whose srun does not end."""
    fake = fake_slurm.install(tmp_path / "slurm")
    fake.replace("srun", "exec sleep 600")
    return fake


def srun(programs: fake_slurm.FakeSlurm, stderr: Path) -> srun_ranks.SrunRanks:
    step = srun_ranks.Step(Client(programs.environ), "7", "pretrain-0-1")
    return srun_ranks.SrunRanks([str(programs.bin / "srun")], programs.environ, step, stderr)


def test_an_srun_that_stays_although_its_step_is_gone_is_ended(
    programs: fake_slurm.FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(srun_ranks, "SRUN_SECONDS", 0.0)
    ranks = srun(programs, tmp_path / "srun.log")
    programs.queue("7.1|pretrain-0-1")

    ranks.end()
    left = ranks.poll()
    programs.queue()
    ranks.end()
    ranks.end()
    wait_until(lambda: ranks.poll() is not None)

    assert left is None
    assert "scancel 7.1" in programs.calls("scancel")
    assert ranks.poll() == -signal.SIGKILL


def test_a_slurm_that_does_not_answer_is_no_proof_that_a_step_is_gone(
    programs: fake_slurm.FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(srun_ranks, "SRUN_SECONDS", 0.0)
    ranks = srun(programs, tmp_path / "srun.log")
    programs.tell("down", "slurm_load_jobs error: Unable to contact slurm controller\n")

    for _ in range(3):
        ranks.end()
        time.sleep(0.05)
    left = ranks.poll()
    (programs.state / "down").unlink()
    ranks.end()
    ranks.end()
    wait_until(lambda: ranks.poll() is not None)

    assert left is None


def test_an_srun_that_waits_for_the_ranks_of_a_rebooted_node_is_ended(
    programs: fake_slurm.FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(srun_ranks, "REBOOT_SECONDS", 0.0)
    programs.replace(
        "srun", "echo 'srun: error: gpu01: task 0: Exited with exit code 1' >&2; exec sleep 600"
    )
    programs.queue("7.1|pretrain-0-1")
    programs.tell("job-7", "JobId=7 JobState=RUNNING StartTime=2026-01-01T09:00:00 NodeList=gpu02")
    programs.tell("boots", "NodeName=gpu02 BootTime=2026-01-01T08:00:00\n")
    output = tmp_path / "output"
    ranks = srun(programs, output)
    wait_until(lambda: output.read_text() != "")

    running = ranks.poll()
    programs.tell("boots", "NodeName=gpu02 BootTime=2026-01-01T10:00:00\n")
    wait_until(lambda: ranks.poll() is not None)
    step = srun_ranks.Step(Client(programs.environ), "7", "pretrain-0-1")

    assert running is None
    assert ranks.poll() == 1
    assert not step.is_gone()
    assert "scancel 7.1" in programs.calls("scancel")


def test_a_processs_name_with_blanks_and_brackets_is_read_past(tmp_path: Path) -> None:
    odd = tmp_path / "a ) R 1 (b"
    odd.symlink_to(shutil.which("sleep") or "")
    child = subprocess.Popen([str(odd), "600"])
    try:
        found = local_ranks.look_up(child.pid)
    finally:
        child.kill()
        child.wait()

    assert found is not None
    assert found.session == os.getsid(0)


def test_collectives_that_time_out_are_recorded_in_the_attempt(tmp_path: Path) -> None:
    attempt = AttemptRef(rundir.RunDir(tmp_path), "pretrain", 0, 3, 0.0)

    on_gpus = launcher.flight_recorder(attempt, old_names=True)
    without = launcher.flight_recorder(attempt, old_names=False)

    files = str(tmp_path / "stages/pretrain/attempts/3/flight-00000-")
    names = {name for name, value in on_gpus.items() if value == files}
    assert names == {"TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE"}
    assert on_gpus.keys() - without.keys() == {
        "TORCH_NCCL_TRACE_BUFFER_SIZE",
        "TORCH_NCCL_DEBUG_INFO_TEMP_FILE",
    }


# ---- the environment of ranks


def task_of(nodes: int = 1, gpus: int = 0, **fields: Any) -> TaskSpec:
    """Return a task with ranks on nodes with or without GPUs."""
    per_node = gpus or 1
    site = SiteSpec(network_interface=fields.pop("interface", ""))
    return task_spec(
        "curate",
        curate_spec(),
        ranks=nodes * per_node,
        ranks_per_node=per_node,
        nodes=nodes,
        gpus_per_node=gpus,
        launcher="srun",
        site=site,
        **fields,
    )


def environment(folder: Path, task: TaskSpec, environ: dict[str, str]) -> dict[str, str]:
    attempt = AttemptRef(rundir.RunDir(folder), "curate", 0, 1, 0.0)
    return launcher.rank_environment(attempt, task, environ, 20_000)


def test_ranks_of_one_node_meet_on_the_loopback(tmp_path: Path) -> None:
    variables = environment(tmp_path, task_of(interface="none-such"), {})

    assert variables["MASTER_ADDR"] == "127.0.0.1"
    assert "NCCL_SOCKET_IFNAME" not in variables


def test_ranks_of_several_nodes_meet_on_the_sites_interface(tmp_path: Path) -> None:
    variables = environment(tmp_path, task_of(2, interface="lo"), {"GLOO_SOCKET_IFNAME": "eth7"})

    assert variables["MASTER_ADDR"] == "127.0.0.1"  # the address of lo
    assert variables["NCCL_SOCKET_IFNAME"] == "lo"
    assert variables["GLOO_SOCKET_IFNAME"] == "eth7"  # of the profile


def test_without_an_interface_ranks_meet_on_the_hosts_name(tmp_path: Path) -> None:
    assert environment(tmp_path, task_of(2), {})["MASTER_ADDR"] == socket.gethostname()


def test_an_interface_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"'hsn0' has no IPv4 address.*interfaces.*lo"):
        environment(tmp_path, task_of(2, interface="hsn0"), {})


def test_compiled_kernels_need_no_home_and_no_further_processes(tmp_path: Path) -> None:
    variables = environment(tmp_path, task_of(gpus=4), {"TMPDIR": "/of/the/host"})

    triton, inductor = (
        Path(variables[f"{name}_CACHE_DIR"]) for name in ("TRITON", "TORCHINDUCTOR")
    )
    assert (triton.name, inductor.name, triton.parent) == ("triton", "inductor", inductor.parent)
    assert triton.parent.name == f"meditron-compiled-{os.getuid()}"
    assert triton.parents[1].is_dir()  # the host's TMPDIR is not there
    assert variables["TORCHINDUCTOR_COMPILE_THREADS"] == "1"


def test_compiled_kernels_lie_in_the_attempts_scratch_folder(tmp_path: Path) -> None:
    task = task_of(gpus=4, scratch_dir="/scratch")

    variables = environment(tmp_path, task, {"TMPDIR": "/scratch/attempt"})

    assert variables["TRITON_CACHE_DIR"].startswith("/scratch/attempt/")


def test_the_allocator_extends_segments_unless_the_site_sets_it(tmp_path: Path) -> None:
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")

    own = environment(tmp_path, task_of(gpus=1), {})
    sites = environment(tmp_path, task_of(gpus=1), {names[1]: "backend:cudaMallocAsync"})

    assert [own[name] for name in names] == ["expandable_segments:True"] * 2
    assert not set(names) & sites.keys()  # which are added to the site's


def test_ranks_on_cpus_have_no_variables_of_gpus(tmp_path: Path) -> None:
    assert (
        not {"TRITON_CACHE_DIR", "PYTORCH_ALLOC_CONF"} & environment(tmp_path, task_of(), {}).keys()
    )


def test_numbers_of_a_surrounding_launcher_reach_no_rank() -> None:
    surrounding = {"RANK": "7", "WORLD_SIZE": "9", "LOCAL_RANK": "1", "GROUP_RANK": "0"}
    elastic = {"TORCHELASTIC_USE_AGENT_STORE": "True"}

    kept = launcher.without_inherited(
        {**surrounding, **elastic, "PATH": "/bin", "MASTER_PORT": "5"}
    )

    assert kept == {"PATH": "/bin", "MASTER_PORT": "5"}


@pytest.mark.parametrize("deterministic", [False, True])
def test_ranks_of_a_deterministic_training_get_the_variables_of_its_libraries(
    bench: Workbench, deterministic: bool
) -> None:
    task = bench.training()
    assert isinstance(task.spec, PretrainSpec)
    task = dataclasses.replace(
        task, spec=dataclasses.replace(task.spec, deterministic=deterministic)
    )
    attempt = AttemptRef(bench.run, "pretrain", 0, 1, 0.0)

    variables = launcher.rank_environment(attempt, task, {"NCCL_ALGO": "Tree"}, 1234)

    expected = {
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "NCCL_ALGO": "Ring",
        "NVTE_ALLOW_NONDETERMINISTIC_ALGO": "0",
    }
    assert {name: variables.get(name) for name in expected} == (
        expected if deterministic else dict.fromkeys(expected)
    )


def test_ranks_of_a_selftest_get_what_cublas_reads_before_a_training_is_deterministic(
    bench: Workbench,
) -> None:
    training = bench.training()
    assert isinstance(training.spec, PretrainSpec)
    task = dataclasses.replace(
        training, stage="selftest", spec=SelftestSpec(training.spec, 4, "selftest")
    )
    attempt = AttemptRef(bench.run, "selftest", 0, 1, 0.0)

    variables = launcher.rank_environment(attempt, task, {"NCCL_ALGO": "Tree"}, 1234)

    assert variables["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert "NCCL_ALGO" not in variables, "its other trainings choose their own"
