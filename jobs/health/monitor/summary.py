"""Sum up the samples of an attempt on one node: energy, extremes and means per GPU. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jobs.health.sample import Gpu, GpuMemory, Sample, Unknown

MILLI = 1000.0
LONGEST_GAP_SECONDS = 120.0
"""Between two samples for which the power of the newer one counts: a reader that was stuck does
not know the time between."""


@dataclass
class Mean:
    """A running mean with its extremes."""

    count: int = 0
    total: float = 0.0
    least: float = float("inf")
    most: float = float("-inf")

    def add(self, value: float | Unknown) -> None:
        """Add a value, unless it was not read."""
        if isinstance(value, Unknown):
            return
        self.count += 1
        self.total += value
        self.least, self.most = min(self.least, value), max(self.most, value)

    def to_json(self, scale: float = 1.0) -> dict[str, float] | None:
        """Return mean and extremes; None without a value."""
        if not self.count:
            return None
        values = {"mean": self.total / self.count, "min": self.least, "max": self.most}
        return {name: round(value / scale, 1) for name, value in values.items()}


@dataclass
class GpuSummary:
    """The summary of one GPU."""

    newest: Gpu
    time: float
    joules: float = 0.0
    """From its counter, else power times time."""
    by_counter: bool = True
    utilisation: Mean = field(default_factory=Mean)
    power: Mean = field(default_factory=Mean)
    temperature: Mean = field(default_factory=Mean)
    memory_temperature: Mean = field(default_factory=Mean)
    sm_clock: Mean = field(default_factory=Mean)
    memory: Mean = field(default_factory=Mean)

    def add(self, gpu: Gpu, time: float) -> None:
        """Add a sample, the first one too."""
        self._add_energy(self.newest, gpu, time - self.time)
        self.newest, self.time = gpu, time
        self.utilisation.add(gpu.utilisation)
        self.power.add(gpu.power)
        self.temperature.add(gpu.temperature)
        self.memory_temperature.add(gpu.memory_temperature)
        self.sm_clock.add(gpu.sm_clock)
        if isinstance(gpu.memory, GpuMemory):
            self.memory.add(gpu.memory.used)

    def _add_energy(self, before: Gpu, after: Gpu, seconds: float) -> None:
        first, last = before.energy, after.energy
        if isinstance(first, int) and isinstance(last, int) and last >= first:
            self.joules += (last - first) / MILLI
        elif isinstance(after.power, int) and seconds <= LONGEST_GAP_SECONDS:
            self.joules += after.power / MILLI * seconds
            self.by_counter = False

    def to_json(self) -> dict[str, Any]:
        """Return the summary in watts, joules, degrees, MHz and bytes."""
        gpu = self.newest
        return {
            "index": gpu.index,
            "uuid": None if isinstance(gpu.uuid, Unknown) else gpu.uuid,
            "name": None if isinstance(gpu.name, Unknown) else gpu.name,
            "utilisation": self.utilisation.to_json(),
            "power_w": self.power.to_json(MILLI),
            "temperature": self.temperature.to_json(),
            "memory_temperature": self.memory_temperature.to_json(),
            "sm_clock_mhz": self.sm_clock.to_json(),
            "memory_bytes": self.memory.to_json(),
            "energy_j": round(self.joules, 1),
            "energy_source": "counter" if self.by_counter else "power",
        }


class NodeSummary:
    """The summary of a node's samples."""

    def __init__(self) -> None:
        self.samples = 0
        self._gpus: dict[int, GpuSummary] = {}

    def add(self, sample: Sample) -> None:
        """Add a sample."""
        self.samples += 1
        for gpu in sample.gpus:
            self._gpus.setdefault(gpu.index, GpuSummary(gpu, sample.time)).add(gpu, sample.time)

    def to_json(self) -> dict[str, Any]:
        """Return the summaries of all GPUs, their energy, and the newest readings."""
        gpus = list(self._gpus.values())
        return {
            "samples": self.samples,
            "newest": [newest(gpu.newest) for gpu in gpus],
            "energy_j": round(sum(gpu.joules for gpu in gpus), 1),
            "energy_source": "counter" if all(gpu.by_counter for gpu in gpus) else "power",
            "gpus": [gpu.to_json() for gpu in gpus],
        }


NEWEST = ("utilisation", "power", "temperature", "memory_temperature", "sm_clock")


def newest(gpu: Gpu) -> dict[str, Any]:
    """Return the newest readings of a GPU in its probes' units; None for one that was not read."""
    values = {name: getattr(gpu, name) for name in NEWEST}
    plain = {name: None if isinstance(v, Unknown) else v for name, v in values.items()}
    used = gpu.memory.used if isinstance(gpu.memory, GpuMemory) else None
    return {"index": gpu.index, **plain, "memory_used": used}
