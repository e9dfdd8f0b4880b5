"""The ranks' process group, and the choice of CUDA or CPU. Torch is imported inside functions.

On CUDA nothing is replaced. On CPU, megatron.core calls ``torch.cuda`` in many places without a
check, so ``start`` installs stand-ins before the first import of megatron.core: every CUDA device
is the CPU, streams and events do nothing, the CUDA generator is torch's default one.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from jobs.contract.errors import TaskError
from jobs.engine.cpu_backend import _install_stand_ins

if TYPE_CHECKING:
    import torch

    from jobs.runtime.context import Context

T = TypeVar("T")

KINDS = ("cuda", "cpu")

COLLECTIVE_TIMEOUT = datetime.timedelta(minutes=30)
"""Longer than the slowest checkpoint write: a shorter one would kill a healthy run."""


def start(kind: str, rank: int, world_size: int, local_rank: int, threads: int = 0) -> torch.device:
    """Join the process group of all ranks and return this rank's device.

    Call it before the first import of megatron.core. ``MASTER_ADDR`` and ``MASTER_PORT`` are the
    rendezvous; a single rank needs neither. ``threads`` bounds the CPU threads of one rank where
    ``OMP_NUM_THREADS`` does not; 0 keeps torch's default.

    Raises:
        ValueError: a kind that is neither ``cuda`` nor ``cpu``.
        RuntimeError: ``cuda`` without a CUDA device for this rank.
    """
    if kind not in KINDS:
        raise ValueError(f"device {kind!r} is neither cuda nor cpu")
    import torch

    if kind == "cuda":
        if torch.cuda.device_count() <= local_rank:
            raise RuntimeError(
                f"rank {rank} needs CUDA device {local_rank}, "
                f"torch sees {torch.cuda.device_count()} on {os.uname().nodename}"
            )
        # One queue keeps kernels in the order of their launches, which overlapping communication of
        # tensor parallelism relies on (megatron/core/tensor_parallel/layers.py).
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
        torch.cuda.set_device(local_rank)
        device = torch.device("cuda", local_rank)
    else:
        device = torch.device("cpu")
        if threads and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(threads)
        _use_loopback_on_one_host(os.environ)
        _install_stand_ins()
    _quiet()
    _join(kind, rank, world_size)
    return device


def end() -> None:
    """Destroy the process group, if one was joined."""
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def session(context: Context, kind: str) -> Iterator[torch.device]:
    """Join the process group of a task's ranks, and leave it at the end of the block."""
    threads = context.task.cpus_per_rank
    device = start(kind, context.rank, context.world_size, context.local_rank, threads)
    try:
        yield device
    finally:
        end()


def decide_once(decision: Callable[[], T]) -> T:
    """Return rank 0's decision, or raise its error, on every rank.

    A decision that depends on files is made once, so that ranks cannot see two states of a file
    system.

    Raises:
        TaskError, OSError: as rank 0 raised it.
    """
    import torch.distributed

    outcome: list[Any] = [None, None]
    if torch.distributed.get_rank() == 0:
        try:
            outcome[0] = decision()
        except (TaskError, OSError) as error:
            outcome[1] = error
    torch.distributed.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    result: T = outcome[0]
    return result


def is_cpu(device: torch.device) -> bool:
    """Return whether the device is the CPU, with the stand-ins installed."""
    return device.type == "cpu"


def peak_memory_bytes(device: torch.device) -> int:
    """Return this rank's peak memory so far: of the GPU, or of the process without one."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _join(kind: str, rank: int, world_size: int) -> None:
    import torch.distributed
    from torch._C._distributed_c10d import HashStore

    alone = world_size == 1  # then no port is needed, which another task might take first
    torch.distributed.init_process_group(
        "nccl" if kind == "cuda" else "gloo",
        init_method=None if alone else "env://",
        store=HashStore() if alone else None,
        rank=rank,
        world_size=world_size,
        timeout=COLLECTIVE_TIMEOUT,
    )


def _use_loopback_on_one_host(environ: Mapping[str, str]) -> None:
    """Keep gloo from resolving the host name, which may fail, where all ranks share one host."""
    if environ.get("MASTER_ADDR", "127.0.0.1") in ("127.0.0.1", "localhost"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")


def _quiet() -> None:
    """Drop warnings that a user cannot act on.

    Torch announces renamed collectives that megatron.core still uses; megatron.core warns where it
    takes the CPU's generator for the GPU's.
    """
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    logging.getLogger("megatron.core.tensor_parallel.random").setLevel(logging.ERROR)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop megatron.core's warnings of optional packages; ``model`` warns of what matters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
