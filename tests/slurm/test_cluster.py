"""The test Slurm itself: what the other Slurm tests take for granted."""

from __future__ import annotations

import math
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import submitit

from jobs.slurm.steps import one_per_node

from .cluster import CPU_NODES, GPU_NODES, Cluster, ClusterError
from .desk import wait

pytestmark = pytest.mark.slurm


def test_all_nodes_are_idle(slurm: Cluster) -> None:
    slurm.cancel_all()

    assert slurm.node_states() == dict.fromkeys([*GPU_NODES, *CPU_NODES], "idle")


def test_accounting_knows_a_finished_job_and_its_exit_code(slurm: Cluster) -> None:
    job = slurm.submit("exit 7", "--output=/dev/null")
    slurm.wait_job(job, "FAILED")

    def row() -> str:
        columns = ("-o", "State,ExitCode,NodeList")
        return slurm.run("sacct", "-n", "-P", "-X", *columns, "-j", str(job))

    # slurmctld reports a job's end to slurmdbd some moments later.
    wait(lambda: row().startswith("FAILED"), "the accounting")
    assert row() in [f"FAILED|7:0|{node}\n" for node in CPU_NODES]


def test_a_job_sees_the_gpus_it_was_given(slurm: Cluster, tmp_path: Path) -> None:
    output = tmp_path / "gpus"

    job = slurm.submit(
        'echo "$SLURM_GPUS_ON_NODE:$CUDA_VISIBLE_DEVICES"',
        "--partition=low",
        "--gpus-per-node=2",
        f"--output={output}",
    )
    slurm.wait_job(job, "COMPLETED")

    assert output.read_text() == ("2:0,1\n" if slurm.has_gpu_devices else "2:\n")


def test_four_tasks_on_two_nodes_receive_their_node_and_rank(
    slurm: Cluster, tmp_path: Path
) -> None:
    output = tmp_path / "ranks"

    job = slurm.submit(
        "srun sh -c 'echo $SLURMD_NODENAME $SLURM_PROCID $SLURM_LOCALID'",
        "--partition=low",
        "--nodes=2",
        "--ntasks-per-node=2",
        "--gpus-per-node=2",
        f"--output={output}",
    )
    slurm.wait_job(job, "COMPLETED")

    ranks = [line.split(maxsplit=1) for line in sorted(output.read_text().splitlines())]
    assert [numbers for _, numbers in ranks] == ["0 0", "1 1", "2 0", "3 1"]
    first, _, second, _ = nodes = [node for node, _ in ranks]
    assert (nodes[1], nodes[3], first < second) == (first, second, True)


def test_a_process_per_node_is_ended_by_none_of_another_node(
    slurm: Cluster, tmp_path: Path
) -> None:
    """Sites may end a step some seconds after its first process: here by its environment."""
    step = shlex.join(one_per_node(2, "--overlap"))
    late = f"[ $SLURM_PROCID = 0 ] && exit 3; sleep 5; touch {tmp_path}/late"

    job = slurm.submit(
        f"export SLURM_WAIT=1 SLURM_KILL_BAD_EXIT=1; {step} sh -c '{late}'",
        "--partition=low",
        "--nodes=2",
        "--output=/dev/null",
    )
    slurm.wait_job(job, "FAILED")

    assert (tmp_path / "late").exists()


def test_every_element_of_an_array_runs(slurm: Cluster, tmp_path: Path) -> None:
    job = slurm.submit(
        "echo $SLURM_ARRAY_TASK_ID", "--array=0-2", f"--output={tmp_path / 'element-%a'}"
    )
    slurm.wait_job(job, "COMPLETED")

    written = {path.name: path.read_text() for path in tmp_path.glob("element-*")}
    assert written == {f"element-{index}": f"{index}\n" for index in range(3)}


def test_an_array_beyond_the_highest_index_is_refused(slurm: Cluster) -> None:
    with pytest.raises(ClusterError, match="Invalid job array specification"):
        slurm.submit("true", "--array=100-101")


def test_a_submitit_array_completes_without_srun(
    slurm_environment: Cluster, tmp_path: Path
) -> None:
    executor = submitit.SlurmExecutor(folder=tmp_path, python=f"exec {sys.executable}")
    executor.update_parameters(
        job_name="factorials", time=5, use_srun=False, wckey="", stderr_to_stdout=True
    )

    jobs = executor.map_array(math.factorial, [3, 4, 5])
    slurm_environment.wait_job(jobs[0].job_id.split("_")[0], "COMPLETED")

    assert [job.result() for job in jobs] == [6, 24, 120]


@pytest.fixture
def slurm_without_grace(slurm: Cluster) -> Iterator[Cluster]:
    """Yield the cluster, with jobs in ``low`` preempted at once instead of after ten seconds."""
    slurm.run("scontrol", "update", "PartitionName=low", "GraceTime=0")
    yield slurm
    slurm.cancel_all()
    slurm.run("scontrol", "update", "PartitionName=low", "GraceTime=10")


@pytest.mark.full
def test_a_job_in_high_preempts_one_in_low_which_slurm_requeues(
    slurm_without_grace: Cluster,
) -> None:
    slurm = slurm_without_grace
    whole = ("--nodes=4", "--exclusive", "--output=/dev/null")
    low = slurm.submit("sleep 600", "--partition=low", *whole)
    slurm.wait_job(low, "RUNNING")

    high = slurm.submit("true", "--partition=high", *whole)
    slurm.wait_job(high, "COMPLETED")
    slurm.wait_job(low, "RUNNING")

    def states() -> list[str]:
        return slurm.run("sacct", "-D", "-n", "-P", "-X", "-o", "State", "-j", str(low)).split()

    wait(lambda: states() == ["PREEMPTED", "RUNNING"], "the accounting")


def test_a_changed_setting_is_in_force_and_can_be_put_back(slurm: Cluster) -> None:
    def in_force() -> str:
        lines = slurm.run("scontrol", "show", "config").splitlines()
        return next(line.split("= ")[1] for line in lines if line.startswith("SlurmctldParameters"))

    before = slurm.set_config(SlurmctldParameters=None)
    without = in_force()
    slurm.set_config(**before)

    assert before == {"SlurmctldParameters": "preempt_send_user_signal"}
    assert [without.strip(), in_force()] == ["(null)", "preempt_send_user_signal"]


@pytest.mark.full
def test_a_node_whose_slurmd_is_killed_goes_down_and_comes_back(slurm: Cluster) -> None:
    slurm.kill_slurmd("cpu02")
    try:
        slurm.wait_nodes(["cpu02"], ["down", "down*"])
    finally:
        slurm.start_slurmd("cpu02")

    slurm.wait_nodes(["cpu02"], ["idle"])


def test_a_daemon_that_proc_does_not_show_as_such_has_not_ended(tmp_path: Path) -> None:
    """In the moment of its execve(2) a process has another name and no environment in /proc."""
    cluster = Cluster(tmp_path / "slurm")
    (cluster.folder / "log").mkdir(parents=True)
    answers = iter([False, True])

    cluster._spawn("slurmdbd", "sleep", "600")
    cluster._wait("slurmdbd", lambda: next(answers))
    cluster._children["slurmdbd"].kill()

    with pytest.raises(ClusterError, match="slurmdbd ended while starting"):
        cluster._wait("slurmdbd", lambda: False)
    cluster.stop()


@pytest.mark.full
def test_after_up_and_down_by_hand_no_process_and_no_folder_remains(slurm: Cluster) -> None:
    """It lives beside the session's cluster, whose nodes must not notice."""
    folder = slurm.folder.with_name(f"{slurm.folder.name}-b")
    second = Cluster(folder)

    outputs = [_by_hand("up", folder), _by_hand("up", folder)]
    job = second.submit("setsid sleep 600 & sleep 600", "--output=/dev/null")
    second.wait_job(job, "RUNNING")
    _kill_hard(folder, "slurmctld")
    outputs += [_by_hand("up", folder), _by_hand("down", folder), _by_hand("down", folder)]

    use = f"to use it:  export SLURM_CONF={folder}/etc/slurm.conf\n"
    assert outputs == [
        f"the test Slurm in {folder} is up: 8 nodes\n{use}",
        f"the test Slurm in {folder} is already up\n{use}",
        f"the test Slurm in {folder} is up: 8 nodes\n{use}",
        f"the test Slurm in {folder} is down\n",
        f"no test Slurm in {folder}\n",
    ]
    assert not folder.exists()
    assert _processes_of(folder) == []
    assert set(slurm.node_states().values()) == {"idle"}


def _by_hand(word: str, folder: Path) -> str:
    script = Path(__file__).with_name("cluster.py")
    return subprocess.run(
        [sys.executable, script, word, "--dir", folder],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


def _processes_of(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), *process.environ().values()]
            words += [opened.path for opened in process.open_files()]
        except psutil.Error:
            continue
        if any(f"{folder}/" in word for word in words):
            found.append(process)
    return found


def _kill_hard(folder: Path, program: str) -> None:
    for process in _processes_of(folder):
        if process.name() == program:
            os.kill(process.pid, 9)
