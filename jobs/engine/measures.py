"""Measure a step's time by part, memory, and the norm of the parameters: no synchronisation with a
GPU of its own, but one collective per ``PERIOD`` steps, which the host waits for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed

from jobs.contract.stage_specs import ParallelSpec
from jobs.engine import device as devices

with devices.quiet():
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel import param_is_not_tensor_parallel_duplicate
    from megatron.core.transformer.module import param_is_not_shared

PERIOD = 10
"""Steps of which one metric line has speed, memory and norms."""


@dataclass(frozen=True)
class Figures:
    """Measured over the steps of a period, of all ranks."""

    param_norm: float
    data: float
    """Seconds in which a rank waited for samples, of the rank that waited longest."""
    communication: float
    """Seconds in reductions at the end of steps, the mean over ranks."""
    memory_bytes: int
    """The largest peak of a rank since its start."""


class Measures:
    """The measurements of one rank."""

    def __init__(self, optimizer: Any, parallel: ParallelSpec, device: torch.device) -> None:
        """Measure nothing yet.

        Args:
            optimizer: holds the fp32 parameters, or this rank's share of them.
            parallel: the layout.
            device: of this rank.
        """
        self._optimizer = optimizer
        self._device = device
        # Without the distributed optimizer every data-parallel rank holds the same parameters.
        apart = parallel.distributed_optimizer
        self._counts_parameters = apart or parallel_state.get_data_parallel_rank() == 0
        self._data = self._communication = 0.0
        self._step_start = (0.0, 0.0)
        self._paused = False
        self._events: list[tuple[Any, Any]] = []

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Count nothing in the block: it is no training step."""
        self._paused = True
        yield
        self._paused = False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Count the time of the block as waiting for samples."""
        started = time.perf_counter()
        yield
        if not self._paused:
            self._data += time.perf_counter() - started

    @contextmanager
    def communicating(self) -> Iterator[None]:
        """Count the time of the block as communication: on a GPU that of its stream, between two
        events, which wait for nothing.
        """
        if self._paused:
            yield
            return
        if devices.is_cpu(self._device):
            started = time.perf_counter()
            yield
            self._communication += time.perf_counter() - started
            return
        event: Any = torch.cuda.Event
        first, last = (event(enable_timing=True) for _ in range(2))
        first.record()
        yield
        last.record()
        self._events.append((first, last))

    def communicating_in(self, function: Callable[..., None]) -> Callable[..., None]:
        """Return a function whose time counts as communication."""

        def measured(*arguments: Any, **options: Any) -> None:
            with self.communicating():
                function(*arguments, **options)

        return measured

    def finish_step(self) -> tuple[float, float]:
        """Add the times of a step's events, all of which are over since the host has read the
        step's loss; return the seconds that the step waited for samples and communicated.
        """
        for first, last in self._events:
            self._communication += first.elapsed_time(last) / 1000
        self._events.clear()
        data, communication = self._step_start
        self._step_start = (self._data, self._communication)
        return self._data - data, self._communication - communication

    def discard(self) -> None:
        """Forget the steps since the last ``reduce``."""
        self._events.clear()
        self._data = self._communication = 0.0
        self._step_start = (0.0, 0.0)

    def reduce(self) -> Figures:
        """Return the figures of the steps since the last call. All ranks call it."""
        rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        rows = torch.zeros(size, 4, dtype=torch.float64, device=self._device)
        peak = devices.peak_memory_bytes(self._device)
        rows[rank, 1:] = torch.tensor([self._data, self._communication, peak])
        rows[rank, 0] = self._squares()
        torch.distributed.all_reduce(rows)
        self._data = self._communication = 0.0
        self._step_start = (0.0, 0.0)
        squares, data, communication, peaks = rows.cpu().T
        return Figures(
            param_norm=float(squares.sum().sqrt()),
            data=float(data.max()),
            communication=float(communication.mean()),
            memory_bytes=int(peaks.max()),
        )

    def _squares(self) -> torch.Tensor | float:
        """Return the sum of squares of the parameters that count on this rank, each on one rank
        only.
        """
        if not self._counts_parameters:
            return 0.0
        parameters = [
            parameter.detach()
            for parameter in self._optimizer.get_parameters()
            if param_is_not_shared(parameter) and param_is_not_tensor_parallel_duplicate(parameter)
        ]
        if not parameters:
            return 0.0
        norms = [torch.linalg.vector_norm(parameter) for parameter in parameters]
        return torch.stack(norms).double().square().sum()
