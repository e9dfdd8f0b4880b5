"""How ranks are started, told to stop, and ended: srun steps, or processes of this machine."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from jobs.contract import rundir, specs
from jobs.runtime import processes
from jobs.slurm import srun_output
from jobs.supervision import attempt_records
from jobs.supervision.attempt_records import Place

if TYPE_CHECKING:
    from jobs.slurm.client import Client

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

STEP_GONE_SECONDS = 90.0
"""Slurm's UnkillableStepTimeout is 60 s by default (slurm.conf(5))."""
SRUN_SECONDS = 30.0
"""For srun to notice that its step is gone, and to say what became of the tasks (guess)."""
SILENCE_SECONDS = 2.0
"""Between two questions about a step."""
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

    def end(self) -> None:
        """End all ranks at once; ``poll`` tells when they are gone."""
        ...

    def failures(self) -> list[srun_output.Failure]:
        """The ranks that failed, once all are gone."""
        ...


class Step:
    """A named step of the surrounding job, whatever its number is."""

    def __init__(self, client: Client, job_id: str, name: str) -> None:
        self._client = client
        self._job_id = job_id
        self._name = name

    def ask_to_leave(self) -> bool:
        """Have Slurm send SIGTERM to the processes of the job's steps; whether it took that."""
        return self._client.signal_ranks(self._job_id, "TERM")

    def end(self) -> bool:
        """End the step, wherever anything of it is left, and nothing else of the job; whether Slurm
        says that nothing was.
        """
        left = self._client.step_ids(self._job_id, self._name)
        for step_id in left or ():
            self._client.end_step(step_id)
        return left == []

    def is_gone(self, seconds: float = STEP_GONE_SECONDS) -> bool:
        """Whether nothing of the step is left, after ending what is; waits that long at most.

        A Slurm that does not answer is no proof.
        """
        deadline = time.monotonic() + seconds
        while not self.end():
            if time.monotonic() > deadline:
                return False
            time.sleep(SILENCE_SECONDS)
        return True


class SrunRanks:
    """One srun step of the surrounding job."""

    def __init__(
        self, command: list[str], environment: Mapping[str, str], step: Step, said: Path
    ) -> None:
        self._step = step
        self._said = said
        self._alone_since = float("inf")
        with said.open("wb") as file:
            self._process = subprocess.Popen(command, env=dict(environment), stderr=file)

    def poll(self) -> int | None:
        """None while the step runs, then 0 or the code of the first rank that failed."""
        code = self._process.poll()
        if not code:
            return code
        return srun_output.first_failure(self._words()) or code

    def stop(self) -> bool:
        """Have Slurm send SIGTERM to the ranks; whether it took the request.

        Signals to srun itself would abort the step.
        """
        return self._step.ask_to_leave()

    def end(self) -> None:
        """End the step, and srun with it; one that stays although its step is gone is killed."""
        now = time.monotonic()
        self._alone_since = min(self._alone_since, now) if self._step.end() else float("inf")
        if now - self._alone_since > SRUN_SECONDS:
            self._process.kill()

    def failures(self) -> list[srun_output.Failure]:
        """The tasks that srun says have failed."""
        said = self._words()
        attempt_records.say(said.rstrip("\n"))
        return srun_output.failures(said)

    def _words(self) -> str:
        return self._said.read_text(errors="replace")


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
        self._failures: list[srun_output.Failure] = []
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
        self._note({rank: code for rank, code in enumerate(codes) if code})
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

    def end(self) -> None:
        """Kill all ranks."""
        self._kill()

    def failures(self) -> list[srun_output.Failure]:
        """The ranks that failed, in the order they were seen."""
        return self._failures

    def _note(self, failed: Mapping[int, int]) -> None:
        """Keep who failed first, and give the others some time to leave."""
        known = {failure.rank for failure in self._failures}
        node = os.uname().nodename
        self._failures += [
            srun_output.Failure(rank, node, code, is_cause=not known)
            for rank, code in failed.items()
            if rank not in known
        ]
        if failed and not self._code:
            codes = list(failed.values())
            self._code = next((code for code in codes if code in SUDDEN), codes[0])
            self._end_within(self._patience.peers_seconds)

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
    place: Place,
    task: specs.TaskSpec,
    environ: Mapping[str, str],
    patience: Patience,
    step: Step | None,
) -> Ranks:
    """Start all ranks of a task, as a step of the job or, without one, as processes of this
    machine; their output goes to ``ranks-<task>.log`` of the attempt.

    Raises:
        OSError: the program that starts them is missing, or the log cannot be written.
    """
    module = ["-u", "-m", "jobs", task.stage, str(place.run.root), str(task.index)]
    command = [*fill(task.python, place.run), *module]
    if step is not None:
        srun = srun_command(place, task)
        return SrunRanks([*srun, *command], environ, step, place.srun_log)
    ranks = [
        {**environ, "RANK": str(rank), "WORLD_SIZE": str(task.ranks), "LOCAL_RANK": str(rank)}
        for rank in range(task.ranks)
    ]
    return LocalRanks(command, ranks, place.ranks_log, patience)


def fill(words: Sequence[str], run: rundir.RunDir) -> list[str]:
    """Words of a command with the run directory in its place."""
    return [word.replace(RUN, str(run.root)) for word in words]


def srun_command(place: Place, task: specs.TaskSpec) -> list[str]:
    """srun's part of the command; block distribution puts rank 0 on the node of the batch step."""
    return [
        "srun",
        f"--job-name={place.step_name}",
        f"--ntasks={task.ranks}",
        f"--ntasks-per-node={task.ranks_per_node}",
        f"--cpus-per-task={task.cpus_per_rank}",
        "--distribution=block",
        "--kill-on-bad-exit=1",
        "--wait=60",
        "--unbuffered",
        "--label",
        f"--output={place.ranks_log}",
        "--open-mode=append",
        *fill(task.srun_args, place.run),
    ]


def rank_environment(
    place: Place, task: specs.TaskSpec, environ: Mapping[str, str], port: int
) -> dict[str, str]:
    """What every rank gets beside its number: where rank 0 listens, whose code runs, how many
    threads.
    """
    local = task.launcher == "local"
    cores = max(1, usable_cores() // task.ranks) if local else task.cpus_per_rank
    return {
        "MEDITRON_ATTEMPT": str(place.attempt),
        "MASTER_ADDR": "127.0.0.1" if task.nodes == 1 else socket.gethostname(),
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": environ.get("OMP_NUM_THREADS", str(cores)),
        # Tensor-parallel communication overlaps with computation only with one hardware queue.
        "CUDA_DEVICE_MAX_CONNECTIONS": environ.get("CUDA_DEVICE_MAX_CONNECTIONS", "1"),
        **(flight_recorder(place) if task.gpus_per_node else {}),
        **code_environment(place.run, environ),
    }


def flight_recorder(place: Place) -> dict[str, str]:
    """Variables that have torch write which collectives a rank was in when one timed out, as
    ``flight-<task>-<rank>`` of the attempt.

    Under new names and old ones (torch/csrc/distributed/c10d, FlightRecorder.hpp
    and ProcessGroupNCCL.hpp). Python's stacks are left out: taking them may wait for ever for the
    interpreter (NVIDIA resiliency extension). Unproven on hardware.
    """
    entries, files = "20000", str(place.folder / f"flight-{place.index:05d}-")
    return {
        "TORCH_FR_BUFFER_SIZE": entries,
        "TORCH_NCCL_TRACE_BUFFER_SIZE": entries,
        "TORCH_FR_DUMP_TEMP_FILE": files,
        "TORCH_NCCL_DEBUG_INFO_TEMP_FILE": files,
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "3",
        "TORCH_INCLUDE_STACK_TRACE": "false",
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
