"""CUDA or CPU: the only module that knows. Torch is imported inside functions.

On CUDA nothing is replaced. On CPU, megatron.core calls ``torch.cuda`` in many places without
asking, so ``start`` puts stand-ins there before megatron.core is imported for the first time: every
CUDA device is the CPU, streams and events do nothing, the CUDA generator is torch's default one.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from jobs.contract.errors import TaskError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

KINDS = ("cuda", "cpu")

COLLECTIVE_TIMEOUT = datetime.timedelta(minutes=30)
"""Longer than the slowest checkpoint write: a shorter one would end a healthy run."""


def start(kind: str, rank: int, world_size: int, local_rank: int, threads: int = 0) -> torch.device:
    """Join the process group of all ranks and answer this rank's device.

    Must come before the first import of megatron.core. ``MASTER_ADDR`` and ``MASTER_PORT`` name the
    meeting point; a single rank needs neither. ``threads`` bounds CPU threads of one rank where
    ``OMP_NUM_THREADS`` does not; 0 leaves them to torch.

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
        # One queue keeps kernels in the order they were asked for, which overlapping communication
        # of tensor parallelism relies on (megatron/core/tensor_parallel/layers.py).
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
        torch.cuda.set_device(local_rank)
        found = torch.device("cuda", local_rank)
    else:
        found = torch.device("cpu")
        if threads and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(threads)
        _use_loopback_on_one_host(os.environ)
        _install_stand_ins()
    _quiet()
    _join(kind, rank, world_size)
    return found


def end() -> None:
    """Leave the process group; harmless when none was joined."""
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def decide_once(decision: Callable[[], T]) -> T:
    """Let rank 0 decide for all: its answer, or the error it met, reaches every rank.

    What depends on files is decided once, so that ranks cannot see two states of a file system.

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
    answer: T = outcome[0]
    return answer


def is_cpu(device: torch.device) -> bool:
    """Whether the stand-ins are in place."""
    return device.type == "cpu"


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory this rank has held so far: of the GPU, or of the process where there is none."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _join(kind: str, rank: int, world_size: int) -> None:
    import torch.distributed
    from torch._C._distributed_c10d import HashStore

    alone = world_size == 1  # and needs no port, which another task might take first
    torch.distributed.init_process_group(
        "nccl" if kind == "cuda" else "gloo",
        init_method=None if alone else "env://",
        store=HashStore() if alone else None,
        rank=rank,
        world_size=world_size,
        timeout=COLLECTIVE_TIMEOUT,
    )


def _use_loopback_on_one_host(environ: Mapping[str, str]) -> None:
    """Spare gloo the host name, which need not resolve where all ranks share one host."""
    if environ.get("MASTER_ADDR", "127.0.0.1") in ("127.0.0.1", "localhost"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")


class _Stream:
    """A CUDA stream or event with nothing to wait for: work is over when a call returns."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs

    def _nothing(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs

    wait_stream = wait_event = synchronize = wait = record = _nothing

    def record_event(self, event: Any = None) -> Any:
        return event or _Stream()

    def query(self) -> bool:
        return True


class _Markers:
    """Profiler ranges nobody reads."""

    def range_push(self, *args: Any) -> None:
        del args

    def range_pop(self) -> None:
        return


def _install_stand_ins() -> None:
    """Make ``torch.cuda`` mean the CPU, once a process."""
    import torch
    import torch._dynamo  # torch's optimizers load it; it indexes torch.cuda, so it must come first

    here = torch.device("cpu")
    if hasattr(torch.cuda, "stood_in_for"):
        return
    _replace(torch.cuda, _functions(here))
    _replace(
        torch.cuda.random,
        {"get_rng_state": torch.cuda.get_rng_state, "set_rng_state": torch.cuda.set_rng_state},
    )
    _replace(torch.Tensor, {"cuda": _itself, "type": _type_name(torch.Tensor.type)})
    _replace(torch.nn.Module, {"cuda": _itself})
    # Nothing compiled is used on CPU, and importing the compiler costs each process a second.
    _replace(torch, {"compile": _leave_uncompiled, **_factories(here)})


def _functions(here: torch.device) -> dict[str, Any]:
    import torch

    def get_state(device: Any = None) -> torch.Tensor:
        del device
        return torch.get_rng_state()

    def set_state(state: torch.Tensor, device: Any = None) -> None:
        del device
        torch.set_rng_state(state)

    def seed(number: int) -> None:
        torch.default_generator.manual_seed(number)  # torch.manual_seed would come back here

    def nothing(*args: Any, **kwargs: Any) -> None:
        del args, kwargs

    def zero(*args: Any, **kwargs: Any) -> int:
        del args, kwargs
        return 0

    stream = _Stream()
    return {
        "stood_in_for": True,
        "current_device": lambda: here,
        "device_count": lambda: 1,
        "set_device": nothing,
        "synchronize": nothing,
        "empty_cache": nothing,
        "Stream": _Stream,
        "Event": _Stream,
        "current_stream": lambda device=None: stream,
        "default_stream": lambda device=None: stream,
        "set_stream": nothing,
        "stream": lambda stream: contextlib.nullcontext(),
        "manual_seed": seed,
        "manual_seed_all": seed,
        "get_rng_state": get_state,
        "set_rng_state": set_state,
        "default_generators": {here: torch.default_generator},
        "_lazy_call": lambda call, **kwargs: call(),
        "_lazy_init": nothing,
        "nvtx": _Markers(),
        "memory_allocated": zero,
        "max_memory_allocated": zero,
        "memory_reserved": zero,
        "FloatTensor": torch.FloatTensor,
        "HalfTensor": torch.HalfTensor,
        "BFloat16Tensor": torch.BFloat16Tensor,
    }


def _itself(owner: Any, *args: Any, **kwargs: Any) -> Any:
    del args, kwargs
    return owner


def _leave_uncompiled(function: Any = None, **kwargs: Any) -> Any:
    del kwargs
    return function if function is not None else (lambda inner: inner)


def _replace(owner: Any, names: Mapping[str, Any]) -> None:
    for name, value in names.items():
        setattr(owner, name, value)


def _factories(here: torch.device) -> dict[str, Any]:
    """Functions of torch that make tensors: on the CPU where the caller says ``device="cuda"``.

    Plain functions, since a torch function mode is off in ``backward``, which recomputes layers.
    """
    import torch

    def on_cpu(make: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(make)
        def made(*args: Any, **kwargs: Any) -> Any:
            if str(kwargs.get("device", "")).startswith("cuda"):
                kwargs["device"] = here
            return make(*args, **kwargs)

        return made

    names = ("tensor", "zeros", "ones", "empty", "full", "arange", "rand", "randn")
    likes = ("zeros_like", "ones_like", "empty_like", "full_like")
    return {name: on_cpu(getattr(torch, name)) for name in (*names, *likes)}


def _type_name(plain: Callable[..., Any]) -> Callable[..., Any]:
    """``Tensor.type`` that names a CUDA type, the only ones megatron.core's optimizers take."""

    def type_name(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        found = plain(self, *args, **kwargs)
        return found.replace("torch.", "torch.cuda.", 1) if isinstance(found, str) else found

    return type_name


def _quiet() -> None:
    """Keep out of the log what nobody who trains can act on.

    Torch announces renamed collectives that megatron.core still uses; megatron.core warns where it
    takes the CPU's generator for the GPU's.
    """
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    logging.getLogger("megatron.core.tensor_parallel.random").setLevel(logging.ERROR)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop megatron.core's warnings of optional packages; what matters of them we say ourselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
