"""Units of measure, and the footprint of a training. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

GIB = 2**30
"""Bytes. Every size named ``_gb`` is in this unit."""


JOULES_PER_KWH = 3.6e6

Moment = float
"""Seconds since 1970, of a time that a calendar has: ``json_fields`` refuses others."""


@dataclass(frozen=True)
class Footprint:
    """The cost of a training; None where a figure is not known."""

    gpu_hours: float
    kwh: float | None
    """At the wall: the data centre's overhead included, where its PUE is given."""
    kg_co2: float | None
    price: float | None

    @classmethod
    def of(
        cls, gpu_hours: float, gpu_kwh: float | None, accounting: Mapping[str, Any]
    ) -> Footprint:
        """Return the footprint of GPU-hours and the energy of the GPUs.

        Emissions are energy times PUE times the grid's factor (Lacoste et al. 2019, arXiv
        1910.09700). MEDITRON's 42,496 GPU-hours at 650 W, 1.1 and 0.016 kg/kWh give its 486 kg.

        Args:
            gpu_hours: GPUs times the time that they were allocated.
            gpu_kwh: None where it is not known.
            accounting: ``pue``, ``kg_co2_per_kwh`` and ``price_per_gpu_hour`` of the profile, each
                None where it is not known.
        """
        kwh = None if gpu_kwh is None else gpu_kwh * (accounting.get("pue") or 1.0)
        factor, price = accounting.get("kg_co2_per_kwh"), accounting.get("price_per_gpu_hour")
        return cls(
            gpu_hours=gpu_hours,
            kwh=kwh,
            kg_co2=None if kwh is None or factor is None else kwh * factor,
            price=None if price is None else gpu_hours * price,
        )


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: ``1 task``, ``3 tasks``. The plural of the noun ends in s."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def ranges_text(numbers: Iterable[int]) -> str:
    """Return ascending numbers with consecutive ones together: ``7, 9-12``."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)
