"""Recorders of a rank's steps: torch's profiler, and NVIDIA Nsight Systems around the process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from jobs.runtime import nsys
from jobs.runtime.profile_record import ProfileRequest

MEMORY_EVENTS = 1_000_000
"""Allocations in a memory snapshot of a GPU, the newest (``torch.cuda.memory``)."""


class Recorder(Protocol):
    """A recorder of the steps that follow a warm-up step."""

    def start(self) -> None:
        """Begin with the warm-up."""
        ...

    def step(self) -> None:
        """Note the end of a step, the warm-up's first."""
        ...

    def stop(self) -> None:
        """End, also before the last step."""
        ...

    def write(self, stem: Path) -> tuple[str, str]:
        """Stop, and write files whose names begin so; return the names of the trace, and of the
        memory snapshot or an empty one.
        """
        ...


def recorder(request: ProfileRequest, device: torch.device) -> Recorder:
    """Return the recorder that a request names."""
    if request.nsys:
        return NsysRecorder(request)
    return TorchRecorder(request, device)


class TorchRecorder:
    """Torch's profiler."""

    def __init__(self, request: ProfileRequest, device: torch.device) -> None:
        on_gpu = device.type == "cuda"
        gpu = [ProfilerActivity.CUDA] if on_gpu else []
        self._snapshot = request.memory and on_gpu
        self._profile = profile(
            activities=[ProfilerActivity.CPU, *gpu],
            schedule=schedule(wait=0, warmup=1, active=request.steps, repeat=1),
            profile_memory=request.memory and not on_gpu,
            on_trace_ready=lambda result: None,
        )

    def start(self) -> None:
        if self._snapshot:
            torch.cuda.memory._record_memory_history(max_entries=MEMORY_EVENTS)
        self._profile.start()

    def step(self) -> None:
        self._profile.step()

    def stop(self) -> None:
        self._profile.stop()
        if self._snapshot:
            torch.cuda.memory._record_memory_history(enabled=None)

    def write(self, stem: Path) -> tuple[str, str]:
        memory = Path("")
        if self._snapshot:
            memory = stem.with_name(f"{stem.name}.memory.pickle")
            torch.cuda.memory._dump_snapshot(str(memory))  # type: ignore[no-untyped-call]
        self.stop()
        trace = stem.with_name(f"{stem.name}.trace.json")
        part = trace.with_name(f".{trace.name}")
        self._profile.export_chrome_trace(str(part))
        part.replace(trace)
        return trace.name, memory.name


class NsysRecorder:
    """Nsight Systems, which has started this process (``jobs.runtime.nsys``)."""

    def __init__(self, request: ProfileRequest) -> None:
        """Refuse a process that nsys has not started.

        Raises:
            RuntimeError: it is not installed on this node.
        """
        if os.environ.get(nsys.VARIABLE) != request.name:
            raise RuntimeError(f"nsys is not on PATH of {os.uname().nodename}")
        self._is_warm = False

    def start(self) -> None:
        pass

    def step(self) -> None:
        if not self._is_warm:
            torch.cuda.profiler.start()  # type: ignore[no-untyped-call]
        self._is_warm = True

    def stop(self) -> None:
        torch.cuda.profiler.stop()  # type: ignore[no-untyped-call]

    def write(self, stem: Path) -> tuple[str, str]:
        self.stop()
        return f"{stem.name}{nsys.SUFFIX}", ""
