"""Compute GPU-hours, energy, emissions and price of a training from its time. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meditron_cli.config.cluster_schema import Accounting


@dataclass(frozen=True)
class Footprint:
    """The cost of a training; None where the profile lacks a figure."""

    gpu_hours: float
    kwh: float | None
    """At the wall: the data centre's overhead included, where its PUE is given."""
    kg_co2: float | None
    price: float | None


def footprint(seconds: float, gpus: int, gpu_watts: float, accounting: Accounting) -> Footprint:
    """Return the footprint of GPUs under full load for so long.

    Energy is power times time times PUE; emissions are energy times the grid's factor (Lacoste et
    al. 2019, arXiv 1910.09700). MEDITRON's 42,496 GPU-hours at 650 W, 1.1 and 0.016 kg/kWh give its
    486 kg.
    """
    hours = seconds * gpus / 3600
    kwh = hours * gpu_watts / 1000 * (accounting.pue or 1.0) if gpu_watts else None
    factor, price = accounting.kg_co2_per_kwh, accounting.price_per_gpu_hour
    return Footprint(
        gpu_hours=hours,
        kwh=kwh,
        kg_co2=None if kwh is None or factor is None else kwh * factor,
        price=None if price is None else hours * price,
    )
