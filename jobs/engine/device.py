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
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from jobs.contract.errors import TaskError
from jobs.engine.cpu_backend import _install_stand_ins
from jobs.engine.profiling import flight_recorder

if TYPE_CHECKING:
    import torch

    from jobs.runtime.context import Context

T = TypeVar("T")

KINDS = ("cuda", "cpu")

GPU_PACKAGES = ("transformer_engine", "transformer_engine_torch", "apex", "amp_C", "flash_attn")

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
        number = device_number(local_rank, torch.cuda.device_count())
        # One queue keeps kernels in the order of their launches, which overlapping communication of
        # tensor parallelism relies on (megatron/core/tensor_parallel/layers.py).
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
        torch.cuda.set_device(number)
        device = torch.device("cuda", number)
    else:
        hide_gpu_packages()
        device = torch.device("cpu")
        if threads and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(threads)
        _use_loopback_on_one_host(os.environ)
        _install_stand_ins()
    _quiet()
    _join(device, rank, world_size)
    return device


def device_number(local_rank: int, visible: int) -> int:
    """Return which of the visible GPUs is a rank's: all of the node are visible, or its own alone,
    as with ``--gpus-per-task=1``. Where one GPU is visible to several ranks, NCCL refuses it (a
    duplicate GPU, init.cc).

    Raises:
        RuntimeError: the rank has no GPU.
    """
    if visible > local_rank:
        return local_rank
    if visible == 1:
        return 0
    raise RuntimeError(
        f"rank {local_rank} of node {os.uname().nodename} needs a GPU of its own, torch sees "
        f"{visible}"
    )


def hide_gpu_packages() -> None:
    """Make packages of GPU kernels not importable, before megatron.core looks for them: where they
    are installed it takes their optimizer and norms on any device.
    """
    for name in GPU_PACKAGES:
        sys.modules[name] = None  # type: ignore[assignment]  # the import system's own convention


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
    flight_recorder.answer_requests(context)
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


def from_all(work: Callable[[], T]) -> list[T]:
    """Return every rank's result, by rank; an error of one is raised on all.

    Raises:
        OSError: of the lowest rank that raised one.
    """
    import torch.distributed

    outcome: T | OSError
    try:
        outcome = work()
    except OSError as error:
        outcome = error
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, outcome)
    for part in gathered:
        if isinstance(part, OSError):
            raise part
    return gathered


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


def _join(device: torch.device, rank: int, world_size: int) -> None:
    import torch.distributed
    from torch._C._distributed_c10d import HashStore

    alone = world_size == 1  # then no port is needed, which another task might take first
    torch.distributed.init_process_group(
        **backend(device),
        init_method=None if alone else "env://",
        store=HashStore() if alone else None,
        rank=rank,
        world_size=world_size,
        timeout=COLLECTIVE_TIMEOUT,
    )


def backend(device: torch.device) -> dict[str, Any]:
    """Return the options that choose how ranks communicate. NCCL is bound to the device: it does
    not guess it from the rank's number, and fails at the start where the device is unusable.
    """
    if device.type == "cuda":
        return {"backend": "nccl", "device_id": device}
    return {"backend": "gloo"}


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
