"""Sum up the samples of an attempt on one node: energy, extremes and means per GPU. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jobs.health.sample import Gpu, GpuMemory, Sample, Unknown, value_or_none

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
    """Up to the newest reading of its counter."""
    since: float = 0.0
    """Power times time after that reading."""
    counter: int | None = None
    """The newest reading."""
    by_counter: bool = True
    utilisation: Mean = field(default_factory=Mean)
    power: Mean = field(default_factory=Mean)
    temperature: Mean = field(default_factory=Mean)
    memory_temperature: Mean = field(default_factory=Mean)
    sm_clock: Mean = field(default_factory=Mean)
    memory: Mean = field(default_factory=Mean)
    uuid: str | None = None
    """As it was read last."""
    name: str | None = None

    def add(self, gpu: Gpu, time: float) -> None:
        """Add a sample, the first one too."""
        self._add_energy(gpu, time - self.time)
        self.newest, self.time = gpu, time
        self.uuid = value_or_none(gpu.uuid) or self.uuid
        self.name = value_or_none(gpu.name) or self.name
        self.utilisation.add(gpu.utilisation)
        self.power.add(gpu.power)
        self.temperature.add(gpu.temperature)
        self.memory_temperature.add(gpu.memory_temperature)
        self.sm_clock.add(gpu.sm_clock)
        if isinstance(gpu.memory, GpuMemory):
            self.memory.add(gpu.memory.used)

    def _add_energy(self, gpu: Gpu, seconds: float) -> None:
        """Add the energy since the sample before: by the counter, which also knows of the time in
        which it was not read, else power times time.
        """
        if isinstance(gpu.power, int) and seconds <= LONGEST_GAP_SECONDS:
            self.since += gpu.power / MILLI * max(0.0, seconds)  # the clock may be set back
        if not isinstance(gpu.energy, int):
            return
        if self.counter is not None and gpu.energy >= self.counter:
            self.joules += (gpu.energy - self.counter) / MILLI
        else:  # the first reading, or the first since the driver was loaded again
            self.joules += self.since
            self.by_counter = self.by_counter and not self.since
        self.since, self.counter = 0.0, gpu.energy

    @property
    def energy(self) -> float | None:
        """Return the joules so far; None where neither its counter nor its power was read."""
        known = self.counter is not None or self.power.count
        return self.joules + self.since if known else None

    @property
    def source(self) -> str:
        """Return the source of the energy: ``counter``, or ``power`` for any part of it."""
        if self.energy is None:
            return ""
        return "power" if self.counter is None or self.since or not self.by_counter else "counter"

    def to_json(self) -> dict[str, Any]:
        """Return the summary in watts, joules, degrees, MHz and bytes."""
        gpu = self.newest
        return {
            "index": gpu.index,
            "uuid": self.uuid,
            "name": self.name,
            "utilisation": self.utilisation.to_json(),
            "power_w": self.power.to_json(MILLI),
            "temperature": self.temperature.to_json(),
            "memory_temperature": self.memory_temperature.to_json(),
            "sm_clock_mhz": self.sm_clock.to_json(),
            "memory_bytes": self.memory.to_json(),
            "energy_j": None if self.energy is None else round(self.energy, 1),
            "energy_source": self.source,
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
        sources = {gpu.source for gpu in gpus} - {""}
        return {
            "samples": self.samples,
            "newest": [newest(gpu.newest) for gpu in gpus],
            "energy_j": round(sum(gpu.energy or 0.0 for gpu in gpus), 1),
            "energy_source": max(sources, default=""),
            "gpus": [gpu.to_json() for gpu in gpus],
        }


NEWEST = ("utilisation", "power", "temperature", "memory_temperature", "sm_clock")


def newest(gpu: Gpu) -> dict[str, Any]:
    """Return the newest readings of a GPU in its probes' units; None for one that was not read."""
    values = {name: getattr(gpu, name) for name in NEWEST}
    plain = {name: None if isinstance(v, Unknown) else v for name, v in values.items()}
    used = gpu.memory.used if isinstance(gpu.memory, GpuMemory) else None
    return {"index": gpu.index, **plain, "memory_used": used}
