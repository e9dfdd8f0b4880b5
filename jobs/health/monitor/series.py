"""The newest samples of a node, and those of one of its GPUs or ports, oldest first. Pure."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.health.sample import Gpu, Port, Sample, Unknown

WINDOW_SECONDS = 600.0
"""Time that the rules look back."""
LASTING_SECONDS = 240.0
"""Time for which a state must last before it is reported. Faults last longer than five minutes
(Minder, arXiv 2411.01791, which waits for four)."""

LOADED = 50
"""Utilisation in per cent from which a GPU counts as under load."""


@dataclass(frozen=True)
class GpuSeries:
    """The samples of one GPU."""

    first: Gpu
    """Of the attempt, which may be older than the window."""
    times: tuple[float, ...]
    gpus: tuple[Gpu, ...]

    @property
    def newest(self) -> Gpu:
        """Return the newest sample."""
        return self.gpus[-1]

    def values(self, name: str) -> list[tuple[float, Any]]:
        """Return times and values of a field, where it was read."""
        pairs = (
            (moment, getattr(gpu, name)) for moment, gpu in zip(self.times, self.gpus, strict=True)
        )
        return [pair for pair in pairs if not isinstance(pair[1], Unknown)]

    def lasting(self, name: str) -> list[Any]:
        """Return the values of a field in the last ``LASTING_SECONDS``; none where the samples do
        not reach back so far, or one was not read.
        """
        start = self.times[-1] - LASTING_SECONDS
        if self.times[0] > start:
            return []
        values = [
            getattr(gpu, name)
            for moment, gpu in zip(self.times, self.gpus, strict=True)
            if moment >= start
        ]
        return [] if any(isinstance(value, Unknown) for value in values) else values

    def is_loaded(self) -> bool:
        """Return whether the GPU was under load in all of the last ``LASTING_SECONDS``."""
        values = self.lasting("utilisation")
        return bool(values) and min(values) >= LOADED

    def mean(self, name: str) -> float | None:
        """Return the mean of a field in the last ``LASTING_SECONDS``; None where not known."""
        values = self.lasting(name)
        return statistics.fmean(values) if values else None


class NodeSeries:
    """The samples of a node, of the last ``WINDOW_SECONDS`` and the first one of the attempt."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque()
        self._first_gpus: dict[int, Gpu] = {}
        self.first: Sample | None = None

    def add(self, sample: Sample) -> None:
        """Append a sample; forget those before the window, or all where the clock was set back."""
        self.first = self.first or sample
        for gpu in sample.gpus:
            self._first_gpus.setdefault(gpu.index, gpu)
        if self._samples and sample.time < self._samples[-1].time:
            self._samples.clear()
        self._samples.append(sample)
        while self._samples[0].time < sample.time - WINDOW_SECONDS:
            self._samples.popleft()

    def uuid(self, index: int) -> str:
        """Return the UUID that a GPU had at first: one that is lost returns none."""
        first = self._first_gpus.get(index)
        return first.uuid if first and isinstance(first.uuid, str) else ""

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._samples)

    @property
    def newest(self) -> Sample:
        """Return the newest sample."""
        return self._samples[-1]

    def last(self, count: int) -> Sequence[Sample]:
        """Return the newest ``count`` samples; none where there are fewer."""
        return () if len(self._samples) < count else list(self._samples)[-count:]

    def gpus(self) -> list[GpuSeries]:
        """Return the series of each GPU that the newest sample has."""
        rows: dict[int, list[tuple[float, Gpu]]] = {gpu.index: [] for gpu in self.newest.gpus}
        for sample in self._samples:
            for gpu in sample.gpus:
                if gpu.index in rows:
                    rows[gpu.index].append((sample.time, gpu))
        return [
            GpuSeries(
                self._first_gpus[index],
                tuple(moment for moment, _ in row),
                tuple(gpu for _, gpu in row),
            )
            for index, row in rows.items()
        ]

    def ports(self) -> Iterator[tuple[Port, list[tuple[float, Port]]]]:
        """Yield each port of the newest sample as it was first, and its series."""
        firsts = _ports(self.first)
        for name in _ports(self.newest):
            row = [
                (sample.time, port)
                for sample in self._samples
                if (port := _ports(sample).get(name)) is not None
            ]
            yield firsts.get(name, row[0][1]), row


def _ports(sample: Sample | None) -> dict[str, Port]:
    if sample is None or isinstance(sample.host.ports, Unknown):
        return {}
    return {port.name: port for port in sample.host.ports}


def rise(values: Iterable[tuple[float, int]]) -> int:
    """Return by how much a counter rose; one that was reset counts from zero. A zero among others
    adds nothing: it is a reset, after which the next value counts, or a file that was not readable.
    """
    total, before = 0, None
    for _, value in values:
        if before and not value:
            continue
        if before is not None:
            total += value - before if value >= before else value
        before = value
    return total
