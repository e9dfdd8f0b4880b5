"""Start, stop and kill a task's ranks: an srun step, or processes of this machine."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from jobs.contract import rundir, specs
from jobs.contract.job import usable_cores
from jobs.slurm import srun_output
from jobs.supervision.attempt_records import AttemptRef
from jobs.supervision.ranks.local_ranks import LeaveTimeouts, LocalRanks
from jobs.supervision.ranks.srun_ranks import SrunRanks, Step, fill, srun_command

PORTS = range(20000, 30000)
"""Below the ports that kernels give to outgoing connections."""


class Ranks(Protocol):
    """The processes of one task."""

    def poll(self) -> int | None:
        """Return None while any rank runs, else 0 or the code of the first that failed (negative: a
        signal).
        """
        ...

    def stop(self) -> bool:
        """Request all ranks to save and exit; return whether the request has reached them."""
        ...

    def end(self) -> None:
        """Kill all ranks; ``poll`` shows when they are gone."""
        ...

    def failures(self) -> list[srun_output.FailedTask]:
        """Return the ranks that failed, once all are gone."""
        ...


def start(
    attempt: AttemptRef,
    task: specs.TaskSpec,
    environ: Mapping[str, str],
    timeouts: LeaveTimeouts,
    step: Step | None,
) -> Ranks:
    """Start all ranks of a task, as a step of the job or, without one, as processes of this
    machine; their output goes to ``ranks-<task>.log`` of the attempt.

    Raises:
        OSError: the program that starts them is missing, or the log cannot be written.
    """
    module = ["-u", "-m", "jobs", task.stage, str(attempt.run.root), str(task.index)]
    command = [*fill(task.python, attempt.run), *module]
    if step is not None:
        srun = srun_command(attempt, task)
        return SrunRanks([*srun, *command], environ, step, attempt.srun_log)
    environments = [
        {**environ, "RANK": str(rank), "WORLD_SIZE": str(task.ranks), "LOCAL_RANK": str(rank)}
        for rank in range(task.ranks)
    ]
    return LocalRanks(command, environments, attempt.ranks_log, timeouts)


def rank_environment(
    attempt: AttemptRef, task: specs.TaskSpec, environ: Mapping[str, str], port: int
) -> dict[str, str]:
    """Return the variables that all ranks share: the rendezvous address, the run's code, the number
    of threads.
    """
    local = task.launcher == "local"
    cores = max(1, usable_cores() // task.ranks) if local else task.cpus_per_rank
    return {
        "MEDITRON_ATTEMPT": str(attempt.number),
        "MASTER_ADDR": "127.0.0.1" if task.nodes == 1 else socket.gethostname(),
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": environ.get("OMP_NUM_THREADS", str(cores)),
        # Tensor-parallel communication overlaps with computation only with one hardware queue.
        "CUDA_DEVICE_MAX_CONNECTIONS": environ.get("CUDA_DEVICE_MAX_CONNECTIONS", "1"),
        **(flight_recorder(attempt) if task.gpus_per_node else {}),
        **code_environment(attempt.run, environ),
    }


def flight_recorder(attempt: AttemptRef) -> dict[str, str]:
    """Return the variables with which torch records the collectives of a rank when one times out,
    in ``flight-<task>-<rank>`` of the attempt.

    Under new names and old ones (torch/csrc/distributed/c10d, FlightRecorder.hpp
    and ProcessGroupNCCL.hpp). Python's stacks are left out: taking them may wait without end for
    the interpreter (NVIDIA resiliency extension). Unproven on hardware.
    """
    entries, prefix = "20000", str(attempt.folder / f"flight-{attempt.index:05d}-")
    return {
        "TORCH_FR_BUFFER_SIZE": entries,
        "TORCH_NCCL_TRACE_BUFFER_SIZE": entries,
        "TORCH_FR_DUMP_TEMP_FILE": prefix,
        "TORCH_NCCL_DEBUG_INFO_TEMP_FILE": prefix,
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "3",
        "TORCH_INCLUDE_STACK_TRACE": "false",
    }


def code_environment(run: rundir.RunDir, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that put the run's own code before the site's."""
    path = os.pathsep.join(filter(None, (str(run.code), environ.get("PYTHONPATH", ""))))
    return {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


@contextmanager
def reserved_port() -> Iterator[int]:
    """Reserve a port of this host until rank 0 listens on it.

    The socket keeps other programs, and other tasks that start at this moment, from binding the
    port; SO_REUSEADDR, set only after binding, lets rank 0 bind it (socket(7)).

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
