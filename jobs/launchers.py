"""How ranks are started, told to stop, and ended: srun steps, or processes of this machine."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from jobs import rundir, specs

RUN = "{run}"
"""Stands for the run directory in a task's command line."""

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal a process gets when its parent dies."""


class Ranks(Protocol):
    """The processes of one task."""

    def poll(self) -> int | None:
        """None while any runs, else 0 or the code of the first that failed (negative: a signal)."""
        ...

    def stop(self) -> None:
        """Ask all ranks to save and leave."""
        ...

    def kill(self) -> None:
        """End all ranks now."""
        ...


class SrunRanks:
    """One srun step of the surrounding job."""

    def __init__(self, command: list[str], environment: Mapping[str, str], step: str) -> None:
        self._step = step
        self._process = subprocess.Popen(command, env=dict(environment))

    def poll(self) -> int | None:
        return self._process.poll()

    def stop(self) -> None:
        self._signal("TERM")

    def kill(self) -> None:
        self._signal("KILL")

    def _signal(self, name: str) -> None:
        # Signals to srun itself would abort the step; scancel delivers them to the ranks.
        subprocess.run(["scancel", f"--signal={name}", self._step], check=False, timeout=60)


class LocalRanks:
    """Processes of this machine; each dies with the supervisor."""

    GRACE_SECONDS = 30.0
    """How long the others may go on once one rank has failed."""

    def __init__(self, command: list[str], environments: list[dict[str, str]], log: Path) -> None:
        self._first_failure = 0.0
        self._code = 0
        with log.open("ab") as file:
            self._processes = [
                subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    preexec_fn=die_with_parent,  # safe: this process has one thread
                )
                for environment in environments
            ]

    def poll(self) -> int | None:
        codes = [process.poll() for process in self._processes]
        failed = [code for code in codes if code]
        if failed and not self._first_failure:
            self._first_failure, self._code = time.monotonic(), failed[0]
        if None not in codes:
            return self._code
        if self._first_failure and time.monotonic() - self._first_failure > self.GRACE_SECONDS:
            self.kill()
        return None

    def stop(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(number)


def die_with_parent() -> None:
    """Have the kernel end this process when its parent dies, however it dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def start(
    run: rundir.RunDir, task: specs.TaskSpec, attempt: int, environ: Mapping[str, str], step: int
) -> Ranks:
    """Start all ranks of a task; their output goes to ``ranks-<task>.log`` of the attempt.

    ``step`` counts the srun steps of this job, from 0.
    """
    log = run.attempt(task.stage, attempt) / f"ranks-{task.index:05d}.log"
    module = ["-u", "-m", "jobs", task.stage, str(run.root), str(task.index)]
    python = [word.replace(RUN, str(run.root)) for word in task.python]
    environment = {**environ, **rank_environment(run, task, attempt, environ)}
    if task.launcher == "srun":
        job = environ["SLURM_JOB_ID"]
        command = [*srun_command(run, task, log), *python, *module]
        return SrunRanks(command, environment, f"{job}.{step}")
    ranks = [
        {**environment, "RANK": str(rank), "WORLD_SIZE": str(task.ranks), "LOCAL_RANK": str(rank)}
        for rank in range(task.ranks)
    ]
    return LocalRanks([*python, *module], ranks, log)


def srun_command(run: rundir.RunDir, task: specs.TaskSpec, log: Path) -> list[str]:
    """srun's part of the command; block distribution puts rank 0 on the node of the batch step."""
    return [
        "srun",
        f"--ntasks={task.ranks}",
        f"--ntasks-per-node={task.ranks_per_node}",
        f"--cpus-per-task={task.cpus_per_rank}",
        "--distribution=block",
        "--kill-on-bad-exit=1",
        "--wait=60",
        "--unbuffered",
        "--label",
        f"--output={log}",
        "--open-mode=append",
        *(word.replace(RUN, str(run.root)) for word in task.srun_args),
    ]


def rank_environment(
    run: rundir.RunDir, task: specs.TaskSpec, attempt: int, environ: Mapping[str, str]
) -> dict[str, str]:
    """What every rank gets beside its number: where rank 0 listens, whose code runs, how many
    threads.
    """
    cores = task.cpus_per_rank
    if task.launcher == "local":
        cores = max(1, (os.cpu_count() or 1) // task.ranks)
    return {
        "MEDITRON_ATTEMPT": str(attempt),
        "MASTER_ADDR": "127.0.0.1" if task.nodes == 1 else socket.gethostname(),
        "MASTER_PORT": str(free_port(f"{environ.get('SLURM_JOB_ID', '')}.{run.name}.{attempt}")),
        "PYTHONPATH": python_path(run, environ),
        "PYTHONSAFEPATH": "1",
        "OMP_NUM_THREADS": environ.get("OMP_NUM_THREADS", str(cores)),
        # Tensor-parallel communication overlaps with computation only with one hardware queue.
        "CUDA_DEVICE_MAX_CONNECTIONS": environ.get("CUDA_DEVICE_MAX_CONNECTIONS", "1"),
    }


def python_path(run: rundir.RunDir, environ: Mapping[str, str]) -> str:
    """The run's own code before whatever the site put there."""
    return os.pathsep.join(filter(None, (str(run.code), environ.get("PYTHONPATH", ""))))


def free_port(seed: str) -> int:
    """A port free on this host now, from 20000 to 29999; the same seed tries the same ports
    first.
    """
    first = 20000 + sum(seed.encode()) * 7919 % 10000
    for offset in range(10000):
        port = 20000 + (first - 20000 + offset) % 10000
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise OSError("no free port between 20000 and 29999")
