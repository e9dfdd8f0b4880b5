"""Start, stop and kill a task's ranks: an srun step, or processes of this machine."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from jobs.contract import rundir, specs
from jobs.contract.job import usable_cores
from jobs.runtime import determinism
from jobs.slurm import srun_output
from jobs.supervision.attempt_records import AttemptRef
from jobs.supervision.ranks.local_ranks import LeaveTimeouts, LocalRanks
from jobs.supervision.ranks.srun_ranks import SrunRanks, Step, fill, srun_command

INHERITED = frozenset(
    {
        "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK",
        "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE",
    }
)  # fmt: skip
"""Of torchrun and its like (torch/distributed/elastic/agent/server/local_elastic_agent.py)."""
ALLOCATOR = frozenset({"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"})
SIOCGIFADDR = 0x8915
"""linux/sockios.h"""

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
    environ = without_inherited(environ)
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


def without_inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without the variables by which a surrounding launcher numbers its
    ranks: torch would read them (distributed/rendezvous.py, TORCHELASTIC_USE_AGENT_STORE).
    """
    return {
        name: value
        for name, value in environ.items()
        if name not in INHERITED and not name.startswith("TORCHELASTIC_")
    }


def rank_environment(
    attempt: AttemptRef, task: specs.TaskSpec, environ: Mapping[str, str], port: int
) -> dict[str, str]:
    """Return the variables that all ranks share: the rendezvous address, the run's code, the number
    of threads.
    """
    local, interface = task.launcher == "local", task.site.network_interface
    cores = max(1, usable_cores() // task.ranks) if local else task.cpus_per_rank
    return {
        "MEDITRON_ATTEMPT": str(attempt.number),
        "MASTER_ADDR": master_address(task),
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": environ.get("OMP_NUM_THREADS", str(cores)),
        # Tensor-parallel communication overlaps with computation only with one hardware queue.
        "CUDA_DEVICE_MAX_CONNECTIONS": environ.get("CUDA_DEVICE_MAX_CONNECTIONS", "1"),
        **(sockets(interface, environ) if task.nodes > 1 and interface else {}),
        **(flight_recorder(attempt, old_names=task.gpus_per_node > 0) if task.ranks > 1 else {}),
        **(gpu_environment(task, environ) if task.gpus_per_node else {}),
        **determinism.variables(task),
        **code_environment(attempt.run, environ),
    }


def master_address(task: specs.TaskSpec) -> str:
    """Return where rank 0 is found, on this host: by its address on the site's interface for ranks,
    else by its name, which may resolve to a slower or unreachable network.

    Raises:
        OSError: there is no such interface, or it has no IPv4 address.
    """
    if task.nodes == 1:
        return "127.0.0.1"
    interface = task.site.network_interface
    return interface_address(interface) if interface else socket.gethostname()


def interface_address(interface: str) -> str:
    """Return the IPv4 address of a network interface of this host (netdevice(7)).

    Raises:
        OSError: there is no such interface, or it has no IPv4 address.
    """
    request = struct.pack("256s", interface.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            answer = fcntl.ioctl(any_socket, SIOCGIFADDR, request)
        except OSError as error:
            names = ", ".join(name for _, name in socket.if_nameindex())
            raise OSError(
                error.errno,
                f"environment.network_interface: {interface!r} has no IPv4 address on "
                f"{socket.gethostname()}, which has the interfaces {names}",
            ) from error
    return socket.inet_ntoa(answer[20:24])


def sockets(interface: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that bind NCCL's and gloo's own connections to an interface."""
    names = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
    return {name: environ.get(name, interface) for name in names}


def gpu_environment(task: specs.TaskSpec, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of the allocator and of compilers, unless the site sets them. Unproven
    on hardware.

    The allocator extends segments instead of adding others, which leaves fewer gaps; the name of
    its variable changed with torch 2.9. Compiled kernels have a folder on the node, since Triton's
    default lies in HOME, which a container may lack or share between nodes. A rank compiles in
    its own process: torch would start up to 32 for each rank (_inductor/config.py).
    """
    folder = environ.get("TMPDIR", "/tmp") if task.scratch_dir else "/tmp"
    compiled = f"{folder}/meditron-compiled-{os.getuid()}"
    own = {
        "TRITON_CACHE_DIR": f"{compiled}/triton",
        "TORCHINDUCTOR_CACHE_DIR": f"{compiled}/inductor",
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }
    if not ALLOCATOR & environ.keys():
        own |= dict.fromkeys(sorted(ALLOCATOR), "expandable_segments:True")
    return {name: environ.get(name, value) for name, value in own.items()}


def flight_recorder(attempt: AttemptRef, *, old_names: bool) -> dict[str, str]:
    """Return the variables with which torch records the collectives of a rank, and writes them to
    ``flight-<task>-<rank>`` of the attempt when one times out in NCCL.

    Names: torch/csrc/distributed/c10d, FlightRecorder.hpp and ProcessGroupNCCL.hpp; the old ones
    are those of NCCL before torch 2.8. Python's stacks are left out: taking them may wait without
    end for the interpreter (NVIDIA resiliency extension). Unproven on hardware.
    """
    entries, prefix = "20000", str(attempt.folder / f"flight-{attempt.index:05d}-")
    old = {"TORCH_NCCL_TRACE_BUFFER_SIZE": entries, "TORCH_NCCL_DEBUG_INFO_TEMP_FILE": prefix}
    return {
        **(old if old_names else {}),
        "TORCH_FR_BUFFER_SIZE": entries,
        "TORCH_FR_DUMP_TEMP_FILE": prefix,
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
