"""How ranks are started, told to stop, and ended: srun steps, or processes of this machine."""

from __future__ import annotations

import ctypes
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from jobs import processes, rundir, specs

RUN = "{run}"
"""Stands for the run directory in a task's command line."""

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal a process gets when its parent dies."""

SUDDEN = tuple(
    -number
    for number in (
        signal.SIGKILL,
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGILL,
        signal.SIGFPE,
    )
)
"""Exit codes of deaths that a lost peer never leads to, so that they are the cause."""

FAILED_TASK = re.compile(
    r"^srun: error: \S+: tasks? [\d,-]+: (?:Exited with exit code (?P<code>\d+)|(?P<reason>.+))$",
    re.MULTILINE,
)
SIGNAL_CODES = {signal.strsignal(number): -number for number in signal.Signals} | {
    "Out Of Memory": -signal.SIGKILL
}
"""Codes for srun's words for a task that was ended by a signal."""

SCANCEL_SECONDS = 20.0
PORTS = range(20000, 30000)
"""Below the ports that kernels give to outgoing connections."""


@dataclass(frozen=True)
class Patience:
    """How long local ranks may take to leave; Slurm has limits of its own."""

    peers_seconds: float = 30.0
    """Once one rank has failed."""
    leave_seconds: float = 45.0
    """Once asked to stop."""


class Ranks(Protocol):
    """The processes of one task."""

    def poll(self) -> int | None:
        """None while any runs, else 0 or the code of the first that failed (negative: a signal)."""
        ...

    def stop(self) -> bool:
        """Ask all ranks to save and leave; whether the request has reached them."""
        ...


class SrunRanks:
    """One srun step of the surrounding job."""

    def __init__(
        self, command: list[str], environment: Mapping[str, str], step: str, said: Path
    ) -> None:
        self._step = step
        self._said = said
        with said.open("wb") as file:
            self._process = subprocess.Popen(command, env=dict(environment), stderr=file)

    def poll(self) -> int | None:
        """None while the step runs, then 0 or the code of the first rank that failed."""
        code = self._process.poll()
        if not code:
            return code
        said = self._said.read_text(errors="replace")
        print(said, file=sys.stderr, end="", flush=True)
        return first_failure(said) or code

    def stop(self) -> bool:
        """Have Slurm send SIGTERM to the ranks; whether it took the request."""
        # Signals to srun itself would abort the step; scancel delivers them to the ranks.
        command = ["scancel", "--signal=TERM", self._step]
        try:
            done = subprocess.run(command, check=False, timeout=SCANCEL_SECONDS)
        except (OSError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0


def first_failure(said: str) -> int | None:
    """The code of the first task that srun says has failed (negative: a signal), or None.

    srun's own exit code is the highest of all, and the tasks that ``--kill-on-bad-exit`` ends after
    the first failure have higher ones.
    """
    match = FAILED_TASK.search(said)
    if match is None:
        return None
    if match["code"]:
        return int(match["code"])
    return SIGNAL_CODES.get(match["reason"].removesuffix("(core dumped)").strip())


class LocalRanks:
    """Processes of this machine, each with a process group of its own; they die with the
    supervisor.
    """

    def __init__(
        self,
        command: list[str],
        environments: list[dict[str, str]],
        log: Path,
        patience: Patience,
    ) -> None:
        self._patience = patience
        self._deadline = float("inf")
        self._code = 0
        tie = tie_to_parent()
        with log.open("ab") as file:
            self._processes = [
                subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    preexec_fn=tie,  # safe: this process has one thread
                )
                for environment in environments
            ]

    def poll(self) -> int | None:
        """None while any rank runs, then 0 or the code of the first that failed; kills those whose
        time to leave is over.
        """
        codes = [process.poll() for process in self._processes]
        failed = [code for code in codes if code]
        if failed and not self._code:
            self._code = next((code for code in failed if code in SUDDEN), failed[0])
            self._end_within(self._patience.peers_seconds)
        if None not in codes:
            self._kill()  # what the ranks themselves have started and left
            return self._code
        if time.monotonic() > self._deadline:
            self._kill()
        return None

    def stop(self) -> bool:
        """Send SIGTERM to each rank; always reaches them."""
        self._end_within(self._patience.leave_seconds)
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        return True

    def _end_within(self, seconds: float) -> None:
        self._deadline = min(self._deadline, time.monotonic() + seconds)

    def _kill(self) -> None:
        for process in self._processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def tie_to_parent() -> Callable[[], None]:
    """What a child does before it becomes its program: lead a process group, and have the kernel
    end it when this process dies, however it dies.
    """
    parent = os.getpid()
    library = ctypes.CDLL(None)

    def tie() -> None:
        os.setpgid(0, 0)
        library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the kernel was told
            os.kill(os.getpid(), signal.SIGKILL)

    return tie


def look_up(pid: int) -> processes.Process | None:
    """The process of a pid, or None when it is gone or only waits to be reaped."""
    found = processes.read(pid)
    return None if found is None or found.state in "ZX" else found


def process_name(pid: int) -> str:
    """``<host>:<pid>:<start>`` of a living process; a reused pid has another."""
    found = look_up(pid)
    return f"{os.uname().nodename}:{pid}:{found.started if found else 0}"


def is_alive(name: str) -> bool:
    """Whether the process of a name is there; asked on the host it names."""
    _, pid, started = name.rsplit(":", 2)
    found = look_up(int(pid))
    return found is not None and found.started == int(started)


def start(
    run: rundir.RunDir,
    task: specs.TaskSpec,
    attempt: int,
    environ: Mapping[str, str],
    port: int,
    patience: Patience,
) -> Ranks:
    """Start all ranks of a task; their output goes to ``ranks-<task>.log`` of the attempt.

    Raises:
        OSError: the program that starts them is missing, or the log cannot be written.
    """
    log = run.attempt(task.stage, attempt) / f"ranks-{task.index:05d}.log"
    module = ["-u", "-m", "jobs", task.stage, str(run.root), str(task.index)]
    command = [*fill(task.python, run), *module]
    environment = {**environ, **rank_environment(run, task, attempt, environ, port)}
    if task.launcher == "srun":
        step = 1 if task.nodes > 1 else 0  # the pre-flight of several nodes was step 0
        name = f"{environ['SLURM_JOB_ID']}.{step}"
        said = log.with_name(f"srun-{task.index:05d}.log")
        return SrunRanks([*srun_command(run, task, log), *command], environment, name, said)
    ranks = [
        {**environment, "RANK": str(rank), "WORLD_SIZE": str(task.ranks), "LOCAL_RANK": str(rank)}
        for rank in range(task.ranks)
    ]
    return LocalRanks(command, ranks, log, patience)


def fill(words: Sequence[str], run: rundir.RunDir) -> list[str]:
    """Words of a command with the run directory in its place."""
    return [word.replace(RUN, str(run.root)) for word in words]


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
        *fill(task.srun_args, run),
    ]


def rank_environment(
    run: rundir.RunDir, task: specs.TaskSpec, attempt: int, environ: Mapping[str, str], port: int
) -> dict[str, str]:
    """What every rank gets beside its number: where rank 0 listens, whose code runs, how many
    threads.
    """
    local = task.launcher == "local"
    cores = max(1, usable_cores() // task.ranks) if local else task.cpus_per_rank
    return {
        "MEDITRON_ATTEMPT": str(attempt),
        "MASTER_ADDR": "127.0.0.1" if task.nodes == 1 else socket.gethostname(),
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": environ.get("OMP_NUM_THREADS", str(cores)),
        # Tensor-parallel communication overlaps with computation only with one hardware queue.
        "CUDA_DEVICE_MAX_CONNECTIONS": environ.get("CUDA_DEVICE_MAX_CONNECTIONS", "1"),
        **code_environment(run, environ),
    }


def code_environment(run: rundir.RunDir, environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that put the run's own code before whatever the site has."""
    path = os.pathsep.join(filter(None, (str(run.code), environ.get("PYTHONPATH", ""))))
    return {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0))


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port of this host that nobody else takes before rank 0 listens on it.

    The socket keeps others from binding the port, other tasks that start at this moment above all;
    that it allows the reuse of its address, said only after binding, lets rank 0 in (socket(7)).

    Raises:
        OSError: every port is taken.
    """
    with socket.socket() as holder:
        for port in random.sample(PORTS, len(PORTS)):
            try:
                holder.bind(("", port))
            except OSError:
                continue
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            yield port
            return
    raise OSError(f"no free port from {PORTS.start} to {PORTS.stop - 1}")
