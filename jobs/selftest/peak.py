"""Measure the peak memory of a part of a program, on one rank."""

from __future__ import annotations

from pathlib import Path

import torch

from jobs.engine import device as devices

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""Sets the peak of this process's memory to what it has now (proc_pid_clear_refs(5))."""


class Peak:
    """The peak from its creation on: of the GPU with CUDA's context and NCCL's buffers, or what
    this process has allocated beyond what it had before.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = 0
        if not devices.is_cpu(device):
            torch.cuda.reset_peak_memory_stats(device)
            return
        CLEAR.write_text(RESET_PEAK)
        self._before = _kibibytes("VmRSS")

    def bytes(self) -> int:
        """Return the peak."""
        if devices.is_cpu(self._device):
            return (_kibibytes("VmHWM") - self._before) * 1024
        free, total = torch.cuda.mem_get_info(self._device)
        outside = total - free - torch.cuda.memory_reserved(self._device)
        return int(torch.cuda.max_memory_reserved(self._device) + outside)


def _kibibytes(name: str) -> int:
    """Return a figure of /proc/self/status."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise ValueError(f"{STATUS} has no {name}")
