"""Stand-ins that let megatron.core run on CPU ranks."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

NORM_BLOCK = 1024
"""Squares that one norm adds up."""


class _Stream:
    """A stand-in for a CUDA stream or event: on the CPU, work is complete when a call returns."""

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
    """A stand-in for torch.cuda.nvtx, which marks ranges for a profiler."""

    def range_push(self, *args: Any) -> None:
        del args

    def range_pop(self) -> None:
        return


def _install_stand_ins() -> None:
    """Make ``torch.cuda`` mean the CPU, once per process."""
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
    _replace(torch, {"norm": _in_blocks(torch.norm)})
    _replace(torch.linalg, {"vector_norm": _in_blocks(torch.linalg.vector_norm)})
    # By name, so before the names mean others: or `with torch.device("meta")` would do nothing.
    torch.utils._device._device_constructors()
    # Compiled code is not used on CPU, and importing the compiler costs each process a second.
    _replace(torch, {"compile": _skip_compile, **_factories(here)})


def _functions(here: torch.device) -> dict[str, Any]:
    import torch

    def get_state(device: Any = None) -> torch.Tensor:
        del device
        return torch.get_rng_state()

    def set_state(state: torch.Tensor, device: Any = None) -> None:
        del device
        torch.set_rng_state(state)

    def seed(number: int) -> None:
        torch.default_generator.manual_seed(number)  # torch.manual_seed calls this function

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


def _in_blocks(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Return a norm of whole tensors that adds up the norms of blocks. Torch's on CPU adds up all
    squares in float32, one behind the other: with 4 million elements it errs by 1e-4.
    """
    import torch

    whole = torch.linalg.vector_norm

    @functools.wraps(plain)
    def norm(values: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs or values.numel() <= NORM_BLOCK:
            return plain(values, *args, **kwargs)
        flat = values.reshape(-1)
        end = flat.numel() // NORM_BLOCK * NORM_BLOCK
        rows = whole(flat[:end].view(-1, NORM_BLOCK), dim=1)
        return norm(torch.cat([rows, whole(flat[end:])[None]]))

    return norm


def _itself(owner: Any, *args: Any, **kwargs: Any) -> Any:
    del args, kwargs
    return owner


def _skip_compile(function: Any = None, **kwargs: Any) -> Any:
    del kwargs
    return function if function is not None else (lambda inner: inner)


def _replace(owner: Any, names: Mapping[str, Any]) -> None:
    for name, value in names.items():
        setattr(owner, name, value)


def _factories(here: torch.device) -> dict[str, Any]:
    """Return torch's tensor factories, changed to use the CPU for ``device="cuda"``.

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
    """Return a ``Tensor.type`` with CUDA names, the only ones megatron.core's optimizers accept."""

    def type_name(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        kind = plain(self, *args, **kwargs)
        return kind.replace("torch.", "torch.cuda.", 1) if isinstance(kind, str) else kind

    return type_name
